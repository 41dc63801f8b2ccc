"""What `fashionbatch plugins new` writes works at once, and is fashionbatch-hello."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import plugins, scaffold
from fashionbatch.errors import OutputExistsError, UnknownNameError, UsageError

HELLO = Path(__file__).parents[1] / "plugins" / "fashionbatch-hello"
#: of a clone, where fashionbatch lies beside its plugins
CLONE = """\
[tool.uv.sources]
# in a clone, fashionbatch is the one beside this plugin
fashionbatch = { path = "../..", editable = true }

"""


def ran(
    *arguments: object, cwd: Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A real process."""
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def files(folder: Path) -> dict[str, str]:
    found = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix(): path.read_text()
        for name, path in found
        if not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }


def test_hello_is_what_is_written() -> None:
    """Neither drifts from the other; it has a component of every kind."""
    hello = files(HELLO)
    assert CLONE in hello["pyproject.toml"]
    hello["pyproject.toml"] = hello["pyproject.toml"].replace(CLONE, "")
    assert hello == scaffold.render("hello", plugins.KINDS)
    found = next(p for p in plugins.discover() if p.name == "hello")
    assert [kind for kind, _ in found.components] == list(plugins.KINDS)


def test_each_kind_alone_is_clean(tmp_path: Path) -> None:
    """No import is missing or left over, and no line is too long, by the package's own rules."""
    for kind in plugins.KINDS:
        folder = scaffold.create(f"my-{kind}", (kind,), tmp_path / kind)
        text = "".join(files(folder).values())
        assert "hello" not in text.lower()
        assert f"def fashionbatch_{kind}s" in text
        assert text.count("@fashionbatch.hookimpl") == 1
    for check in (["check"], ["format", "--check"]):
        ran(sys.executable, "-m", "ruff", *check, ".", cwd=tmp_path)


def test_works_at_once(tmp_path: Path) -> None:
    """Written by the command, built, installed: it lists, checks and passes its own tests."""
    command = [sys.executable, "-m", "fashionbatch", "plugins"]
    written = ran(*command, "new", "my-own", "--kind", "source", cwd=tmp_path)
    folder = tmp_path / "fashionbatch-my-own"
    lines = written.stdout.splitlines()
    assert "pip install " in lines[0] and lines[0].endswith(" -e ./fashionbatch-my-own")
    # uv installs into this environment, whether a shell has activated it or not
    assert lines[0].startswith("pip ") or sys.prefix in lines[0]
    assert lines[1:] == [
        "fashionbatch plugins check my-own",
        "python -m pytest ./fashionbatch-my-own",
    ]
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "..", cwd=folder)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    path = {"PYTHONPATH": str(tmp_path / "site")}
    listed = json.loads(ran(*command, "list", "--json", cwd=tmp_path, **path).stdout)
    mine = next(p for p in listed if p["name"] == "my-own")
    assert (mine["distribution"], mine["status"]) == ("fashionbatch-my-own", "ok")
    assert mine["components"] == {"source": ["my-own-list"]}
    tested = ran(sys.executable, "-m", "pytest", "-q", folder, cwd=tmp_path, **path)
    assert "4 passed" in tested.stdout


@pytest.mark.slow
def test_installs_with_pip(tmp_path: Path) -> None:
    """In a virtual environment of its own, by the commands that are told."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    known = "".join(f"import site; site.addsitedir({p!r})\n" for p in site.getsitepackages())
    (packages / "these.pth").write_text(known)
    fashionbatch = [python, "-m", "fashionbatch", "plugins"]
    written = ran(*fashionbatch, "new", "mine", cwd=tmp_path)
    install, check, test = (line.split() for line in written.stdout.splitlines())
    assert install[:2] == ["pip", "install"] and test[:2] == ["python", "-m"]
    # what it needs is there: the index is not asked
    ran(python, "-m", *install, "--no-build-isolation", "--no-deps", cwd=tmp_path)
    told = ran(python, "-m", *check, cwd=tmp_path).stdout
    assert "1 plugin, 3 components, 0 problems" in told
    assert "failed" not in ran(python, *test[1:], "-q", cwd=tmp_path).stdout
    shutil.rmtree(environment)


@pytest.mark.parametrize(
    "name", ["", "Mine", "my_own", "my--own", "-own", "2d", "fashionbatch-mine", "../mine", "a b"]
)
def test_names_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lower case letters and digits"):
        scaffold.create(name, ("optimizer",), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither a folder with something in it nor a file; an empty folder is filled."""
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(OutputExistsError, match="-o"):
            scaffold.create("mine", ("optimizer",), taken)
    assert files(tmp_path) == {"notes.txt": "mine"}
    (tmp_path / "empty").mkdir()
    assert scaffold.create("mine", ("optimizer",), tmp_path / "empty").name == "empty"


def test_misuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from fashionbatch.cli import app

    monkeypatch.chdir(tmp_path)
    for arguments, line in (
        (["mine", "--kind", "optimiser"], "did you mean 'optimizer'"),
        (["mine", "--kind", ""], "at least one kind"),
        (["hello"], "'hello' of fashionbatch-hello 0.1.0 is installed"),
    ):
        with pytest.raises(SystemExit) as end:
            app.main(["plugins", "new", *arguments])
        assert end.value.code == 2
        assert line in capsys.readouterr().err
    with pytest.raises(UnknownNameError):
        scaffold.create("mine", ("hat",), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_pytest_is_needed_by_the_fixtures_alone() -> None:
    """Whoever does not test needs no pytest."""
    package = Path(scaffold.__file__).parent
    needing = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "import pytest" in path.read_text() and "template" not in path.parts
    ]
    assert needing == ["testing/fixtures.py"]
