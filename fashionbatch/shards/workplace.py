"""The hidden folder in which a data set is made, beside its output."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fashionbatch import files
from fashionbatch.errors import OutputExistsError, SourceError
from fashionbatch.shards import part
from fashionbatch.shards.manifest import MANIFEST, Manifest

#: names of a data set's files; users may put others beside them
_OURS = re.compile(
    r"(train|val|test|all)-\d{6,}\.tar|index(-\d+)?\.h5|failures(-\d+)?\.jsonl"
    r"|\.dataset\.json\.\d+-[0-9a-f]+\.tmp"
)


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Two folders.

    Attributes:
        output: where the data set goes.
        data: becomes the data set.
        work: what is needed on the way only.
    """

    output: Path
    data: Path
    work: Path

    def keep(self, names: Collection[str]) -> None:
        """Removes other files from ``data``: a run with other options left them when it died."""
        for path in self.data.iterdir():
            if path.name not in names:
                path.unlink()

    def take_name(self) -> None:
        """Puts the data set in place of what is at the output."""
        files.sync(self.data)
        old = _old(self.output)
        shutil.rmtree(old, ignore_errors=True)
        if self.output.exists():
            os.replace(self.output, old)
        os.replace(self.data, self.output)
        files.sync(self.output.parent)
        shutil.rmtree(old, ignore_errors=True)

    def add_to(self, after: Manifest) -> None:
        """Moves new files into the data set; it is the old one until its manifest is replaced."""
        for path in sorted(self.data.iterdir()):
            os.replace(path, self.output / path.name)
        files.sync(self.output)
        after.save(self.output)
        self.sweep(after)

    def sweep(self, manifest: Manifest) -> None:
        """Removes files of ours that the data set does not have (any more) from its folder.

        The last index is one, and so is what a run that was to add to it had moved when it died.
        """
        assert manifest.index is not None and manifest.failures is not None
        known = {r.file for r in (*manifest.shards, manifest.index, manifest.failures)}
        for path in self.output.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in known:
                path.unlink()


def has_our_name(path: Path) -> bool:
    """Whether a file is called like one of a data set."""
    return path.name == MANIFEST or _OURS.fullmatch(path.name) is not None


@contextmanager
def workplace(output: Path) -> Iterator[Workplace]:
    """Makes the folder, or takes over the one of an interrupted run; for one process at a time.

    It is removed at the end; on an error only if no shard in it is finished.

    Raises:
        OutputExistsError: another process is at work in it.
        SourceError: something in it cannot be written; says what is kept.
    """
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    folder = output.with_name(f".{output.name}.partial")
    place = Workplace(output=output, data=folder / "data", work=folder / "work")
    try:
        for needed in (folder, place.data, place.work):
            needed.mkdir(exist_ok=True, parents=True)
        (folder / "lock").touch()
    except OSError as error:
        raise SourceError(f"{output} cannot be written ({error.strerror})") from error
    # where there are no locks two writers would still write the same bytes
    with files.locked(folder / "lock") as alone:
        if not alone:
            raise OutputExistsError(
                f"another fashionbatch is packing {output} just now: wait for it, or choose "
                "another output with -o"
            )
        if not output.exists() and _old(output).exists():
            os.replace(_old(output), output)  # a run that replaced it was killed half way
        try:
            yield place
        except BaseException as error:
            finished = len(list(place.work.glob(f"*{part.SUFFIX}")))
            if not finished:
                shutil.rmtree(folder, ignore_errors=True)
                _remove_empty(made)
            if isinstance(error, OSError):
                kept = (
                    f"{finished} finished shards are kept in {folder}: mend that and type the same "
                    "command again, it goes on from there"
                    if finished
                    else "nothing was kept"
                )
                reason = error.strerror or str(error)
                raise SourceError(f"{output} cannot be written ({reason}): {kept}") from error
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # somebody has put something in it
            return


def _old(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")
