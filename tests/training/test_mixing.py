"""Regularizers that change images and targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fashionbatch.errors import UsageError
from fashionbatch.training.targets import Loss, Targets
from tests.training.components import model, regularizer

MIXING = ["mixup", "cutmix"]
ALL = [*MIXING, "label-smoothing", "random-erasing:p=0.9"]
CLASSES, ATTRIBUTES = 3, 2
MODEL = model(CLASSES, ATTRIBUTES)


def batch(
    seed: int, count: int = 6, *, shares: bool = False, dtype: torch.dtype = torch.uint8
) -> tuple[Tensor, Targets]:
    """Images of random pixels; some of the targets are not known."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 9, 11), generator=random).to(dtype)
    category = torch.randint(-1, CLASSES, (count,), generator=random)
    if shares:
        rows = torch.rand(count, CLASSES, generator=random)
        category = rows / rows.sum(1, keepdim=True) * (category >= 0)[:, None]
    attributes = torch.rand(count, ATTRIBUTES, generator=random)
    known = torch.rand(count, ATTRIBUTES, generator=random) < 0.6
    return images, Targets(category=category, attributes=attributes, known=known)


def present(targets: Targets) -> dict[str, Tensor]:
    return {k: v for k, v in vars(targets).items() if v is not None}


def copied(targets: Targets) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in present(targets).items()}


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", ALL)
def test_batch_given_is_untouched_and_draws_repeat(
    name: str, dtype: torch.dtype, shares: bool
) -> None:
    """torch's state alone decides what comes out; numpy's, and the batch given, stay."""
    images, targets = batch(1, shares=shares, dtype=dtype)
    before, aims = images.clone(), copied(targets)
    change = regularizer(name, MODEL)
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    found, changed = change.on_batch(images, targets)
    torch.set_rng_state(state)
    again, same = change.on_batch(images, targets)
    assert torch.equal(found, again) and found.shape == images.shape
    assert all(torch.equal(v, vars(same)[k]) for k, v in present(changed).items())
    assert torch.equal(images, before)
    assert all(torch.equal(v, aims[k]) for k, v in present(targets).items())
    assert (np.random.get_state()[1] == other).all()  # noqa: NPY002
    assert found.min() >= 0 and found.max() <= 255
    assert torch.isfinite(Loss()(MODEL(found), changed, Loss().norms(changed)))


def test_label_smoothing() -> None:
    """(1 - ε)·target + ε / classes; attributes towards 1/2; what is not known stays so."""
    targets = Targets(
        category=torch.tensor([2, -1]),
        attributes=torch.tensor([[1.0, 0.0], [0.0, 0.5]]),
        known=torch.tensor([[True, False], [True, True]]),
    )
    images = torch.zeros(2, 3, 4, 4)
    found, smooth = regularizer("label-smoothing:weight=0.3", MODEL).on_batch(images, targets)
    assert found is images
    assert torch.allclose(smooth.category, torch.tensor([[0.1, 0.1, 0.8], [0.0, 0.0, 0.0]]))
    assert torch.allclose(smooth.attributes, torch.tensor([[0.85, 0.15], [0.15, 0.5]]))
    assert torch.equal(smooth.known, targets.known)


def test_smoothed_loss_is_torchs() -> None:
    """Against torch's own label smoothing, items without a category included."""
    torch.manual_seed(0)
    logits, category = torch.randn(20, CLASSES), torch.randint(-1, CLASSES, (20,))
    aims = Targets(category=category)
    _, smooth = regularizer("label-smoothing", MODEL).on_batch(torch.zeros(20, 3, 4, 4), aims)
    outputs = MODEL(torch.zeros(20, 3, 8, 8))._replace(logits=logits)
    expected = torch.nn.functional.cross_entropy(
        logits, category, label_smoothing=0.1, ignore_index=-1
    )
    assert torch.allclose(Loss()(outputs, smooth, Loss().norms(smooth)), expected)


@settings(max_examples=40)
@given(st.sampled_from(MIXING), st.integers(0, 2**31), st.booleans())
def test_targets_are_mixed_as_images_are(name: str, seed: int, shares: bool) -> None:
    """Each image is flat with its own value, so the mixed image tells who is in it and how much."""
    _, targets = batch(seed, 5, shares=shares)
    values = torch.tensor([1.0, 10.0, 100.0, 1_000.0, 10_000.0])
    images = values[:, None, None, None].expand(5, 3, 9, 11).clone()
    change = regularizer(name, MODEL)
    torch.manual_seed(seed)
    found, mixed = change.on_batch(images, targets)
    # the same draws once more: identity "attributes" say each item's weights
    torch.manual_seed(seed)
    ones = Targets(attributes=torch.eye(5), known=torch.ones(5, 5, dtype=torch.bool))
    _, weights = change.on_batch(images, ones)
    w = weights.attributes
    assert torch.allclose(w.sum(1), torch.ones(5)) and ((w > 0).sum(1) <= 2).all()
    assert torch.allclose(found.mean(dim=(1, 2, 3)), w @ values, rtol=1e-4)
    assert weights.category is None and weights.known.all()
    # with a share of exactly 0 or 1 the weights do not show who was the partner
    assume(not torch.equal(w, torch.eye(5)) and bool((w.diagonal() > 0).all()))
    partners = w > 0
    own = targets.shares(CLASSES)
    both = torch.stack([(own.sum(1) > 0)[row].all() for row in partners])
    assert torch.allclose(mixed.category, (w @ own) * both[:, None], atol=1e-6)
    assert torch.allclose(mixed.attributes, w @ targets.attributes, atol=1e-6)
    assert torch.equal(mixed.known, torch.stack([targets.known[row].all(0) for row in partners]))


def test_mixup_draws_from_beta() -> None:
    """The share of the own image has Beta(α, α)'s mean and variance, with a tiny α too."""
    torch.manual_seed(0)
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    none = Targets()
    for alpha in (0.2, 1.0, 5.0, 1e-6):
        mix = regularizer(f"mixup:alpha={alpha}", MODEL)
        found = torch.stack([mix.on_batch(images, none)[0][0, 0, 0, 0] for _ in range(1500)])
        # the partner is the other one in half of the cases: then 1 - λ, else 0
        assert torch.isfinite(found).all()
        assert found.mean().item() == pytest.approx(0.25, abs=0.04)
        square = 0.25 + 1 / (4 * (2 * alpha + 1))
        assert found.square().mean().item() == pytest.approx(square / 2, abs=0.04)


def test_cutmix_pastes_one_rectangle() -> None:
    """Pixels are the own ones or the partner's at the same place, in one rectangle."""
    torch.manual_seed(3)
    images = torch.arange(2 * 3 * 40 * 30).view(2, 3, 40, 30).float()
    cut = regularizer("cutmix", MODEL)
    sizes = []
    for _ in range(200):
        found, _ = cut.on_batch(images, Targets())
        own = (found == images).all(dim=1)
        assert ((found == images) | (found == images.flip(0))).all()
        rows, columns = torch.nonzero(~own[0], as_tuple=True)
        if len(rows):
            spans = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert len(rows) == spans
            sizes.append(len(rows) / 1200)
    assert min(sizes) < 0.1 and max(sizes) > 0.6


def test_cutmix_cuts_the_square_root_of_the_share() -> None:
    """With λ held at 1/2 a rectangle that no edge cuts is √½ high and wide, of even length."""
    torch.manual_seed(0)
    images = torch.arange(2 * 3 * 40 * 30).view(2, 3, 40, 30).float()
    cut = regularizer("cutmix:alpha=1e9", MODEL)
    sizes = set()
    for _ in range(120):
        pasted = (cut.on_batch(images, Targets())[0] != images)[0, 0]
        sizes.add((int(pasted.any(1).sum()), int(pasted.any(0).sum())))
    assert max(height for height, _ in sizes) == 28
    assert max(width for _, width in sizes) == 20


def test_cutmix_takes_maps_and_refuses_vectors() -> None:
    """Spatial activations have something to cut, vectors have not."""
    cut = regularizer("cutmix", MODEL)
    targets = Targets(category=torch.tensor([0, 1]))
    assert cut.on_batch(torch.randn(2, 64, 7, 7), targets)[0].shape == (2, 64, 7, 7)
    with pytest.raises(ValueError, match=r"not \[2, 64\].*mixup"):
        cut.on_batch(torch.randn(2, 64), targets)
    mixed, _ = regularizer("mixup", MODEL).on_batch(torch.randn(2, 64), targets)
    assert mixed.shape == (2, 64)


def test_random_erasing() -> None:
    """A share p of the images has one rectangle of noise within the paper's sizes."""
    torch.manual_seed(0)
    images = torch.full((400, 3, 40, 50), 7, dtype=torch.uint8)
    found, targets = regularizer("random-erasing").on_batch(images, Targets())
    assert found.dtype == torch.uint8 and targets.category is None
    changed = (found != images).any(dim=1)
    erased = [torch.nonzero(c, as_tuple=True) for c in changed if c.any()]
    assert 70 < len(erased) < 130
    for rows, columns in erased:
        height = int(rows.max() - rows.min() + 1)
        width = int(columns.max() - columns.min() + 1)
        # pixels of noise that equal 7 in all channels are one in 16 million
        assert len(rows) == height * width
        assert 0.01 < height * width / 2000 < 0.42
        assert 0.2 < height / width < 4.5
    noise = found[found != 7].float()
    assert noise.min() == 0 and noise.max() == 255 and 120 < noise.mean() < 135


def test_random_erasing_refuses_features() -> None:
    """What the frozen part computed has no pixels."""
    for shape in ((2, 64), (2, 64, 7, 7)):
        with pytest.raises(ValueError, match="random-erasing erases pixels"):
            regularizer("random-erasing").on_batch(torch.zeros(shape), Targets())


@pytest.mark.parametrize(
    "text",
    ["label-smoothing:weight=2", "mixup:alpha=0", "cutmix:alpha=-1", "random-erasing:p=1.5"],
)
def test_bad_values(text: str) -> None:
    """Values that mix nothing are refused."""
    with pytest.raises(UsageError):
        regularizer(text)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_gpu_draws_what_the_cpu_draws(name: str) -> None:
    """Where the batch lies changes nothing."""
    images, targets = batch(2)
    change = regularizer(name, MODEL)
    torch.manual_seed(1)
    expected, aims = change.on_batch(images, targets)
    torch.manual_seed(1)
    found, changed = change.on_batch(images.cuda(), targets.to("cuda"))
    assert found.is_cuda and torch.allclose(found.cpu(), expected, atol=1e-3)
    for name, value in present(changed).items():
        assert value.is_cuda and torch.allclose(value.cpu().float(), vars(aims)[name].float())
