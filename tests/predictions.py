"""Prediction files of made-up numbers, written without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fashionbatch.store import part as parts


def write(
    path: Path,
    shards: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
    *,
    classes: Sequence[str] = ("bag", "dréss", "hat"),
    attributes: Sequence[str] = (),
    topk: int = 2,
    probabilities: bool = False,
    features: str | None = "pooled",
    width: tuple[int, ...] = (4,),
    dtype: type = np.float32,
    hashed: bool = False,
    model: str = "m" * 64,
    attrs: Mapping[str, str] | None = None,
    **fingerprint: Any,
) -> Path:
    """Writes a prediction file; what a row holds depends on its name alone.

    Args:
        path: of the file.
        shards: from each shard to the names of its rows, and those of its failures.
        hashed: with the SHA-256 of each item.
        attrs: further attributes of the file.
        fingerprint: what differs in it; other arguments: what the file holds.
    """
    listed = {"c[0:3]": (["a.jpg", "b/é.jpg", "c"], ["bad"])} if shards is None else shards
    names = [n for good, _ in listed.values() for n in good]
    failed = [n for _, bad in listed.values() for n in bad]
    number = {"predicted": 0, "failed": 1}
    draws = [np.random.default_rng(list(n.encode()) or 0) for n in names]
    scores = np.array([d.random(len(classes)) for d in draws], np.float32)
    scores = scores.reshape(len(names), len(classes))
    scores /= scores.sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(topk, len(classes))]
    arrays: dict[str, np.ndarray] = {
        "predictions/topk_index": best.astype(np.int32),
        "predictions/topk_probability": np.take_along_axis(scores, best, 1),
        "items/label": np.array([d.integers(-1, len(classes)) for d in draws], np.int32),
    }
    for group, column in number.items():
        lengths = [len(entry[column]) for entry in listed.values()]
        target = "items" if group == "predicted" else "failures"
        arrays[f"{target}/shard"] = np.repeat(np.arange(len(listed)), lengths).astype(np.uint32)
        arrays[f"shards/{group}"] = np.array(lengths, np.int64)
    arrays["shards/count"] = arrays["shards/predicted"] + arrays["shards/failed"]
    if probabilities:
        arrays["predictions/probability"] = scores
    if attributes:
        drawn = [d.random(len(attributes)) for d in draws]
        arrays["predictions/attribute_probability"] = np.array(drawn, np.float16).reshape(
            len(names), len(attributes)
        )
    if features:
        drawn = [d.normal(size=width) for d in draws]
        arrays[f"features/{features}"] = np.array(drawn, dtype).reshape(len(names), *width)
    if hashed:
        for target, those in (("items", names), ("failures", failed)):
            hashes = [list(hashlib.sha256(n.encode()).digest()) for n in those]
            arrays[f"{target}/sha256"] = np.array(hashes, np.uint8).reshape(len(those), 32)
    texts: dict[str, list[str]] = {
        "items/name": names,
        "items/key": [f"{i:09d}" for i in range(len(names))],
        "failures/name": failed,
        "failures/key": [f"{i:09d}" for i in range(len(failed))],
        "failures/stage": ["decode"] * len(failed),
        "failures/reason": [f"why {n}" for n in failed],
        "classes/name": list(classes),
        "shards/name": list(listed),
        "shards/sha256": [hashlib.sha256(s.encode()).hexdigest() for s in listed],
    }
    if attributes:
        texts |= {"attributes/name": list(attributes), "attributes/type": ["t"] * len(attributes)}
    about = {
        "fingerprint": {
            "input": path.name,
            "items": len(names) + len(failed),
            "model": model,
            "configuration": {"topk": topk, "features": features or "none"},
            "classes": list(classes),
            "engine": "eager",
            "batch_size": 32,
            **fingerprint,
        },
        "model_card": {"sha256": model, "classes": list(classes)},
        "configuration": {"topk": topk},
        "components": [{"name": "small-resnet", "kind": "backbone"}],
    }
    with h5py.File(path, "w") as file:
        for dataset, values in texts.items():
            parts.write_text(file, dataset, values)
        for dataset, array in arrays.items():
            parts.write_array(file, dataset, array)
        file.attrs["schema"], file.attrs["schema_version"] = "fashionbatch-predictions", 1
        for key, value in about.items():
            file.attrs[key] = json.dumps(value, sort_keys=True)
        for key, text in (attrs or {}).items():
            file.attrs[key] = text
    return path
