"""Commands of other packages, beside ours: listed by name, imported when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from fashionbatch.errors import PluginError
from fashionbatch.plugins import Command, commands


class Commands(TyperGroup):  # click's types are typer's own in some versions, so they are not named
    """Our commands, and those of the entry points' group ``fashionbatch.commands``.

    A command of ours goes before another package's of the same name.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Ours in their order, then the others by name."""
        own = super().list_commands(ctx)
        return own + sorted({c.name for c in commands()} - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Imports the package of a foreign one."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = [c for c in commands() if c.name == cmd_name]
        return _load(found[0]) if found else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table of ``--help``, for which nothing is imported."""
        foreign = {c.name: c for c in commands()}
        own = [(name, super(Commands, self).get_command(ctx, name)) for name in self.commands]
        room = formatter.width - 6 - max(map(len, [*self.commands, *foreign]))
        rows = [(name, c.get_short_help_str(room)) for name, c in own if c and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        others = [
            (name, f"of the package {c.distribution} {c.version}")
            for name, c in sorted(foreign.items())
            if name not in self.commands
        ]
        if others:
            with formatter.section("Commands of other packages"):
                formatter.write_dl(others)


def _load(command: Command) -> Any:
    module, _, attribute = command.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a stranger's module does on import
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"the command {command.name!r} of {command.distribution} {command.version} cannot be "
            f"imported ({reason}): mend or remove that package"
        ) from error
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(command.name)(found)
        found = app
    return typer.main.get_command(found)
