"""Telling whoever reads images what is going to be read next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Foreseeing(Protocol):
    """Images that are read better by whoever knows what comes next: from elsewhere, say."""

    def expect(self, rows: Iterable[int]) -> None:
        """Takes note of the rows that are going to be read next, in this order."""
        ...


def announce(images: object, rows: Iterable[int]) -> None:
    """Tells images what is going to be read of them, where they want to know."""
    if isinstance(images, Foreseeing):
        images.expect(rows)
