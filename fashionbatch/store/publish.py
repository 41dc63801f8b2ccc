"""Parts → a folder of them that is read as one, without copying a row."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.sources import Attribute
from fashionbatch.store import parts_set
from fashionbatch.store.merge import SCHEMA, VERSION, ShardEntry, survey, texts_of
from fashionbatch.store.part import MissingPartError
from fashionbatch.store.parts_set import Manifest


def publish(
    folder: Path,
    output: Path,
    shards: Sequence[ShardEntry],
    classes: Sequence[str],
    about: Mapping[str, Any],
    attributes: Sequence[Attribute] = (),
    *,
    fingerprint: str,
    replace: bool,
) -> tuple[int, int]:
    """Writes the manifest, last, and gives the folder of parts the output's name.

    Args:
        folder: of the parts, one per shard, on the output's disk.
        output: the folder to make.
        shards: in the order of the plan.
        classes: of the model.
        about: see :func:`fashionbatch.store.merge.merge`.
        attributes: of the model.
        fingerprint: of the run.
        replace: predictions that are there give way; they stay until the new ones are whole.

    Returns:
        how many items are predicted, and how many failed.

    Raises:
        MissingPartError: a part is missing, or another process of the same run was quicker.
        StoreError: a part is damaged, or items are missing.
    """
    found = survey(folder, shards, fingerprint)
    texts = {"classes/name": list(classes)}
    if attributes:
        texts["attributes/name"] = [a.name for a in attributes]
        texts["attributes/type"] = [a.type or "" for a in attributes]
    texts |= {"shards/name": [s.name for s in shards], "shards/sha256": found.hashes}
    predicted, failed = ([size[place] for size in found.sizes] for place in (0, 1))
    manifest = Manifest(
        fingerprint=fingerprint,
        # in the order in which HDF5 has them: what is made of a folder has the bytes of what is
        # made of the file
        attrs=dict(
            sorted({"schema": SCHEMA, "schema_version": VERSION, **texts_of(about)}.items())
        ),
        columns={
            name: ("text" if dtype.kind == "O" else dtype.str, tail)
            for name, (tail, dtype) in found.shapes.items()
        },
        texts=texts,
        counts={
            "shards/count": [s.count for s in shards],
            "shards/predicted": predicted,
            "shards/failed": failed,
        },
    )
    parts_set.write(folder, manifest)
    _rename(folder, output, replace=replace)
    return sum(predicted), sum(failed)


def _rename(folder: Path, output: Path, *, replace: bool) -> None:
    # a folder that is not empty cannot be renamed over: it steps aside for a moment
    aside = output.with_name(f".{output.name}.replaced")
    if output.exists():
        if not replace:
            raise MissingPartError(f"{output} was made by another process of the same run")
        shutil.rmtree(aside, ignore_errors=True)
        output.rename(aside)
    try:
        folder.rename(output)
    except OSError:
        if aside.exists() and not output.exists():
            aside.rename(output)
        raise
    files.sync(output.parent)
    shutil.rmtree(aside, ignore_errors=True)
