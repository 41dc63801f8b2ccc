"""The contract that every regularizer is held to."""

from __future__ import annotations

import fashionbatch
import pytest
from fashionbatch.testing import check_regularizer

from fashionbatch_sam import plugin


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_regularizers()), ids=lambda s: s.name)
def test_regularizers(spec: fashionbatch.RegularizerSpec) -> None:
    check_regularizer(spec)
