"""Whether what lies at the output, or beside it, belongs to the prediction that is asked for."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import OutputExistsError, StoreError
from fashionbatch.inference.plan import DAMAGED
from fashionbatch.store import part as parts
from fashionbatch.store.merge import ShardEntry
from fashionbatch.store.reader import open_predictions

_ADVICE = "choose another output with -o, or discard it with --no-resume"
#: of files that --no-resume may replace
_SUFFIXES = (".h5", ".hdf5")


def check_output(output: Path, folder: Path, fingerprint: dict[str, Any], *, resume: bool) -> None:
    """Refuses an output, or parts beside it, of another run.

    Args:
        output: the HDF5 file.
        folder: of the parts; removed if the run is not to be resumed.
        fingerprint: of the run.
        resume: whether it may go on with what is there.

    Raises:
        OutputExistsError: it is of another run, or no prediction file.
    """
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder: name an HDF5 file with -o")
    if not resume:
        if output.exists() and output.suffix not in _SUFFIXES:
            raise OutputExistsError(f"{output} is no HDF5 file: choose another output with -o")
        shutil.rmtree(folder, ignore_errors=True)
        return  # the old file stays until the new one takes its name
    if output.exists():
        try:
            with open_predictions(output) as existing:
                found = existing.fingerprint
        except StoreError as error:
            raise OutputExistsError(f"{error}; {_ADVICE}") from error
        changed = _changed(_plain(fingerprint), found)
        if changed:
            raise OutputExistsError(
                f"{output} is of another run (other {', '.join(changed)}): {_ADVICE}"
            )
    begun = parts.fingerprint_of(folder)
    if begun not in (None, files.fingerprint(fingerprint)):
        raise OutputExistsError(
            f"{folder} holds parts of a run with another input, model or configuration: {_ADVICE}"
        )


def complete(output: Path, entries: Sequence[ShardEntry]) -> bool:
    """Whether the output is there and holds just these shards.

    Raises:
        OutputExistsError: it was made when a shard was another one, or was damaged.
    """
    if not output.exists():
        return False
    with open_predictions(output) as existing:
        found = existing.shards
    differences = Counter(
        _difference(old, new.sha256)
        for (name, old, count), new in zip(found, entries, strict=True)
        if (name, old, count) != (new.name, new.sha256, new.count)
    )
    if not differences:
        return True
    what = ", ".join(f"{number} {how}" for how, number in differences.items())
    raise OutputExistsError(
        f"{output} was made from other images (of {len(entries)} shards {what}): {_ADVICE}"
    )


def _difference(old: str, new: str) -> str:
    was, is_now = old.startswith(DAMAGED), new.startswith(DAMAGED)
    if was == is_now:
        return "changed"
    return "damaged then and whole now" if was else "whole then and damaged now"


def _changed(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs, an option by its own name."""
    names = []
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            names += _changed(value, found[key])
        elif found.get(key) != value:
            names.append(key)
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value
