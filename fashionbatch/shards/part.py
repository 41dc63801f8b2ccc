"""What is known of one finished shard, on the disk until the data set is whole."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fashionbatch.shards.index import Index

SUFFIX = ".part"
_HEAD = struct.Struct("<I")
_DIGEST = hashlib.sha256().digest_size


def save(path: Path, index: Index, about: Mapping[str, Any]) -> None:
    """Writes the shard's rows of the index, and a JSON object about it, as one file.

    A length and the JSON, the columns one after the other, and the SHA-256 of all that.
    """
    arrays = index.to_arrays()
    columns = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    text = json.dumps({"about": about, "columns": columns}).encode()
    pieces = [_HEAD.pack(len(text)), text, *(a.tobytes() for a in arrays.values())]
    data = b"".join(pieces)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data + hashlib.sha256(data).digest())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> tuple[Index, dict[str, Any]]:
    """What :func:`save` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut short or damaged.
    """
    data = path.read_bytes()
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ValueError(f"{path} is damaged")
    (length,) = _HEAD.unpack_from(data)
    place = _HEAD.size + length
    head = json.loads(data[_HEAD.size : place])
    arrays = {}
    for name, dtype, shape in head["columns"]:
        array = np.frombuffer(data, dtype, int(np.prod(shape)), place).reshape(shape)
        arrays[name] = array
        place += array.nbytes
    return Index.from_arrays(arrays), head["about"]
