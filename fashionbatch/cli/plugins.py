"""``fashionbatch plugins``."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fashionbatch.cli.console import safe, say, show_json, show_table
from fashionbatch.cli.options import Json
from fashionbatch.errors import UnknownNameError, UsageError, counted

app = typer.Typer(help="List, show, check, switch and write plugins.", no_args_is_help=True)


def _about(plugin: Any) -> dict[str, Any]:
    components: dict[str, list[str]] = {}
    for kind, spec in plugin.components:
        components.setdefault(kind, []).append(spec.name)
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "error": plugin.error,
        "disabled": plugin.disabled,
        "deprecated": list(plugin.deprecated),
        "components": components,
    }


@app.command("list")
def list_plugins(json: Json = False) -> None:
    """List the installed plugins, the broken and disabled ones too.

    Example: fashionbatch plugins list
    """
    from fashionbatch.plugins import commands, discover

    found = [_about(p) for p in discover()]
    if json:
        show_json(found)
        return
    show_table(
        f"{len(found)} plugins",
        ["name", "package", "status", "provides"],
        [
            [
                p["name"],
                f"{p['distribution']} {p['version']}",
                p["status"],
                p["error"]
                or p["disabled"]
                or "; ".join(
                    [
                        ", ".join(f"{len(n)} {k}s" for k, n in p["components"].items()),
                        *p["deprecated"],
                    ]
                ),
            ]
            for p in found
        ],
    )
    for command in commands():
        say(f"Command {command.name} of {command.distribution} {command.version}")


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show what a plugin provides, or why it is broken.

    Example: fashionbatch plugins show builtin
    """
    plugin = _find(name)
    if json:
        show_json({**_about(plugin), "traceback": plugin.traceback})
        return
    show_table(
        f"{plugin.name} ({plugin.label}, {plugin.target}): {plugin.status}",
        ["kind", "name", "summary"],
        [[kind, spec.name, spec.summary] for kind, spec in plugin.components],
    )
    for line in (*plugin.deprecated, *plugin.traceback.splitlines()):
        typer.echo(safe(line))


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the plugin; the package is fashionbatch-NAME.")],
    kind: Annotated[
        str, typer.Option(help="Kinds of components, comma-separated, or all; one of each.")
    ] = "backbone,optimizer,visualizer",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write. [default: fashionbatch-NAME]"),
    ] = None,
    json: Json = False,
) -> None:
    """Write a package with small components that work, to be made your own.

    Example: fashionbatch plugins new colours --kind optimizer,visualizer
    """
    from fashionbatch.plugins import KINDS, discover
    from fashionbatch.scaffold import create

    for plugin in discover():
        if plugin.name == name:
            raise UsageError(
                f"the plugin {name!r} of {plugin.label} is installed: choose another name"
            )
    named = list(KINDS) if kind == "all" else [part.strip() for part in kind.split(",")]
    kinds = list(dict.fromkeys(filter(None, named)))
    folder = create(name, kinds, output)
    if json:
        show_json({"name": name, "folder": str(folder), "kinds": kinds})
        return
    say(f"{folder} has a component of each kind: {', '.join(kinds)}. Install, check, test:")
    # pip would take a bare name for a package of the index
    quoted = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    pip = "pip install"
    if importlib.util.find_spec("pip") is None:  # uv has to be told into which environment
        pip = f"uv pip install --python {shlex.quote(sys.prefix)}"
    for command in (
        f"{pip} -e {quoted}",
        f"fashionbatch plugins check {name}",
        f"python -m pytest {quoted}",
    ):
        typer.echo(safe(command))


@app.command("disable")
def disable(name: str) -> None:
    """Do not load a plugin any more, in this command and all later ones.

    Example: fashionbatch plugins disable cam
    """
    from fashionbatch.plugins import switch

    switch(name, on=False)
    say(f"{name} is not imported any more; `fashionbatch plugins enable {name}` undoes that")


@app.command("enable")
def enable(name: str) -> None:
    """Load a plugin again that was disabled.

    Example: fashionbatch plugins enable cam
    """
    from fashionbatch.plugins import switch

    switch(name, on=True)
    say(f"{name} is loaded again")


@app.command("check")
def check(name: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> None:
    """Import every component of one plugin, or of all, and say what is wrong.

    Example: fashionbatch plugins check
    """
    from fashionbatch import registry
    from fashionbatch.errors import PluginError
    from fashionbatch.plugins import discover

    chosen = [_find(name)] if name else [p for p in discover() if p.status != "disabled"]
    problems = [{"plugin": p.name, "problem": p.error} for p in chosen if p.error]
    checked = 0
    for plugin in chosen:
        for kind, spec in plugin.components:
            checked += 1
            problems += _shadows(plugin, kind, spec)
            factories = [spec.factory, *getattr(spec, "weights", {}).values()]
            for factory in [*factories, *filter(None, [getattr(spec, "detect", None)])]:
                try:
                    if not callable(registry.resolve(factory, requires=spec.requires)):
                        raise PluginError(f"{factory} cannot be called")
                except PluginError as error:
                    problems.append(
                        {"plugin": plugin.name, "problem": f"{kind} {spec.name}: {error}"}
                    )
    if json:
        show_json({"plugins": len(chosen), "components": checked, "problems": problems})
    else:
        for problem in problems:
            typer.echo(safe(f"{problem['plugin']}: {problem['problem']}"))
        totals = ((len(chosen), "plugin"), (checked, "component"), (len(problems), "problem"))
        typer.echo(", ".join(counted(number, one) for number, one in totals))
    if problems:
        raise typer.Exit(1)


def _shadows(plugin: Any, kind: str, spec: Any) -> list[dict[str, str]]:
    """Whether its name leads to another package's component."""
    from fashionbatch import registry

    found = [c for c in registry.components(kind) if c.spec.name == spec.name]
    others = [f"{c.provider} {c.version}" for c in found if c.provider != plugin.distribution]
    if not others:
        return []
    problem = (
        f"{kind} {spec.name}: {' and '.join(others)} has one of that name, too: "
        f"it is typed {plugin.distribution}:{spec.name}"
    )
    return [{"plugin": plugin.name, "problem": problem}]


def _find(name: str) -> Any:
    from fashionbatch.plugins import discover

    for plugin in discover():
        if name in (plugin.name, plugin.distribution):
            return plugin
    raise UnknownNameError("plugin", name, [p.name for p in discover()])
