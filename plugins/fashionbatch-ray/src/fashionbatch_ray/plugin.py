"""What this package offers to fashionbatch: the executor ``ray``. Nothing here imports Ray."""

from __future__ import annotations

from collections.abc import Iterator

import fashionbatch


@fashionbatch.hookimpl
def fashionbatch_executors() -> Iterator[fashionbatch.ExecutorSpec]:
    """One executor."""
    yield fashionbatch.ExecutorSpec(
        name="ray",
        factory="fashionbatch_ray.executor:Ray",
        summary="actors on a Ray cluster, which share a file system or an object store",
        requires="pip install fashionbatch-ray",
    )
