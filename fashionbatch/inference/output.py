"""Whether what lies at the output, or beside it, belongs to the prediction that is asked for."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import OutputExistsError, StoreError
from fashionbatch.inference.plan import DAMAGED, UNREAD
from fashionbatch.store import part as parts
from fashionbatch.store.parts_set import is_set
from fashionbatch.store.reader import open_predictions

_ADVICE = "choose another output with -o, or discard it with --restart"
_UPDATE = "update it with --incremental, discard it with --restart, or choose another with -o"
#: what a catalogue that has changed changes
_INPUT = ("input", "items", "rows")
#: of files that --restart may replace
_SUFFIXES = (".h5", ".hdf5")
#: in the folder of parts: they are to replace the file at the output, whatever that is
REPLACING = "replaces-the-output"


def parts_folder(output: Path) -> Path:
    """Where the parts of an output lie."""
    return output.with_name(f"{output.name}.parts")


def prepare(output: Path, *, restart: bool, no_merge: bool = False) -> None:
    """Makes sure that something can be written there; discards parts where that is asked for.

    Args:
        output: of the run.
        restart: what there is of it is going to be replaced.
        no_merge: it is a folder of parts.

    Raises:
        OutputExistsError: a folder is there, or a file that is not to be replaced.
        OSError: the folder cannot be written to.
    """
    if is_set(output) and not no_merge:
        raise OutputExistsError(
            f"{output} is a folder of parts: go on with --no-merge, or name an HDF5 file with -o"
        )
    if output.is_dir() and not is_set(output):
        raise OutputExistsError(
            f"{output} is a folder of something else: name another one with -o"
            if no_merge
            else f"{output} is a folder: name an HDF5 file with -o"
        )
    if no_merge and output.is_file():
        raise OutputExistsError(f"{output} is a file: --no-merge makes a folder, name it with -o")
    there = next(p for p in (output.parent, *output.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(there))
    if restart:
        if output.is_file() and output.suffix not in _SUFFIXES:
            raise OutputExistsError(f"{output} is no HDF5 file: choose another output with -o")
        # the old file stays until the new one takes its name
        shutil.rmtree(parts_folder(output), ignore_errors=True)


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Refuses to do on a cluster what another run is doing there: it would only cost twice.

    Raises:
        OutputExistsError: another run is.
    """
    path = output.with_name(f".{output.name}.driver")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        yield  # what cannot be written is told by prepare()
        return
    with files.locked(path) as alone:
        if not alone:
            raise OutputExistsError(
                f"another run predicts into {output} just now: wait for it, or choose another "
                "output with -o"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replace_at_the_end(folder: Path) -> None:
    """Writes down that the parts in a folder are going to replace what lies at the output."""
    (folder / REPLACING).touch()


def replaced(folder: Path) -> None:
    """It is done: what lies at the output is of these parts."""
    (folder / REPLACING).unlink(missing_ok=True)


def is_replacing(folder: Path) -> bool:
    """Whether a --restart that was stopped is to be gone on with."""
    return (folder / REPLACING).exists()


def fingerprint_of(output: Path) -> dict[str, Any] | None:
    """What the file at the output depends on; ``None`` where there is none.

    Raises:
        OutputExistsError: it is no prediction file.
    """
    if not output.exists():
        return None
    try:
        with open_predictions(output) as existing:
            return existing.fingerprint
    except StoreError as error:
        advice = _ADVICE if output.suffix in _SUFFIXES else "choose another output with -o"
        raise OutputExistsError(f"{error}; {advice}") from error


def refuse_other(
    what: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], *, update: bool = False
) -> None:
    """Refuses what is of another run.

    Args:
        what: lies there.
        found: what it depends on.
        wanted: what this run depends on; what it does not name is not compared.
        update: another input is no difference.

    Raises:
        OutputExistsError: names the differences.
    """
    changed = _changed(plain(wanted), found)
    others = [name for name in changed if name not in _INPUT]
    if update:
        changed = others
    if changed:
        advice = _ADVICE if others else _UPDATE
        raise OutputExistsError(f"{what} is of another run (other {', '.join(changed)}): {advice}")


def refuse_other_parts(folder: Path, wanted: Mapping[str, Any], *, update: bool = False) -> None:
    """Refuses parts of another run; with ``update``, those of another input are discarded.

    Raises:
        OutputExistsError: names the differences, where they were written down.
    """
    begun = parts.fingerprint_of(folder)
    if begun in (None, files.fingerprint(wanted)):
        return
    about = parts.said(folder)
    if about is not None:
        refuse_other(folder, about, wanted, update=update)
        if update:
            shutil.rmtree(folder, ignore_errors=True)
            return
    raise OutputExistsError(
        f"{folder} holds parts of a run with another input, model or configuration: {_ADVICE}"
    )


def differences(
    output: Path, units: Sequence[tuple[str, str, int]], *, retry: bool = False
) -> str | None:
    """How the shards of the file at the output differ from these.

    Args:
        output: of a run with the same fingerprint.
        units: name, hash and count of each.
        retry: one in which something failed then may be another now.

    Returns:
        in words, or ``None`` where they are the same.
    """
    with open_predictions(output) as existing:
        found = existing.shards
        failed = existing.column("shards/failed")[()].tolist()
    if len(found) != len(units):
        return f"{len(found)} shards, now {len(units)}"
    counted = Counter(
        _difference(old[1], new[1])
        for old, new, failures in zip(found, units, failed, strict=True)
        if old != new and not (retry and failures)
    )
    if not counted:
        return None
    return f"of {len(units)} shards " + ", ".join(f"{n} {how}" for how, n in counted.items())


def refuse_changed(output: Path, how: str) -> None:
    """The input is not what the file was made from.

    Raises:
        OutputExistsError: always.
    """
    raise OutputExistsError(f"{output} was made from other images ({how}): {_UPDATE}")


def refuse_changed_part(folder: Path, name: str, old: str, new: str) -> None:
    """A shard is not what its part was made from; one that was, or is, broken is made again.

    Raises:
        OutputExistsError: it was another one.
    """
    if _difference(old, new) == "changed":
        raise OutputExistsError(
            f"{name} has changed since its part in {folder} was made: make it again with "
            "--incremental, discard all parts with --restart, or choose another output with -o"
        )


def _difference(old: str, new: str) -> str:
    was, is_now = _is_broken(old), _is_broken(new)
    unread = old.startswith(UNREAD) or new.startswith(UNREAD)
    bad, good = ("unreadable in part", "readable") if unread else ("damaged", "whole")
    if was == is_now:
        return bad if was and unread else "changed"
    return f"{bad} then and {good} now" if was else f"{good} then and {bad} now"


def _is_broken(sha256: str) -> bool:
    """Of a unit of which something could not be read."""
    return sha256.startswith((DAMAGED, UNREAD))


def _changed(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs, an option by its own name."""
    names = []
    for key, value in wanted.items():
        if key == "engine" and isinstance(value, dict):
            names += [key] * any(found.get(key, {}).get(k) != v for k, v in value.items())
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            names += _changed(value, found[key])
        elif found.get(key) != value:
            names.append(key)
    return names


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value
