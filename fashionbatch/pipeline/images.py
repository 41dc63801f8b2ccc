"""Where the bytes of images come from."""

from __future__ import annotations

from typing import Protocol


class Images(Protocol):
    """Whatever gives an image's bytes by its row, in any process."""

    def read(self, row: int) -> bytes:
        """The image file's bytes; raises ImageError where they cannot be used."""
        ...
