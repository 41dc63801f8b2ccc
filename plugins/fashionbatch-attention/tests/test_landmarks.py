"""The regularizer's formula by hand, and what it refuses."""

from __future__ import annotations

import math

import fashionbatch
import pytest
import torch
from fashionbatch import registry
from fashionbatch.errors import UsageError
from fashionbatch.models.build import Classifier, Head
from torch import Tensor, nn

from fashionbatch_attention.landmarks import LandmarkAttention
from fashionbatch_attention.networks import attended

HEIGHT, WIDTH = 3, 4


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.see(images)
        return maps.mean(dim=(2, 3))


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    backbone = attended(Tiny(), channels=4, heads=2)
    nn.init.normal_(backbone.get_parameter("attention.score.weight"))
    preprocessing = fashionbatch.Preprocessing(size=4, resize=4)
    return Classifier(backbone, Head(4, 2, fashionbatch.HeadSpec()), preprocessing)


def run(
    model: Classifier, penalty: LandmarkAttention, landmarks: Tensor, rows: slice = slice(None)
) -> Tensor:
    images = torch.rand(
        len(landmarks), 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)
    )
    outputs = model(255 * images[rows])
    found = penalty.penalty(model.head, outputs, fashionbatch.Targets(landmarks=landmarks[rows]))
    assert found is not None
    return found


#: two visible and an occluded one; one visible; none; cut off only
LANDMARKS = torch.tensor(
    [
        [[0, 0.1, 0.9], [0, 0.8, 0.3], [1, 0.5, 0.5]],
        [[0, 0.5, 0.5], [2, 0.0, 0.0], [2, 0.0, 0.0]],
        [[2, 0.0, 0.0], [2, 0.0, 0.0], [2, 0.0, 0.0]],
        [[2, 0.3, 0.3], [1, 0.2, 0.2], [2, 0.0, 0.0]],
    ]
)


def by_hand(model: Classifier, landmarks: Tensor, weight: float, spread: float) -> float:
    scores = model.backbone.get_submodule("attention").scores
    assert isinstance(scores, Tensor)
    total = 0.0
    for image, points in zip(scores.detach().double().tolist(), landmarks.tolist(), strict=True):
        shown = [(x, y) for visibility, x, y in points if visibility == 0]
        if not shown:
            continue
        places = [(i, j) for i in range(HEIGHT) for j in range(WIDTH)]
        attention = []
        for i, j in places:
            shares = [
                math.exp(head[i][j]) / sum(math.exp(head[a][b]) for a, b in places)
                for head in image
            ]
            attention.append(sum(shares) / len(shares))
        aims = [0.0] * len(places)
        for x, y in shown:
            values = [
                math.exp(
                    -(((j + 0.5) / WIDTH - x) ** 2 + ((i + 0.5) / HEIGHT - y) ** 2)
                    / (2 * spread**2)
                )
                for i, j in places
            ]
            aims = [a + v / sum(values) / len(shown) for a, v in zip(aims, values, strict=True)]
        total -= sum(a * math.log(p) for a, p in zip(aims, attention, strict=True))
    return weight * total / len(landmarks)


def test_by_hand(model: Classifier) -> None:
    """Items without a visible landmark count with 0."""
    penalty = LandmarkAttention(weight=0.7, spread=0.2)
    penalty.on_model(model)
    found = run(model, penalty, LANDMARKS)
    assert found.item() == pytest.approx(by_hand(model, LANDMARKS, 0.7, 0.2), rel=1e-5)
    none = run(model, penalty, LANDMARKS[2:])
    assert none.item() == 0
    none.backward()
    empty = run(model, penalty, torch.zeros(2, 0, 3))
    assert empty.item() == 0


def test_pieces_add_up(model: Classifier) -> None:
    penalty = LandmarkAttention()
    penalty.on_model(model)
    whole = run(model, penalty, LANDMARKS).item()
    pieces = [run(model, penalty, LANDMARKS, rows).item() for rows in (slice(0, 1), slice(1, 4))]
    assert 0.25 * pieces[0] + 0.75 * pieces[1] == pytest.approx(whole, rel=1e-5)


def test_draws_the_attention_there(model: Classifier) -> None:
    """Also from a place that it has turned away from so far that its weight is 0 in float32."""
    penalty = LandmarkAttention(weight=1, spread=0.02)
    penalty.on_model(model)
    attention = penalty.attention
    images = torch.full((1, 3, HEIGHT, WIDTH), 100.0)
    images[0, :, 0, WIDTH - 1] = 150.0
    targets = fashionbatch.Targets(landmarks=torch.tensor([[[0.0, 0.88, 0.16]]]))
    maps = model.backbone.get_submodule("see")(model.normalized(images))
    apart = (maps[0, :, 0, WIDTH - 1] - maps[0, :, 0, 0]).detach()
    with torch.no_grad():
        attention.score.weight.copy_((-400 * apart / apart.square().sum())[None, :, None, None])
    assert attention.attention(maps)[0, :, 0, WIDTH - 1].tolist() == [0, 0]
    optimizer = torch.optim.Adam([attention.score.weight], lr=10)
    for _ in range(200):
        optimizer.zero_grad()
        loss = penalty.penalty(model.head, model(images), targets)
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert attention.attention(maps)[0, :, 0, WIDTH - 1].mean().item() > 0.9


def test_what_cannot_work_is_refused(model: Classifier) -> None:
    penalty = LandmarkAttention()
    plain = Classifier(Tiny(), model.head, fashionbatch.Preprocessing(size=4, resize=4))
    with pytest.raises(ValueError, match="pools without attention: use a backbone attention-NAME"):
        penalty.on_model(plain)
    model.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="is frozen: --unfreeze blocks:1 trains it"):
        penalty.on_model(model)
    model.backbone.requires_grad_(True)
    penalty.on_model(model)
    outputs = model(torch.rand(2, 3, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="no landmarks, which mixed images lose"):
        penalty.penalty(model.head, outputs, fashionbatch.Targets())
    model.backbone.get_submodule("attention").eval()  # as in --freeze-epochs
    assert penalty.penalty(model.head, outputs, fashionbatch.Targets()) is None


@pytest.mark.parametrize(
    "options", [{"weight": -1}, {"weight": math.nan}, {"spread": 0}, {"spread": math.inf}]
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        registry.create(registry.find("regularizer", "landmark-attention"), **options)
