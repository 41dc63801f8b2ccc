"""The contract that every engine is held to."""

from __future__ import annotations

from fashionbatch.testing import check_engine

from fashionbatch_onnxruntime import plugin


def test_engine() -> None:
    (spec,) = plugin.fashionbatch_engines()
    check_engine(spec)
