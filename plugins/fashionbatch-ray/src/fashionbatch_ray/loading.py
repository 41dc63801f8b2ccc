"""What was pickled where the work is planned, loaded where it is done. Nothing here imports Ray."""

from __future__ import annotations

import pickle
from typing import Any

import fashionbatch
from fashionbatch.errors import ExecutionError


def loaded(version: str, pickled: bytes) -> Any:
    """What was pickled.

    Args:
        version: of fashionbatch there.
        pickled: by Ray's cloudpickle, whose pickles are ordinary ones.

    Raises:
        ExecutionError: this is another version of fashionbatch, or a package is missing.
    """
    if version != fashionbatch.__version__:
        raise ExecutionError(
            f"there is fashionbatch {fashionbatch.__version__}, and the work was planned with "
            f"{version}: install the same version everywhere"
        )
    try:
        return pickle.loads(pickled)
    except ImportError as error:
        raise ExecutionError(
            f"the package {error.name or error} is missing: install the same packages everywhere"
        ) from error


def made(version: str, worker: bytes, place: str) -> fashionbatch.Worker:
    """The worker that a pickled function makes at a place; raises as :func:`loaded`."""
    found: fashionbatch.Worker = loaded(version, worker)(place)
    return found
