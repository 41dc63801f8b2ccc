"""What a person sees: progress and messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

_LINE_EVERY = 60.0


def safe(text: object) -> str:
    """Text without control characters: names come from outside and terminals obey escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def say(text: object) -> None:
    """A line on standard error."""
    print(safe(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    """A line that says what went wrong."""
    say(f"Error: {text}")


def warn(text: str) -> None:
    """A line that says what to look at."""
    say(f"Warning: {text}")


def show_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=True, allow_nan=False), flush=True)


def table(columns: list[str], rows: list[list[object]]) -> Table:
    """A table whose cells are plain text, whatever is in them."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None)
    made.padding = (0, 2, 0, 0)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(safe(cell)) for cell in row))
    return made


def show_table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Prints :func:`table` on standard output."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(Text(safe(title), style="bold"), soft_wrap=True)
    console.print(table(columns, rows))


class Bar:
    """A progress bar with rate and ETA on a terminal; elsewhere a line a minute.

    Args:
        title: of what is going on.
        total: how many; ``None`` if nobody knows.
        unit: of what.
    """

    def __init__(self, title: str, total: int | None, unit: str = "img") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.failed = 0, 0
        self.began = self.said = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = self._rich()
            self._progress.start()
            self._task = self._progress.add_task(title, total=total, rate="")

    def _rich(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """``count`` more are done; ``failed`` of them failed."""
        self.done += count
        self.failed += failed
        now = time.monotonic()
        rate = self.done / max(now - self.began, 1e-9)
        text = f"{rate:,.1f} {self.unit}/s" + (f", {self.failed} failed" if self.failed else "")
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, rate=text)
        elif now - self.said >= _LINE_EVERY:
            self.said = now
            if self.total is None:
                say(f"{self.title}: {self.done}, {text}")
                return
            left = (self.total - self.done) / max(rate, 1e-9)
            say(f"{self.title}: {self.done} of {self.total}, {text}, {left:.0f} s left")

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class Teller:
    """Shows the events of a job.

    The events that every job has are shown here; a command's own go through its ``lines``.
    """

    #: failures named one by one before they are only counted
    NAMED = 5

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Bar | None = None
        self.failed = 0

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        """Shows one event."""
        handler = getattr(self, f"on_{event}", None)
        if handler is not None:
            handler(values)

    def start_bar(self, total: int | None, title: str | None = None) -> None:
        """A new bar in place of the old one."""
        self.close()
        self.bar = Bar(title or self.title, total).__enter__()

    def on_warn(self, values: dict[str, Any]) -> None:
        """Something to look at."""
        warn(values["text"])

    def on_progress(self, values: dict[str, Any]) -> None:
        """So many more items are done."""
        if self.bar is not None:
            self.bar.advance(values["items"])

    def on_failed(self, values: dict[str, Any]) -> None:
        """An item failed."""
        self.failed += 1
        if self.bar is not None:
            self.bar.advance(0, failed=1)
        if self.failed <= self.NAMED:
            warn(f"{values['name']}: {values['reason']}")
        elif self.failed == self.NAMED + 1:
            warn("further failures are only counted")

    def on_forgotten(self, values: dict[str, Any]) -> None:
        """So many that failed are going to be tried again."""
        self.failed -= values["failed"]
        if self.bar is not None:
            self.bar.advance(0, failed=-values["failed"])

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def warn_of_plugins() -> None:
    """One line for every plugin that could not be loaded, or soon cannot be."""
    from fashionbatch.plugins import discover

    for plugin in discover():
        if plugin.status == "broken":
            warn(
                f"plugin {plugin.name} of {plugin.label} is broken and left out ({plugin.error}); "
                f"`fashionbatch plugins show {plugin.name}` has the details"
            )
        for text in plugin.deprecated:
            warn(f"plugin {plugin.name} of {plugin.label} is out of date: {text}")
