"""The pool where the system cannot fork: processes are started anew."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from fashionbatch.pipeline.pool import Limits, Pool
from fashionbatch.pipeline.pool import pool as module
from fashionbatch.specs import Preprocessing
from tests.conftest import encode


class Greys:
    """Row n is of the grey n, and row 2 crashes; can be pickled."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def read(self, row: int) -> bytes:
        if row == 2:
            os.abort()
        return self.files[row]


@pytest.mark.slow
def test_without_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same promises: batches in order, a crash costs one image."""
    monkeypatch.setattr(module, "can_fork", lambda: False)
    images = Greys([encode(Image.new("RGB", (9, 7), (n,) * 3), "PNG") for n in range(8)])
    how = Preprocessing(size=8, resize=8, crop_mode="squash")
    with Pool(images, how, batch_size=4, workers=1, limits=Limits()) as pool:
        seen = list(pool.batches([np.arange(4), np.arange(4, 8)]))
        assert [b.images[:, 0, 0, 0].tolist() for b in seen] == [[0, 1, 0, 3], [4, 5, 6, 7]]
        assert str(seen[0].failures[2]) == "decode: the decoder crashed (signal 6)"
