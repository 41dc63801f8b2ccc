"""Components by what a user writes, and a small model for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fashionbatch import registry
from fashionbatch.models.build import Classifier, Head
from fashionbatch.parse import parse_choice
from fashionbatch.specs import HeadSpec, Preprocessing
from fashionbatch.training.regularizer import Regularizer


def schedule(text: str, epochs: int = 30) -> Any:
    name, options = parse_choice(text)
    return registry.create(registry.find("schedule", name), epochs, **options)


def regularizer(text: str, model: Classifier | None = None) -> Regularizer:
    name, options = parse_choice(text)
    made: Regularizer = registry.create(registry.find("regularizer", name), **options)
    if model is not None:
        made.on_model(model)
    return made


class Backbone(nn.Module):
    """One convolution with batch normalization, averaged: ``[N, 3, H, W]`` → ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        return maps.mean(dim=(2, 3))


def model(classes: int = 3, attributes: int = 2, backbone: nn.Module | None = None) -> Classifier:
    """A small classifier, the same each time."""
    torch.manual_seed(0)
    head = Head(4, classes, HeadSpec(hidden=(5,)), attributes)
    return Classifier(backbone or Backbone(), head, Preprocessing(size=8, resize=8))
