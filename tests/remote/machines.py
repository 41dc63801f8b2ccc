"""Other machines on this one: their processes have a disk of their own, as far as they can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import fashionbatch
from tests.remote.conftest import KEYS

T = TypeVar("T")

#: keeps a process from a folder, as if it lay on another machine
HIDES = """
import errno, os, sys

def refuse(event, given):
    path = given[0] if given else None
    if event.startswith(("open", "os.")) and isinstance(path, str | bytes | os.PathLike):
        if os.fsdecode(path).startswith(os.environ["HIDDEN"]):
            raise FileNotFoundError(errno.ENOENT, "on another machine", os.fsdecode(path))

sys.addaudithook(refuse)
"""


class Machines:
    """What processes see that are started in :meth:`on`.

    Args:
        folder: for their disks.
        hidden: folder that they do not see.

    Attributes:
        caches: of those that were there so far.
    """

    def __init__(self, folder: Path, hidden: Path) -> None:
        self.folder, self.hidden, self.caches = folder, hidden, list[Path]()
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HIDES)
        self.permit(True)

    @property
    def credentials(self) -> Path:
        """Who they are at the object store."""
        return self.folder / "credentials"

    def permit(self, permitted: bool) -> None:
        """Whether they may use the object store."""
        lines = ["[default]"]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            lines.append(f"{name.lower()} = {KEYS[name]}")
        self.credentials.write_text("\n".join(lines) if permitted else "")

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Processes that are started meanwhile are on the machine of that name."""
        cache = self.folder / name
        if cache not in self.caches:
            self.caches.append(cache)
        with pytest.MonkeyPatch.context() as patch:
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.delenv(key)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(self.credentials))
            patch.setenv("PYTHONPATH", str(self.folder))
            patch.setenv("HIDDEN", str(self.hidden))
            patch.setenv("FASHIONBATCH_CACHE", str(cache))
            yield


class Apart(fashionbatch.Executor):
    """One worker on another machine.

    Args:
        machines: has it.
        leases: behind which somebody asks for an end.
        asked: called before each question.
    """

    def __init__(
        self, machines: Machines, leases: int = 1000, asked: Callable[[], object] = lambda: None
    ) -> None:
        self.machines, self.leases, self.asked = machines, leases, asked

    def workers(self) -> int:
        """See :class:`fashionbatch.Executor`."""
        return 1

    def ask(self, question: Callable[[], T]) -> T:
        """See :class:`fashionbatch.Executor`."""
        self.asked()
        return question()

    def run(self, lending: fashionbatch.Lending) -> None:
        """See :class:`fashionbatch.Executor`."""
        with self.machines.on("apart"):
            process = fashionbatch.WorkerProcess(lending.worker)
        try:
            for event, values in process.events():
                lending.hear(None, event, values)
            for _ in range(self.leases):
                lease = lending.take(1)
                if lease is None:
                    return
                process.lend(lease)
                for event, values in process.events():
                    lending.hear(lease, event, values)
                lending.finish(lease)
        finally:
            process.end()
        raise fashionbatch.StoppedHere
