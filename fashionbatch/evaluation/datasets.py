"""Data sets that know more of predicted images than the prediction file does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashionbatch.address import Address, Location
from fashionbatch.errors import FashionbatchError
from fashionbatch.shards.manifest import Manifest, is_ours
from fashionbatch.shards.ragged import Texts
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.store.reader import Predictions

_ELSEWHERE = "name the packed data set, or a table, with --labels"


class DataSets:
    """Where the images of a prediction file may have come from.

    Args:
        predictions: the file.
    """

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions

    @cached_property
    def predicted(self) -> ShardSet | str:
        """The data set that was predicted, or why it is not at hand, in one line.

        It is looked for where it lay then, and where the data set lay that the model was trained
        on. It is the same if all predicted shards are in it, those of which every image was
        predicted with the same SHA-256, and of the others every image.
        """
        reasons = []
        for path in self._places():
            found = self._opened(path)
            if isinstance(found, ShardSet):
                return found
            reasons.append(found)
        text = "the file does not say where its images lay"
        return f"{reasons[0] if reasons else text}: {_ELSEWHERE}"

    @cached_property
    def class_types(self) -> Mapping[str, str]:
        """From classes to their types, such as ``"upper"``; empty where nothing says so.

        As the data set says that the model was trained on, if that is still what it was, or the
        one that was predicted.
        """
        for path in self._places():
            if isinstance(path, Address):
                continue
            try:
                manifest = Manifest.load(path)
            except FashionbatchError:
                continue
            types = types_of(manifest)
            trained = manifest.fingerprint == self._lineage.get("data_fingerprint")
            if types and (trained or self._is_predicted(path)):
                return types
        return {}

    def _is_predicted(self, path: Location) -> bool:
        return isinstance(self.predicted, ShardSet) and self.predicted.path == path

    @property
    def _lineage(self) -> Mapping[str, Any]:
        lineage = self.predictions.model.get("lineage")
        return lineage if isinstance(lineage, dict) else {}

    def _places(self) -> list[Location]:
        """Where the predicted images lay, and those that the model was trained on."""
        trained = self._lineage.get("data")
        stated = [self.predictions.source, Path(trained) if isinstance(trained, str) else None]
        return list(dict.fromkeys(path for path in stated if path is not None))

    def _opened(self, path: Location) -> ShardSet | str:
        if isinstance(path, Address):
            return f"{path}, where the images lay, is not asked unless it is named"
        if not path.exists():
            return f"{path}, where the images lay, is not there"
        if not is_ours(path):
            return f"{path}, where the images lay, is no packed data set"
        try:
            shards = open_shards(path, strict=False)
            if _same(self.predictions, shards):
                return shards
        except FashionbatchError as error:
            return str(error)
        return f"{path} is not what it was when it was predicted"


def types_of(manifest: Manifest) -> dict[str, str]:
    """From the classes of a data set to their types; without those that have none."""
    # there may be none of all classes
    pairs = zip(manifest.classes, manifest.class_types, strict=False)
    return {name: kind for name, kind in pairs if kind}


def rows_by_name(predictions: Predictions, names: Texts) -> npt.NDArray[np.int64]:
    """Finds the rows of a prediction file among names; 16 bytes of memory a name.

    Returns:
        int64 ``[N]``, of each row of the file the place of its name, or -1; the first place where
        there are several.
    """
    hashes = np.fromiter((hash(name) for name in names), np.int64, len(names))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    found = np.full(len(predictions), -1, np.int64)
    for batch in predictions.batches():
        wanted = np.array([hash(name) for name in batch.names], np.int64)
        places = np.searchsorted(hashes, wanted).tolist()
        for row, (name, value, place) in enumerate(
            zip(batch.names, wanted.tolist(), places, strict=True), batch.start
        ):
            # of two names with one hash the other one is passed over
            while place < len(order) and hashes[place] == value:
                if names[int(order[place])] == name:
                    found[row] = order[place]
                    break
                place += 1
    return found


def _same(predictions: Predictions, shards: ShardSet) -> bool:
    """Whether the predicted images, and what is said of them, are those of a data set."""
    records = {record.file: record for record in shards.manifest.shards}
    whole = np.zeros(len(predictions.shard_names), np.bool_)
    for number, (name, sha256, count) in enumerate(predictions.shards):
        record = records.get(name.partition("[")[0])  # of a part of a shard "[0:4096]" follows
        if record is None or count > record.items:
            return False
        if name == record.file and count == record.items and not sha256.startswith("damaged"):
            if sha256 != record.sha256:
                return False
            whole[number] = True
    rows = rows_by_name(predictions, shards.index.name)
    if (rows < 0).any() or not len(rows):
        return False
    for batch in predictions.batches() if predictions.hashed and not whole.all() else ():
        mine = np.frombuffer(bytes.fromhex("".join(h or "00" * 32 for h in batch.sha256)), np.uint8)
        differs = (mine.reshape(-1, 32) != shards.index.sha256[rows[batch.start : batch.stop]]).any(
            1
        )
        if differs.any():
            return False
    return True
