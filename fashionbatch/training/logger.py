"""The base class of everything that wants to know how a training goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Logger:
    """Does nothing; a subclass overrides what it needs.

    The factory of its spec is called ``factory(folder, **options)`` with the folder of the run.
    After ``--resume`` the logger is made anew, and gets what comes from then on.

    Example::

        class Lines(fashionbatch.Logger):
            def __init__(self, folder):
                self.file = (folder / "lines.txt").open("a")

            def epoch(self, row):
                print(row["epoch"], row["val_loss"], file=self.file, flush=True)
    """

    def start(self, config: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """The resolved configuration and the plan, before the first step; JSON values."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Now and then: ``loss`` and ``lr`` of a step, counted from 1 over all epochs."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """A finished epoch: a row of ``history.csv``."""

    def figure(self, name: str, path: Path) -> None:
        """A picture that was written, such as ``curves`` at ``curves.png``."""

    def close(self) -> None:
        """The end, also after an error."""
