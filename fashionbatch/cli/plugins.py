"""``fashionbatch plugins``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch.cli.console import safe, say, show_json, show_table
from fashionbatch.cli.options import Json
from fashionbatch.errors import UnknownNameError

app = typer.Typer(help="List, show and check the installed plugins.", no_args_is_help=True)


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
                or ", ".join(f"{len(n)} {k}s" for k, n in p["components"].items()),
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
    for line in plugin.traceback.splitlines():
        typer.echo(safe(line))


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
        typer.echo(f"{len(chosen)} plugins, {checked} components, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _find(name: str) -> Any:
    from fashionbatch.plugins import discover

    for plugin in discover():
        if name in (plugin.name, plugin.distribution):
            return plugin
    raise UnknownNameError("plugin", name, [p.name for p in discover()])
