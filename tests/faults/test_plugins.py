"""A host with eight kinds of faulty packages installed at once, in real processes (fault 45)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import fashionbatch
from fashionbatch import api
from tests.benchmarks import startup

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"

HOOK = """
import fashionbatch

@fashionbatch.hookimpl
def fashionbatch_optimizers():
    yield fashionbatch.OptimizerSpec(name="twin", factory="collections:OrderedDict", summary="")
"""
SHADOW = (
    HOOK.replace("twin", "adam")
    + """
@fashionbatch.hookimpl
def fashionbatch_engines():
    yield fashionbatch.EngineSpec(name="eager", factory="nowhere:Engine", summary="")

@fashionbatch.hookimpl
def fashionbatch_backbones():
    yield fashionbatch.BackboneSpec(
        name="small-resnet", factory="nowhere:Net", summary="", blocks=("a",), cam_layer="a",
        preprocessing=fashionbatch.Preprocessing(),
    )
"""
)


class Fault(NamedTuple):
    """A package's module, and what is said of it: nothing of one that can be loaded."""

    code: str
    cause: str = ""


FAULTS = {
    "imports": Fault("import a_package_that_is_not_there", "a_package_that_is_not_there"),
    "exits": Fault("raise SystemExit('licence missing')", "SystemExit: licence missing"),
    "half-way": Fault(HOOK + "    raise RuntimeError('half-way')\n", "RuntimeError: half-way"),
    "misspelled": Fault(HOOK.replace("_optimizers", "_optimisers"), "fashionbatch_optimisers"),
    "signature": Fault(HOOK.replace("optimizers()", "optimizers(config)"), "config"),
    "shadow": Fault(SHADOW),
    "twin-one": Fault(HOOK),
    "twin-two": Fault(HOOK),
    "newer": Fault(HOOK.replace("summary", "fused=True, summary"), "newer fashionbatch"),
}
BROKEN = {name for name, fault in FAULTS.items() if fault.cause}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, installed; each says in ``imported/`` that it was imported."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "imported").mkdir()
    for name, fault in FAULTS.items():
        module = f"faulty_{name.replace('-', '_')}"
        mark = f"import pathlib; pathlib.Path(__file__, '../imported/{name}').resolve().touch()\n"
        (folder / f"{module}.py").write_text(mark + fault.code)
        info = folder / f"faulty_{name.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: faulty-{name}\nVersion: 1.2.3\n"
        )
        (info / "entry_points.txt").write_text(f"[fashionbatch]\n{name} = {module}\n")
    return folder


def typed(
    site: Path, *arguments: object, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``fashionbatch ...`` in a process of its own, where the packages are installed."""
    done = subprocess.run(
        [sys.executable, "-m", "fashionbatch", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=site,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def states(site: Path, **environment: str) -> dict[str, dict[str, str]]:
    told = typed(site, "plugins", "list", "--json", **environment).stdout
    return {plugin["name"]: plugin for plugin in json.loads(told)}


def test_lists_go_on(site: Path) -> None:
    assert "resnet50" in typed(site, "backbones").stdout


@pytest.mark.slow
def test_work_goes_on(site: Path, tmp_path: Path) -> None:
    """A plan and a prediction, by the built-in components that others shadow."""
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=16, epochs=1, workers=0,
        device="cpu", output=tmp_path, name="run",
    )  # fmt: skip
    planned = typed(
        site, "train", "--data", SAMPLE, "--backbone", "small-resnet", "--weights", "none",
        "--opt", "adam", "--device", "cpu", "--dry-run",
    )  # fmt: skip
    assert "small-resnet of fashionbatch" in planned.stdout
    assert planned.stderr.count("is broken and left out") == len(BROKEN)
    typed(
        site, "predict", SAMPLE, "--split", "test", "--limit-per-split", "test=8",
        "--engine", "eager", "--workers", 1, "--device", "cpu", "--model", tmp_path / "run",
        "-o", tmp_path / "p.h5",
    )  # fmt: skip
    with fashionbatch.open_predictions(tmp_path / "p.h5") as predictions:
        assert len(predictions) == 8


def test_each_is_listed_with_package_version_and_cause(site: Path) -> None:
    listed = states(site)
    assert listed["builtin"]["status"] == "ok"
    for name, fault in FAULTS.items():
        plugin = listed[name]
        assert (plugin["distribution"], plugin["version"]) == (f"faulty-{name}", "1.2.3")
        assert plugin["status"] == ("broken" if fault.cause else "ok")
        assert fault.cause in plugin["error"] and "\n" not in plugin["error"]
        assert bool(plugin["error"]) == bool(fault.cause)
    shown = typed(site, "plugins", "list").stdout
    assert all(f"faulty-{name}" in shown for name in FAULTS)


def test_details_have_the_traceback(site: Path) -> None:
    shown = typed(site, "plugins", "show", "half-way").stdout
    assert "Traceback (most recent call last)" in shown and "faulty_half_way.py" in shown
    assert "RuntimeError: half-way" in shown


def test_check_names_what_cannot_be_used(site: Path) -> None:
    """Components that cannot be imported, or whose name leads to another package's."""
    told = json.loads(typed(site, "plugins", "check", "shadow", "--json", code=1).stdout)
    problems = " ".join(p["problem"] for p in told["problems"])
    assert "optimizer adam" in problems and "it is typed faulty-shadow:adam" in problems
    assert "nowhere:Engine cannot be imported" in problems
    told = json.loads(typed(site, "plugins", "check", "twin-one", "--json", code=1).stdout)
    assert [p["problem"] for p in told["problems"]] == [
        "optimizer twin: faulty-twin-two 1.2.3 has one of that name, too: "
        "it is typed faulty-twin-one:twin"
    ]


def test_strict_stops(site: Path) -> None:
    """At the first of them, with its package; one that is left out does not count."""
    told = typed(site, "backbones", code=1, FASHIONBATCH_STRICT="1").stderr
    assert "is broken" in told and "1.2.3" in told and "FASHIONBATCH_STRICT=1" in told
    typed(site, "backbones", FASHIONBATCH_STRICT="1", FASHIONBATCH_PLUGINS="twin-one")


def test_what_is_left_out_or_switched_off_is_not_imported(site: Path, tmp_path: Path) -> None:
    """By the list of those that are allowed, and by ``plugins disable``."""
    imported = site / "imported"

    def left() -> set[str]:
        names = {path.name for path in imported.iterdir()}
        for name in names:
            (imported / name).unlink()
        return names

    left()
    listed = states(site, FASHIONBATCH_PLUGINS="twin-one")
    assert left() == {"twin-one"}
    assert {n for n, p in listed.items() if p["status"] == "ok"} == {"builtin", "twin-one"}
    off = {"FASHIONBATCH_CONFIG": str(tmp_path)}
    typed(site, "plugins", "disable", "exits", **off)
    assert "exits" not in left()
    listed = states(site, **off)
    assert left() == FAULTS.keys() - {"exits"}
    assert listed["exits"]["status"] == "disabled"
    assert "plugins enable exits" in listed["exits"]["disabled"]


def test_help_imports_none(site: Path) -> None:
    """What is not needed to say what commands there are is left alone."""
    for path in (site / "imported").iterdir():
        path.unlink()
    assert "Commands" in typed(site, "--help").stdout
    assert list((site / "imported").iterdir()) == []


def test_twenty_plugins_cost_no_heavy_import(tmp_path: Path) -> None:
    """Help names their commands, and neither it nor a list imports torch or numpy."""
    startup.install(tmp_path)
    code = (
        "import sys\n"
        "from fashionbatch.cli import app\n"
        "try:\n    app.main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'h5py', 'matplotlib', 'PIL', 'webdataset'}\n"
        "    assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "    small = [name for name in sys.modules if name.startswith('small_')]\n"
        "    print('imported', len(small))\n"
    )
    for arguments, imported in ((["--help"], 0), (["plugins", "list"], startup.COUNT)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("small-") >= startup.COUNT
        assert done.stdout.splitlines()[-1] == f"imported {imported}"
