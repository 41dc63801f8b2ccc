"""Which weights a training begins with, and the input that they were trained with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fashionbatch import registry
from fashionbatch.config import TrainConfig
from fashionbatch.errors import UsageError
from fashionbatch.models.build import find_backbone
from fashionbatch.specs import Preprocessing
from fashionbatch.training import job

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
OTHER = Preprocessing(size=24, resize=30, crop_mode="center", mean=(0.5, 0.5, 0.5))


@pytest.fixture
def weight_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small-resnet with two weight sets: all zeros, and all ones for another input."""
    component, spec = find_backbone("small-resnet")

    def state(value: float) -> dict[str, torch.Tensor]:
        network = registry.create(component)
        return {k: torch.full_like(v, value) for k, v in network.state_dict().items()}

    spec = dataclasses.replace(
        spec,
        weights={"zeros": lambda: state(0), "ones": lambda: state(1)},
        inputs={"ones": OTHER},
    )
    found = dataclasses.replace(component, spec=spec), spec
    monkeypatch.setattr(job, "find_backbone", lambda name: found)


def prepare(**options: Any) -> job.Job:
    config = TrainConfig(backbone="small-resnet", device="cpu", limit=4, batch_size=2, **options)
    return job.prepare(config, SAMPLE)


def first_weight(made: job.Job) -> float:
    return float(next(made.model.backbone.parameters()).flatten()[0])


@pytest.mark.usefixtures("weight_sets")
def test_the_first_set_is_the_default() -> None:
    made = prepare()
    assert (made.origin, made.config.weights) == ("zeros", "zeros")
    assert first_weight(made) == 0
    assert made.preprocessing == made.spec.preprocessing
    assert made.config.unfreeze == "blocks:3"


@pytest.mark.usefixtures("weight_sets")
def test_a_set_brings_its_input() -> None:
    made = prepare(weights="ones")
    assert first_weight(made) == 1
    assert made.preprocessing == OTHER
    assert (made.config.img_size, made.config.crop_mode) == (24, "center")
    assert float(made.model.mean.flatten()[0]) == 0.5
    asked = prepare(weights="ones", img_size=48, crop_mode="squash").preprocessing
    assert (asked.size, asked.resize, asked.crop_mode) == (48, 60, "squash")
    assert prepare(weights="none").preprocessing == made.spec.preprocessing


def test_without_a_set_one_line_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="comes without weights.*--weights none"):
        prepare()
    _, spec = find_backbone("small-resnet")
    with pytest.raises(ValueError, match=r"inputs names 'ones', which is none of its weights"):
        dataclasses.replace(spec, inputs={"ones": OTHER})
