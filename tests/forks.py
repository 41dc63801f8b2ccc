"""For tests that fork."""

from __future__ import annotations

import os

import torch


def one_core() -> None:
    """In a child, before it runs a network: the parent's threads are not there after a fork.

    Whoever waits for them waits for ever, and engines ask for a thread on each core.
    """
    torch.set_num_threads(1)
    os.sched_getaffinity = lambda process: {0}
