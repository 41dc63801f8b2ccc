"""Several shards at the same time, in threads: hashing and reading let other threads run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """What comes of each item, in the order of the items.

    Args:
        work: called in threads; an exception of it ends the others.
        items: what it is called with, one after the other.
        workers: items that are worked on at the same time.

    Example:
        >>> list(in_order(abs, [-3, 5], workers=2))
        [3, 5]
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
