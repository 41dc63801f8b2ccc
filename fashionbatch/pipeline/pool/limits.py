"""What one image may take."""

from __future__ import annotations

from dataclasses import dataclass

from fashionbatch.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Time and memory of one image.

    Attributes:
        seconds: to read and decode it. Time in which nobody waits for images does not count, so the
            limit also holds for a disk that stalls, but not for a program that was stopped.
        memory: bytes that a process that decodes may take beyond what it starts with (Linux only).
    """

    seconds: float = 30.0
    memory: int = 2 << 30

    def over_time(self) -> ImageError:
        """What is recorded of an image that took longer."""
        return ImageError("decode", f"took over {self.seconds:g} s")

    def over_memory(self, stage: str) -> ImageError:
        """What is recorded of an image that took more memory, and where it did."""
        unit, name = (1 << 30, "GiB") if self.memory >= 1 << 30 else (1 << 20, "MiB")
        return ImageError(stage, f"took over {self.memory / unit:g} {name} of memory")
