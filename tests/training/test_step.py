"""A step in pieces is the step as a whole; memory that runs out makes the pieces smaller."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

from fashionbatch.builtin.regularizers import ClipGrad, L2Activity, L2Kernel
from fashionbatch.errors import TrainingError
from fashionbatch.models.build import Classifier, Head
from fashionbatch.specs import HeadSpec, Preprocessing
from fashionbatch.training.distributed import Group
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.step import Forward, NotFiniteError, Stepper
from fashionbatch.training.targets import Loss, Targets
from fashionbatch.training.task import TrainingBatch


class Narrow(nn.Module):
    """A base that has memory for so many images at once, and counts its calls."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh())
        self.most, self.error = most, error
        self.sizes: list[int] = []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: 1 bytes")
        return self.net(images)


def stepper(most: int, micro_batch: int | None = None, error=torch.OutOfMemoryError, **options):
    torch.manual_seed(3)
    base = Narrow(most, error)
    model = Classifier(base, Head(6, 3, HeadSpec(hidden=(4,))), Preprocessing(size=2, resize=2))
    task = type("Plain", (), {"forward": staticmethod(lambda inputs: model(inputs[0]))})()
    told: list[int] = []
    made = Stepper(
        model=model, forward=Forward(model, task), loss=Loss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        regularizers=[L2Kernel(0.1), L2Activity(0.1)], device=torch.device("cpu"), group=Group(),
        bfloat16=False, micro_batch=micro_batch, on_memory=told.append, **options,
    )  # fmt: skip
    return made, base, told


def batch(rows: int = 10) -> TrainingBatch:
    images = torch.rand(rows, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 255
    category = torch.arange(rows) % 4 - 1
    return TrainingBatch((images,), Targets(category=category), tuple(map(str, range(rows))))


NO_FLAGS = torch.zeros(0)


def weights_after(made: Stepper) -> list[torch.Tensor]:
    for _ in range(3):
        made.step(batch(), NO_FLAGS)
    return [p.detach().clone() for p in made.model.parameters()]


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9, 10, 50])
def test_pieces_make_the_same_step(micro_batch):
    """Loss, penalties and gradients are those of the whole batch; a piece is never too large."""
    whole, base, _ = stepper(99)
    expected = weights_after(whole)
    pieces, base, _ = stepper(99, micro_batch)
    for a, b in zip(expected, weights_after(pieces), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert max(base.sizes) <= micro_batch
    outputs, loss, _ = pieces.step(batch(), NO_FLAGS)
    again, plain, _ = whole.step(batch(), NO_FLAGS)
    assert torch.allclose(outputs.logits, again.logits, atol=1e-5)
    assert loss == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves(error):
    """The same effective batch in smaller pieces, on a GPU's and on the CPU's complaint."""
    expected = weights_after(stepper(99)[0])
    short, base, told = stepper(3, error=error)
    for a, b in zip(expected, weights_after(short), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert told == [5, 3]
    assert base.sizes[:6] == [10, 5, 2, 3, 2, 3]


def test_what_did_not_fit_counts_in_no_running_statistics():
    """They are those of a run that began with pieces of that size."""
    states = []
    for most, micro_batch in ((3, None), (99, 3)):
        made, base, _ = stepper(most, micro_batch)
        norm = torch.nn.BatchNorm2d(3)
        base.register_forward_pre_hook(lambda module, inputs, norm=norm: (norm(inputs[0]),))
        base.add_module("norm", norm)
        made.model.train()
        made.step(batch(12), NO_FLAGS)
        states.append({k: v.clone() for k, v in norm.state_dict().items()})
    assert int(states[0]["num_batches_tracked"]) == 4
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_gradient_that_is_not_finite_changes_no_weight():
    """A loss may be finite and its gradient not: of a square root at 0, say."""

    class Root(Regularizer):
        def penalty(self, head, outputs, targets):
            return (outputs.logits.sum() * 0).sqrt()

    made, _, _ = stepper(99)
    before = [p.clone() for p in made.model.parameters()]
    made.regularizers = [Root()]
    with pytest.raises(NotFiniteError, match="a gradient is not finite"):
        made.step(batch(), NO_FLAGS)
    for parameter, value in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_out_of_memory_in_validation_halves_too():
    """Evaluation goes on in smaller pieces."""
    short, _, told = stepper(6)
    assert short.evaluate(batch().inputs).logits.shape == (10, 3)
    assert told == [5]


def test_memory_of_a_failed_attempt_is_given_back(monkeypatch):
    """A GPU's cache is emptied when nothing holds the tensors of the attempt any more."""
    made, base, _ = stepper(6)
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []
    forward = base.forward

    def remembering(images):
        activations = base.net(images)
        kept.append(weakref.ref(activations))
        return forward(images) if len(images) > 6 else activations

    monkeypatch.setattr(base, "forward", remembering)
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: alive.append([ref() is not None for ref in kept])
    )
    made.device = torch.device("cuda")  # what lies where is the caller's business
    made.step(batch(), NO_FLAGS)
    assert alive == [[False]]
    assert len(kept) == 3
    made.micro_batch = None
    made.evaluate(batch().inputs)
    assert alive[1:] == [[False] * 4]


def test_mixed_precision():
    """bfloat16 inside, float32 outside; an empty share is float32 throughout."""
    made, base, _ = stepper(99)
    made.bfloat16 = True
    types = []
    base.net.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    before = [p.detach().clone() for p in made.model.parameters()]
    outputs, loss, _ = made.step(batch(), NO_FLAGS)
    assert {t.dtype for t in (*outputs[:3], *outputs.dense)} == {torch.float32}
    exact = stepper(99)[0].step(batch(), NO_FLAGS)
    assert loss == pytest.approx(exact[1], rel=0.05) and loss != exact[1]
    assert all(
        p.dtype == torch.float32 and not torch.equal(p, old)
        for p, old in zip(made.model.parameters(), before, strict=True)
    )
    assert made.evaluate(batch().inputs).logits.dtype == torch.float32
    made.evaluate(batch(0).inputs)
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_one_image_too_many():
    """Nothing can be halved any more: one line says what to change."""
    with pytest.raises(TrainingError, match="--img-size"):
        stepper(0)[0].step(batch(), NO_FLAGS)


def test_other_errors_come_through():
    """A bug is not taken for want of memory."""
    made, base, _ = stepper(99)
    base.net = nn.Linear(5, 5)
    with pytest.raises(RuntimeError, match="shapes"):
        made.step(batch(), NO_FLAGS)


def test_loss_that_is_not_finite_changes_no_weight():
    """The step is not made."""
    made, _, _ = stepper(99)
    with torch.no_grad():
        made.model.head.dense[-1].bias[0] = float("nan")
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(NotFiniteError):
        made.step(batch(), NO_FLAGS)
    for name, value in made.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


class Elsewhere(Regularizer):
    """The step is made with the gradients at weights that are larger by ``by``."""

    def __init__(self, by: float) -> None:
        self.by = by
        self.came: list[torch.Tensor] = []

    @torch.no_grad()
    def after_backward(self, parameters, again):
        self.came.append(parameters[0].grad.clone())
        weights = [p.clone() for p in parameters]
        for p in parameters:
            p.add_(self.by)
        try:
            again()
        finally:
            for p, value in zip(parameters, weights, strict=True):
                p.copy_(value)


def gradients_at(*by: float) -> list[list[torch.Tensor]]:
    """Those of the batch with the stepper's penalties, with weights larger by so much."""
    found = []
    for value in by:
        made, _, _ = stepper(99)
        with torch.no_grad():
            for p in made.model.parameters():
                p.add_(value)
        made.optimizer.step = lambda: None
        made.step(batch(), NO_FLAGS)
        found.append([p.grad.clone() for p in made.trained])
    return found


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_gradients_at_other_weights(micro_batch):
    """They are those of the whole batch, penalties too; loss and outputs are of the first pass."""
    at_weights, at_others = gradients_at(0, 0.2)
    expected = stepper(99)[0].step(batch(), NO_FLAGS)
    made, _, _ = stepper(99, micro_batch)
    elsewhere = Elsewhere(0.2)
    made.regularizers = [elsewhere, *made.regularizers]
    start = [p.detach().clone() for p in made.trained]
    outputs, loss, _ = made.step(batch(), NO_FLAGS)
    assert torch.allclose(elsewhere.came[0], at_weights[0], atol=1e-6)
    for p, before, gradient in zip(made.trained, start, at_others, strict=True):
        assert torch.allclose(p, before - 0.5 * gradient, atol=1e-6)  # of SGD with its rate 0.5
    assert loss == pytest.approx(expected[1], abs=1e-6)
    assert torch.allclose(outputs.logits, expected[0].logits, atol=1e-5)


def test_gradients_at_other_weights_twice():
    """Each works on what those before it leave, also where it has it computed anew."""
    first, others, sum_of_both = gradients_at(0, 0.2, 0.3)
    made, _, _ = stepper(99)
    one, two = Elsewhere(0.2), Elsewhere(0.1)
    made.regularizers = [one, two, *made.regularizers]
    made.optimizer.step = lambda: None
    made.step(batch(), NO_FLAGS)
    assert len(one.came) == 2 and len(two.came) == 1
    assert torch.allclose(one.came[0], first[0], atol=1e-6)
    assert torch.allclose(two.came[0], others[0], atol=1e-6)
    assert torch.allclose(made.trained[0].grad, sum_of_both[0], atol=1e-6)


def test_gradients_are_clipped_in_the_end():
    """What is done to gradients is done to those that the step is made with."""
    made, _, _ = stepper(99)
    elsewhere = Elsewhere(0.2)
    made.regularizers = [ClipGrad(0.01), elsewhere, *made.regularizers]
    made.optimizer.step = lambda: None
    made.step(batch(), NO_FLAGS)
    assert torch.allclose(elsewhere.came[0], gradients_at(0)[0][0], atol=1e-6)
    norm = torch.cat([p.grad.flatten() for p in made.trained]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_running_statistics_are_of_one_pass(micro_batch):
    """A batch counts once in them, with the weights before the step; frozen ones stay."""
    found = []
    for regularizers in ([], [Elsewhere(0.2)]):
        made, base, _ = stepper(99, micro_batch)
        base.net.append(nn.BatchNorm1d(6))
        made.model.train()
        made.regularizers = regularizers
        made.step(batch(), NO_FLAGS)
        found.append({k: v.clone() for k, v in base.net[-1].named_buffers()})
    assert found[0]["num_batches_tracked"] == (3 if micro_batch else 1)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_memory_that_runs_out_at_other_weights():
    """The second pass is worked off in smaller pieces, too."""
    expected, _, _ = stepper(99)
    expected.regularizers = [Elsewhere(0.2), *expected.regularizers]
    short, base, told = stepper(99)

    class Shrinks(Elsewhere):
        def after_backward(self, parameters, again):
            base.most = 3
            super().after_backward(parameters, again)

    short.regularizers = [Shrinks(0.2), *short.regularizers]
    for made in (expected, short):
        made.step(batch(), NO_FLAGS)
    assert told == [5, 3]
    for a, b in zip(expected.trained, short.trained, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_loss_that_is_not_finite_at_other_weights():
    """No step is made, and the weights are those before it."""
    made, _, _ = stepper(99)
    made.regularizers = [Elsewhere(float("inf"))]
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(NotFiniteError):
        made.step(batch(), NO_FLAGS)
    assert all(torch.equal(v, before[k]) for k, v in made.model.state_dict().items())
