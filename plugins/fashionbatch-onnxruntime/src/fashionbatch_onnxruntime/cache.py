"""Exported networks on the disk: whole and as they were checked, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fashionbatch_onnxruntime.export import Exported

#: seconds behind which a temporary file belongs to a process that was killed
_LEFT_BEHIND = 3600
#: seconds behind which a network that nobody has used goes
_UNUSED = 30 * 86400


class Cache:
    """One exported network, in two files.

    ``onnxruntime-DIGEST.onnx`` is written first, then ``onnxruntime-DIGEST.json``: the other one's
    SHA-256, the shapes of the outputs, and how its answers compared with PyTorch's. Each appears
    whole or not at all, and without a record that fits, the network counts as not there. So it does
    no harm to be killed at any time, or that two processes write at once. What nobody has used for
    30 days goes when another network is written.

    Args:
        folder: exists.
        key: JSON values that the network depends on.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        name = f"onnxruntime-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        self.model = folder / f"{name}.onnx"
        self.record = folder / f"{name}.json"

    def read(self) -> Exported | None:
        """The network, or ``None`` if it is not there, or damaged."""
        try:
            record = json.loads(self.record.read_bytes())
            data = self.model.read_bytes()
            outputs = tuple(tuple(map(int, shape)) for shape in record["outputs"])
            expected = record["sha256"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if hashlib.sha256(data).hexdigest() != expected:
            return None
        for path in (self.model, self.record):
            with contextlib.suppress(OSError):  # a folder that cannot be written to
                os.utime(path)
        return Exported(data=data, outputs=outputs)

    def write(self, exported: Exported, compared: Mapping[str, Any]) -> None:
        """Keeps a network whose answers were compared.

        A folder that cannot be written to is warned of: the network is there, and is exported again
        next time.
        """
        record = {
            "sha256": hashlib.sha256(exported.data).hexdigest(),
            "outputs": exported.outputs,
            "compared": compared,
        }
        _sweep(self.model.parent)
        try:
            _write(self.model, exported.data)
            _write(self.record, (json.dumps(record, indent=2) + "\n").encode())
        except OSError as error:
            warnings.warn(f"the exported network is not kept: {error}", stacklevel=2)


def _sweep(folder: Path) -> None:
    for path in [*folder.glob("onnxruntime-*.onnx"), *folder.glob("onnxruntime-*.json")]:
        with contextlib.suppress(OSError):  # another process was quicker
            if time.time() - path.stat().st_mtime > _UNUSED:
                path.unlink()


def _write(path: Path, data: bytes) -> None:
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):  # another process was quicker
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
