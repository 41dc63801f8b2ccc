"""How many threads torch's operators take, which is the whole process's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Within it torch's operators on the CPU take so many threads.

    Threads of a small operation wait for each other longer than they work, and where other
    processes want the cores, far longer.

    Example:
        >>> with limited(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    if count == before:  # setting it empties oneDNN's cache
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
