"""Engines as they are shown: while they are timed, and the one that was taken."""

from __future__ import annotations

from typing import Any

from fashionbatch.cli.console import Teller, say
from fashionbatch.cli.values import duration


class EngineTeller(Teller):
    """Shows a job that an engine runs."""

    def on_trying(self, values: dict[str, Any]) -> None:
        """An engine is timed."""
        takes = values["preparation"]
        more = f", which takes about {duration(takes)} to get ready" if takes else ""
        say(f"timing the engine {values['engine']}{more}")


def engine_lines(values: dict[str, Any]) -> list[str]:
    """The engine that was taken, and why the others were not.

    Args:
        values: ``{"engine", "rates", "left_out", "device", "precision"}``.
    """
    rates = [f"{name} {rate:,.1f} img/s" for name, rate in values["rates"].items()]
    about = f" ({', '.join(rates)})" if rates else ""
    where = f"{values['device']}, {values['precision']}"
    others = [f"  not {name}: {why}" for name, why in values["left_out"].items()]
    return [f"engine {values['engine']} on {where}{about}", *others]
