"""One broken plugin breaks itself alone (fault 45)."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import fashionbatch
from fashionbatch import plugins, registry
from fashionbatch.errors import PluginError, UnknownNameError, UsageError
from fashionbatch.plugins import Plugin
from fashionbatch.sources import open_source

pytestmark = pytest.mark.usefixtures("fresh_plugins")

HEAD = "from fashionbatch.hookspecs import hookimpl\nfrom fashionbatch.specs import *\n"
GOOD = HEAD + (
    "@hookimpl\ndef fashionbatch_schedules():\n"
    "    yield ScheduleSpec(name='linear', factory='nowhere:linear', summary='')\n"
)
BROKEN = {
    "import-error": ("import a_package_that_is_not_there", "a_package_that_is_not_there"),
    "system-exit": ("raise SystemExit('licence missing')", "licence missing"),
    "zero-division": ("1 / 0", "ZeroDivisionError"),
    "syntax-error": ("def (", "SyntaxError"),
    "misspelled-hook": (
        HEAD + "@hookimpl\ndef fashionbatch_scheduls():\n    return []\n",
        "fashionbatch_scheduls",
    ),
    "raises-half-way": (GOOD + "    raise RuntimeError('half-way')\n", "half-way"),
    "unmarked-hook": (GOOD.replace("@hookimpl\n", ""), "not marked"),
    "wrong-spec": (
        HEAD + "@hookimpl\ndef fashionbatch_schedules():\n"
        "    yield OptimizerSpec(name='x', factory=len, summary='')\n",
        "ScheduleSpec, not OptimizerSpec",
    ),
    "not-a-spec": (HEAD + "@hookimpl\ndef fashionbatch_schedules():\n    yield 'x'\n", "not str"),
    "not-iterable": (HEAD + "@hookimpl\ndef fashionbatch_schedules():\n    return 3\n", "int"),
    "bad-name": (GOOD.replace("'linear', f", "'Li near', f"), "Li near"),
    "bad-factory": (GOOD.replace("nowhere:linear", "nowhere"), "nowhere"),
    "takes-arguments": (GOOD.replace("_schedules()", "_schedules(config)"), "config"),
    "yields-twice": (GOOD + GOOD.splitlines()[-1] + "\n", "twice"),
}

Photo = Callable[..., bytes]
Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install("acme", code)`` makes a distribution of that name on ``sys.path``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, code: str, *, entry: str | None = None, metadata: bool = True) -> str:
        module = f"{name}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            (info / "METADATA").write_text(text)
        (info / "entry_points.txt").write_text(f"[fashionbatch]\n{entry or name} = {module}\n")
        plugins.discover.cache_clear()
        return module

    return make


def one(name: str) -> Plugin:
    return next(p for p in plugins.discover() if p.name == name)


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_45_broken_plugin_breaks_itself_alone(install: Install, fault: str) -> None:
    """Fault 45: a broken plugin gives nothing, says why, and all others go on."""
    code, reason = BROKEN[fault]
    install("acme", code)
    install("good", GOOD.replace("linear", "good-one"))
    broken = one("acme")
    assert broken.status == "broken" and broken.components == ()
    assert reason in broken.error and "\n" not in broken.error
    assert "Traceback" in broken.traceback
    assert broken.label == "acme 1.0"
    assert one("good").status == "ok" and one("builtin").status == "ok"
    assert registry.find("schedule", "good-one").provider == "good"
    assert registry.find("schedule", "step").provider == "fashionbatch"


def test_broken_plugin_is_named_where_its_component_is_missed(install: Install) -> None:
    """Fault 45: who asks for what is not there learns that a plugin is broken."""
    install("acme", "raise SystemExit('licence missing')")
    with pytest.raises(UnknownNameError, match="acme 1.0 is broken.*licence missing"):
        registry.find("schedule", "linear")


def test_strict_makes_a_broken_plugin_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 45: FASHIONBATCH_STRICT=1 refuses; without a broken plugin it changes nothing."""
    monkeypatch.setenv("FASHIONBATCH_STRICT", "1")
    install("good", GOOD)
    assert one("good").status == "ok"
    install("acme", "1 / 0")
    with pytest.raises(PluginError, match="acme.*ZeroDivisionError"):
        plugins.discover()


def test_broken_metadata_breaks_its_plugin_alone(install: Install) -> None:
    """Fault 45: a distribution without METADATA does not stop discovery."""
    install("acme", GOOD, metadata=False)
    assert one("builtin").status == "ok"
    assert one("acme").distribution


def test_environment_chooses_plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """FASHIONBATCH_PLUGINS: only those named are imported; empty loads none but ours."""
    install("acme", GOOD)
    install("other", "raise SystemExit('never imported')")
    for allowed, acme, other in (
        ("acme", "ok", "disabled"),
        (" acme , nothing", "ok", "disabled"),
        ("", "disabled", "disabled"),
    ):
        monkeypatch.setenv("FASHIONBATCH_PLUGINS", allowed)
        plugins.discover.cache_clear()
        assert (one("acme").status, one("other").status) == (acme, other)
        assert one("builtin").status == "ok"
    assert one("acme").components == ()


def test_switched_off_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By ``plugins disable``, for all later commands; the environment goes before it."""
    monkeypatch.setenv("FASHIONBATCH_CONFIG", str(tmp_path / "config"))
    install("acme", "import pathlib\npathlib.Path('imported').touch()\n" + GOOD)
    monkeypatch.chdir(tmp_path)
    plugins.switch("acme", on=False)
    assert one("acme").status == "disabled" and "plugins enable acme" in one("acme").disabled
    assert not (tmp_path / "imported").exists()
    plugins.switch("acme", on=True)
    assert one("acme").status == "ok" and (tmp_path / "imported").exists()
    plugins.switch("acme", on=False)
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "acme")
    plugins.discover.cache_clear()
    assert one("acme").status == "ok"
    with pytest.raises(UsageError, match="part of fashionbatch"):
        plugins.switch("builtin", on=False)
    with pytest.raises(UnknownNameError, match="did you mean 'acme'"):
        plugins.switch("acne", on=False)


def test_damaged_switches_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line says which file to delete; help does not need it."""
    monkeypatch.setenv("FASHIONBATCH_CONFIG", str(tmp_path))
    (tmp_path / "plugins.json").write_text("{")
    with pytest.raises(PluginError, match=r"plugins\.json is damaged.*delete it"):
        plugins.discover()


COMMAND = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str = "world"):
    "Say hello."
    typer.echo(f"hello {name}")
def plain(count: int):
    "Count."
    typer.echo(count + 1)
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``foreign("hello = MODULE:app", code)``: a package with commands; returns its folder."""
    monkeypatch.setenv("FASHIONBATCH_CONFIG", str(tmp_path / "config"))

    def make(entries: str, code: str, *, plugin: str = "") -> str:
        site = tmp_path / "site"
        info = site / "acme-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "acme_commands.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fashionbatch.commands]\n{entries}\n{plugin}")
        return str(site)

    return make


def typed(site: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process, in which the package is installed."""
    return subprocess.run(
        [sys.executable, "-m", "fashionbatch", *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": site, **environment}, check=False,
    )  # fmt: skip


def test_commands_of_other_packages(foreign: Callable[..., str]) -> None:
    """Listed with their package, imported when they are called, an app or a plain function."""
    entries = "hello = acme_commands:app\ncount = acme_commands:plain\ntrain = acme_commands:app"
    site = foreign(entries, "print('imported')\n" + COMMAND)
    shown = typed(site, "--help")
    assert "Commands of other packages" in shown.stdout and "imported" not in shown.stdout
    assert shown.stdout.count("of the package acme 1.0") == 2  # train is ours
    assert typed(site, "hello", "--name", "Ada").stdout.splitlines() == ["imported", "hello Ada"]
    assert typed(site, "count", "2").stdout.splitlines() == ["imported", "3"]
    assert "Say hello" not in typed(site, "train", "--help").stdout


@pytest.mark.parametrize(
    "code", ["import nothing_like_that", "raise SystemExit(7)", "app = 1 / 0", "other = 1"]
)
def test_broken_command_breaks_itself_alone(foreign: Callable[..., str], code: str) -> None:
    """Fault 45: everything else works, and calling it names the package in one line."""
    site = foreign("hello = acme_commands:app", code)
    assert typed(site, "--help").returncode == typed(site, "recipes").returncode == 0
    called = typed(site, "hello")
    assert called.returncode == 1 and "Traceback" not in called.stderr
    assert "'hello' of acme 1.0 cannot be imported" in called.stderr


def test_commands_of_what_is_switched_off(foreign: Callable[..., str]) -> None:
    """They go with the package's plugin."""
    plugin = "[fashionbatch]\nacme = acme_commands\n"
    site = foreign("hello = acme_commands:app", COMMAND, plugin=plugin)
    assert typed(site, "hello").returncode == 0
    assert typed(site, "hello", FASHIONBATCH_PLUGINS="").returncode == 2
    assert typed(site, "plugins", "disable", "acme").returncode == 0
    assert typed(site, "hello").returncode == 2


def test_nobody_else_is_builtin(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's entry point called builtin is disabled like any other."""
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "")
    install("acme", "raise SystemExit", entry="builtin")
    states = {p.distribution: p.status for p in plugins.discover()}
    assert states["acme"] == "disabled" and states["fashionbatch"] == "ok"
    assert plugins.discover()[0].distribution == "fashionbatch"


def test_name_clash_needs_the_provider(install: Install) -> None:
    """Fault 45: of two packages with one name neither is taken silently; provider:name chooses."""
    install("acme", GOOD)
    install("other", GOOD)
    with pytest.raises(UsageError, match="acme:linear or other:linear"):
        registry.find("schedule", "linear")
    assert registry.find("schedule", "acme:linear").provider == "acme"
    assert registry.find("schedule", "other:linear").provider == "other"
    with pytest.raises(UnknownNameError, match="third is not installed: pip install third"):
        registry.find("schedule", "third:linear")


def test_nothing_shadows_a_built_in(install: Install) -> None:
    """Fault 45: its name leads where it led before; the other one is typed with its package."""
    install("acme", GOOD.replace("name='linear'", "name='step'"))
    assert registry.find("schedule", "step").provider == "fashionbatch"
    assert registry.find("schedule", "acme:step").provider == "acme"
    assert registry.find("schedule", "fashionbatch:step").provider == "fashionbatch"


def test_broken_detect_leaves_folders_readable(install: Install, tmp_path: Path) -> None:
    """Fault 45: a plugin's source that cannot tell does not stop those that can."""
    text = HEAD + (
        "@hookimpl\ndef fashionbatch_sources():\n"
        "    yield SourceSpec(name='zip', factory=len, summary='', detect='not_there:is_zip')\n"
        "    yield SourceSpec(name='bad', factory=len, summary='', detect=lambda path: 1 / 0)\n"
    )
    install("acme", text)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"x")
    assert [i.name for i in open_source(folder).items()] == ["1.jpg"]


ZIP = HEAD + (
    "import zipfile\n"
    "from fashionbatch import Failure, Item, Source\n"
    "class Zip(Source):\n"
    "    def __init__(self, path, *, label='none'):\n"
    "        self.path, self.label = path, label\n"
    "    def items(self):\n"
    "        yield Failure(name='comment', stage='source', reason='not an image')\n"
    "        for name in zipfile.ZipFile(self.path).namelist():\n"
    "            yield Item(name=name, label=self.label)\n"
    "    def read(self, item):\n"
    "        return zipfile.ZipFile(self.path).read(item.name)\n"
    "@hookimpl\ndef fashionbatch_sources():\n"
    "    yield SourceSpec(name='zip', factory=Zip, summary='',\n"
    "        detect=lambda path: path.suffix == '.zip')\n"
)


def test_source_of_a_plugin_is_packed(install: Install, tmp_path: Path, photo: Photo) -> None:
    """It is recognized, takes its own options, reads in the workers, and reports failures."""
    install("acme", ZIP)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.jpg", photo(number))
    made = fashionbatch.shard(
        tmp_path / "photos.zip",
        output=tmp_path / "set",
        source_type="zip:label=hat",
        samples_per_shard=1,
        workers=2,
        split="train=1",
    )
    assert (made["items"], made["failed"]) == (4, 1)
    shards = fashionbatch.open_shards(tmp_path / "set")
    assert shards.classes == ("hat",)
    assert sorted(shards.read(row) for row in range(4)) == sorted(photo(n) for n in range(4))
    fashionbatch.shard(tmp_path / "photos.zip", output=tmp_path / "recognized")
    with pytest.raises(UnknownNameError, match="colour"):
        fashionbatch.shard(
            tmp_path / "photos.zip", output=tmp_path / "x", source_type="zip:colour=red"
        )


def test_listing_imports_no_torch() -> None:
    """Specs are listed without importing torch or the components."""
    code = (
        "import sys; from fashionbatch import plugins; found = plugins.discover();"
        "assert found[0].status == 'ok', found[0].traceback; assert len(found[0].components) > 80;"
        "bad = {'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_discovery_happens_once(install: Install) -> None:
    """Hooks are called once per process."""
    module = install("acme", GOOD.replace("    yield", "    CALLS.append(1)\n    yield"))
    path = Path(sys.path[0]) / f"{module}.py"
    path.write_text("CALLS = []\n" + path.read_text())
    plugins.discover()
    registry.components("schedule")
    registry.components("optimizer")
    assert one("acme").status == "ok"
    assert sys.modules[module].CALLS == [1]


def test_a_misspelled_hook_says_which_was_meant(install: Install) -> None:
    """In one line, without what Python calls the module."""
    install("acme", "import fashionbatch\n@fashionbatch.hookimpl\n"
            "def fashionbatch_optimisers():\n    return []\n")  # fmt: skip
    [plugin] = [p for p in plugins.discover() if p.name == "acme"]
    assert plugin.status == "broken"
    assert plugin.error.startswith(
        "unknown hook 'fashionbatch_optimisers': did you mean 'fashionbatch_optimizers'?"
    )
    assert "<module" not in plugin.error
