"""Where attention must help: a small patch at a random place decides, among clutter."""

from __future__ import annotations

from typing import NamedTuple

import fashionbatch
import pytest
import torch
from fashionbatch.models.build import Classifier, Head
from fashionbatch.training.targets import Loss
from torch import Tensor, nn

from fashionbatch_attention.landmarks import LandmarkAttention
from fashionbatch_attention.networks import attended

SIDE, CELL, CLASSES, CLUTTER = 32, 4, 4, 48
#: of the patch that decides, of one that does not matter, and of all others
COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.1, 0.1), (1.0, 1.0, 0.4))
#: one half of a cell is dark
MARKS = torch.ones(CLASSES, CELL, CELL)
MARKS[0, :2] = MARKS[1, 2:] = MARKS[2, :, :2] = MARKS[3, :, 2:] = 0.3


class Patches(NamedTuple):
    """Images uint8 ``[N, 3, 32, 32]``, classes ``[N]``, and red patches as landmarks."""

    images: Tensor
    category: Tensor
    landmarks: Tensor


def patches(count: int, seed: int) -> Patches:
    """A white patch with one of four marks; yellow ones with any mark, a red one, and noise."""
    draw = torch.Generator().manual_seed(seed)
    side = SIDE // CELL
    images = torch.zeros(count, 3, SIDE, SIDE)
    category = torch.randint(0, CLASSES, (count,), generator=draw)
    landmarks = torch.zeros(count, 1, 3)
    for number in range(count):
        cells = torch.randperm(side * side, generator=draw)[:CLUTTER].tolist()
        for place, cell in enumerate(cells):
            y, x = (CELL * v for v in divmod(cell, side))
            mark = int(category[number]) if not place else int(torch.randint(4, (), generator=draw))
            # clutter has the same marks: the colour alone tells it from the patch
            ink = torch.tensor(COLOURS[min(place, 2)])[:, None, None]
            images[number, :, y : y + CELL, x : x + CELL] = ink * MARKS[mark]
            if place == 1:
                landmarks[number, 0, 1] = (x + CELL / 2) / SIDE
                landmarks[number, 0, 2] = (y + CELL / 2) / SIDE
    images += 0.1 * torch.randn(images.shape, generator=draw)
    return Patches((255 * images).clamp(0, 255).to(torch.uint8), category, landmarks)


class Plain(nn.Module):
    """Sees one cell at a time, then averages."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 32, CELL, CELL), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.see(images)
        return maps.mean(dim=(2, 3))


TRAIN, TEST = patches(512, 0), patches(256, 1)


def trained(attention: bool, *penalties: LandmarkAttention) -> Classifier:
    torch.manual_seed(0)
    backbone = attended(Plain(), channels=32) if attention else Plain()
    fitted = fashionbatch.Preprocessing(size=SIDE, resize=SIDE)
    model = Classifier(backbone, Head(32, CLASSES, fashionbatch.HeadSpec()), fitted).train()
    model.backbone.get_submodule("see").requires_grad_(False)  # as a pretrained network's base
    for penalty in penalties:
        penalty.on_model(model)
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=0.2), Loss()
    for _ in range(30):
        for rows in torch.randperm(len(TRAIN.images)).split(64):
            aims = fashionbatch.Targets(
                category=TRAIN.category[rows], landmarks=TRAIN.landmarks[rows]
            )
            outputs = model(TRAIN.images[rows])
            whole = loss(outputs, aims, loss.norms(aims))
            for penalty in penalties:
                found = penalty.penalty(model.head, outputs, aims)
                assert found is not None
                whole = whole + found
            optimizer.zero_grad()
            whole.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier) -> float:
    answers = model(TEST.images).logits.argmax(dim=1)
    return float((answers == TEST.category).float().mean())


@torch.no_grad()
def at_red(model: Classifier) -> float:
    """The attention's mean weight of the red patch; 1/64 where all places count the same."""
    maps = model.backbone.get_submodule("see")(model.normalized(TEST.images))
    weights = model.backbone.get_submodule("attention").attention(maps).mean(dim=1)  # type: ignore[operator]
    cells = (TEST.landmarks[:, 0, 1:] * SIDE / CELL).long()
    return float(weights[torch.arange(len(weights)), cells[:, 1], cells[:, 0]].mean())


@pytest.fixture(scope="module")
def attentive() -> Classifier:
    return trained(True)


def test_attention_finds_what_decides(attentive: Classifier) -> None:
    """On images that were not trained on; by chance a quarter is right."""
    assert accuracy(attentive) > 0.95
    assert accuracy(trained(False)) < 0.6


def test_landmarks_draw_the_attention(attentive: Classifier) -> None:
    """To the red patches, which the class has nothing to do with."""
    assert at_red(attentive) < 0.1
    assert at_red(trained(True, LandmarkAttention(weight=2, spread=0.03))) > 0.8
