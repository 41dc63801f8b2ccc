"""How many threads torch's operators take."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from fashionbatch.models.threads import GRAIN, limited, pieces


@pytest.mark.parametrize("shape", [(50, 1280), (1, 1280), (3, 32767), (7,), (0, 5), (4, 0)])
def test_pieces_are_the_rows_in_their_order(shape: tuple[int, ...]) -> None:
    """Whatever the rows are; each piece is below what torch shares out."""
    rows = torch.randn(shape)
    found = pieces(rows)
    assert torch.equal(torch.cat(found), rows)
    assert all(piece.numel() < GRAIN for piece in found)


def test_rows_that_are_large_stay_together() -> None:
    """There the threads are worth their while."""
    rows = torch.zeros(3, GRAIN)
    assert pieces(rows) == [rows]


def test_torch_takes_one_thread_for_a_piece() -> None:
    """And more for all rows at once: or the number is another one by now."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not tell how long a thread ran")
    rows = torch.randn(50, 1280)

    def beside(parts: list[torch.Tensor]) -> int:
        """What other threads run meanwhile; a thread that was used waits busily for a while."""
        before = ran_beside_this()
        for part in parts:
            part.half()
        while (now := ran_beside_this()) != (time.sleep(0.05), ran_beside_this())[1]:
            pass
        return now - before

    with limited(2):
        beside([torch.randn(GRAIN * 64)])  # its threads are there
        assert beside(pieces(rows) * 500) < beside([rows] * 500) / 2


def ran_beside_this() -> int:
    """Nanoseconds that all threads but this one have run."""
    mine = str(threading.get_native_id())
    tasks = (task for task in Path("/proc/self/task").iterdir() if task.name != mine)
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
