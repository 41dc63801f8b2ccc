"""Decoding in processes that can be killed, so that no image can end or stop a run."""

from fashionbatch.pipeline.pool.limits import Limits
from fashionbatch.pipeline.pool.pool import Loaded, Pool

__all__ = ["Limits", "Loaded", "Pool"]
