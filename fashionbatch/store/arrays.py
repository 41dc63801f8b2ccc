"""What predictions are read from, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Array(Protocol):
    """What is read of one; an :class:`h5py.Dataset` is one. Texts are ``bytes`` objects."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any) -> Any: ...


class Storage(Protocol):
    """Arrays by name, such as ``"items/label"``, and what they say of themselves."""

    @property
    def attrs(self) -> Mapping[str, Any]: ...

    def listed(self, group: str) -> list[str]:
        """Names of the arrays in a group, in the order of the alphabet."""
        ...

    def array(self, name: str) -> Array:
        """One of them; a ``KeyError`` where there is none."""
        ...

    def close(self) -> None: ...
