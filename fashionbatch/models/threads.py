"""How many threads torch's operators take, which is the whole process's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

#: elements from which torch shares an operation out among its threads (ATen's GRAIN_SIZE)
GRAIN = 32768


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


def pieces(rows: Tensor) -> list[Tensor]:
    """The rows of a tensor in pieces so small that torch takes one thread for each.

    Cheap operations on a few rows are shared out too, and where other processes want the cores,
    the threads then wait milliseconds for each other, for microseconds of work. Rows that are large
    themselves, and those on a GPU, stay together.

    Args:
        rows: ``[N, ...]``.

    Example:
        >>> [len(piece) for piece in pieces(torch.zeros(50, 1280))]
        [25, 25]
    """
    row = rows[:1].numel()
    together = (GRAIN - 1) // row if row and rows.device.type == "cpu" else 0
    return list(torch.split(rows, together)) if together else [rows]
