from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fashionbatch
from fashionbatch import api, folders
from fashionbatch.errors import UnknownNameError, UsageError


def test_public_names():
    """Every public name can be imported."""
    for name in fashionbatch.__all__:
        assert getattr(fashionbatch, name) is not None
    with pytest.raises(AttributeError):
        fashionbatch.nothing  # noqa: B018


def test_import_is_light():
    """Importing fashionbatch imports nothing heavy."""
    code = "import sys, fashionbatch; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_find_run(tmp_path, monkeypatch):
    """A run is found by path, by name below runs/, by its files; the newest one without a name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no trained model"):
        folders.find_run(None)
    for number, name in enumerate(("b", "a", "unfinished")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if name != "unfinished":
            path = tmp_path / "runs" / name / "model.json"
            path.write_text("{}")
            os.utime(path, (number, number))
    assert folders.find_run(None) == Path("runs/a")
    assert folders.find_run(Path("b")) == Path("runs/b")
    assert folders.find_run(Path("runs/b/model.json")) == Path("runs/b")
    with pytest.raises(UsageError, match="no such run"):
        folders.find_run(Path("c"))


def test_data_sets(tmp_path, monkeypatch):
    """Without data sets the way to make one is told; damaged ones are passed over."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="fashionbatch shard FOLDER"):
        folders.find_data()
    (tmp_path / "shards" / "x").mkdir(parents=True)
    (tmp_path / "shards" / "x" / "dataset.json").write_text("{")
    assert folders.data_sets() == []


def test_unknown_option(tmp_path):
    """An option that there is not is refused with the nearest."""
    with pytest.raises(UnknownNameError, match="did you mean 'output'"):
        api.shard(tmp_path, outputs="x")
    with pytest.raises(UsageError, match="--topk 0"):
        api.predict(tmp_path, topk=0)


def test_no_public_name_is_a_module_of_ours() -> None:
    """Importing such a module would put it in the place of the function."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(fashionbatch.__path__)}
    assert modules.isdisjoint(fashionbatch.__all__)
