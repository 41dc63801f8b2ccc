"""Which precision ``auto`` is: what of it can be known without a GPU."""

from __future__ import annotations

import pytest
import torch

from fashionbatch.config import PredictConfig
from fashionbatch.inference.job import Site
from fashionbatch.models import device as devices


@pytest.mark.parametrize(
    ("device", "real", "auto"),
    [
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float16"),  # which GPUs had before, and which is no emulation
        ("cpu", True, "float32"),
        ("mps", True, "float32"),
    ],
)
def test_emulated_bfloat16_is_not_chosen(monkeypatch, device, real, auto):
    """torch's query is replaced: this says what follows from its answer, not that it is right."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported",
        lambda including_emulation=True: including_emulation or real,
    )  # fmt: skip

    monkeypatch.setattr(devices, "choose", torch.device)
    for asked in ("auto", "float32", "bfloat16", "float16"):
        site = Site.of(PredictConfig(device=device, precision=asked))
        assert site == Site(kind=device, precision=auto if asked == "auto" else asked)
