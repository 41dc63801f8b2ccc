"""What breaks the contract is named, in one line."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import fashionbatch
from fashionbatch import testing
from fashionbatch.specs import (
    BackboneSpec,
    EngineSpec,
    ExecutorSpec,
    LoggerSpec,
    OptimizerSpec,
    Preprocessing,
    RegularizerSpec,
    ScheduleSpec,
    SourceSpec,
    VisualizerSpec,
)

TICK = itertools.count()


def spec_of(kind: type, factory, **more):
    return kind(name="broken", factory=factory, summary="", **more)


class Net(nn.Module):
    """A small backbone that keeps the contract; each subclass breaks a part."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, images):
        return self.two(self.one(images)).mean(dim=(2, 3))


class Wide(Net):
    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Linear(8, 40_000)

    def forward(self, images):
        return self.three(super().forward(images))


class Maps(Net):
    def forward(self, images):
        return self.two(self.one(images))


class Mixed(Net):
    def forward(self, images):
        found = super().forward(images)
        return found - found.mean(dim=0)


class Noisy(Net):
    def forward(self, images):
        return super().forward(images) + torch.rand(1)


class Stuck(Net):
    def forward(self, images):
        return self.two(self.one(images)).mean(dim=(2, 3)).detach() + self.one(images).mean((2, 3))


class Scaled(Net):
    def forward(self, images):
        return super().forward(images) * float("inf")


@pytest.mark.parametrize(
    ("net", "more", "told"),
    [
        (Net, {}, None),
        (Wide, {"parameters": 0.1}, "parameters, its spec says 0.1 million"),
        (Net, {"cam_layer": "three"}, "no module 'three'"),
        (Net, {"blocks": ("one", "four")}, "matches its block pattern 'four'"),
        (Net, {"blocks": ("one", "one.*")}, "lies within another one"),
        (Net, {"cam_layout": "tokens"}, "no maps of the layout tokens"),
        (Net, {"shown_layers": ("six",)}, "of its shown_layers"),
        (lambda: 3, {}, "gives int, not a torch.nn.Module"),
        (Maps, {}, r"not \[N, D\]"),
        (Mixed, {}, "depend on the batch's other images"),
        (Noisy, {}, "other numbers each time"),
        (Stuck, {}, "no gradient reaches 'two'"),
        (Scaled, {}, "not finite"),
    ],
)
def test_backbones(net, more, told) -> None:
    values = {"blocks": ("one", "two"), "cam_layer": "two", **more}
    spec = spec_of(BackboneSpec, net, preprocessing=Preprocessing(size=32, resize=32), **values)
    if told is None:
        testing.check_backbone(spec)
        return
    with pytest.raises(AssertionError, match=told) as caught:
        testing.check_backbone(spec)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("broken: ")


class Still(torch.optim.SGD):
    def step(self, closure=None):
        """Does nothing."""


class Deaf(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.05
        return super().step(closure)


class Forgetful(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.speed = {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.speed[p] = 0.5 * self.speed.get(p, 0) + p.grad
                p.sub_(self.speed[p], alpha=group["lr"])


class Zeros(torch.optim.SGD):
    def train(self):
        """Nothing to put back: the framework does."""

    @torch.no_grad()
    def eval(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.zero_()


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (Zeros, r"behind its eval\(\) the loss is"),
        (Still, "not below its half"),
        (Deaf, r"\[.lr.\] is 0"),
        (Forgetful, "behind a checkpoint it takes other steps"),
        (lambda params, lr: 3, "gives int"),
    ],
)
def test_optimizers(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_optimizer(spec_of(OptimizerSpec, factory, options=()), lr=0.05)


class InPlace(fashionbatch.Regularizer):
    def on_batch(self, images, targets):
        images[:] = 0
        return images, targets


class Vector(fashionbatch.Regularizer):
    def penalty(self, head, outputs, targets):
        return outputs.logits


class Lost(fashionbatch.Regularizer):
    def __init__(self) -> None:
        self.steps = 0

    def penalty(self, head, outputs, targets):
        self.steps += 1
        return outputs.logits.square().sum() * 0.01 * self.steps


class Other(Lost):
    def state_dict(self):
        return {"steps": object()}


class Wanders(fashionbatch.Regularizer):
    def after_backward(self, parameters, again):
        with torch.no_grad():
            for p in parameters:
                p.add_(0.1)
        again()


class Careless(fashionbatch.Regularizer):
    def after_backward(self, parameters, again):
        with torch.no_grad():
            kept = [p.clone() for p in parameters]
            for p in parameters:
                p.add_(0.1)
        again()
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)


class Endless(fashionbatch.Regularizer):
    def after_backward(self, parameters, again):
        again()
        for p in parameters:
            p.grad /= 0


class Foreign(fashionbatch.Regularizer):
    def evaluated(self, model):
        return {"nothing": torch.zeros(1)}


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (InPlace, "changes the tensors"),
        (Vector, "not a finite scalar"),
        (Lost, "keep all of its memory"),
        (Other, "not a JSON value or a tensor"),
        (Wanders, r"not put the weights back where again\(\) raises"),
        (Careless, r"not put the weights back where again\(\) raises"),
        (Endless, "leaves gradients that are not finite"),
        (Foreign, "which the model does not have"),
        (lambda: nn.Identity(), "not a fashionbatch.Regularizer"),
    ],
)
def test_regularizers(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_regularizer(spec_of(RegularizerSpec, factory))


class Memory(fashionbatch.Schedule):
    def __init__(self, epochs):
        self.factor = 1.0

    def __call__(self, epoch):
        return self.factor

    def after_epoch(self, epoch, metrics):
        self.factor /= 2


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (lambda epochs: lambda epoch: -epoch, "no factor from 0 on"),
        (lambda epochs: lambda epoch: 0.0, "never lets anything be learnt"),
        (lambda epochs: 0.5, "cannot be called"),
        (Memory, "gives other factors"),
    ],
)
def test_schedules(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_schedule(spec_of(ScheduleSpec, factory))


class Beside(fashionbatch.Logger):
    def __init__(self, folder):
        (folder.parent / "log.txt").write_text("here")


def test_loggers() -> None:
    with pytest.raises(AssertionError, match="writes log.txt beside"):
        testing.check_logger(spec_of(LoggerSpec, Beside))


class Rounded(fashionbatch.Engine):
    def __init__(self, job):
        self.module = job.module

    def run(self, images):
        with torch.inference_mode():
            return tuple(a.round() for a in self.module(images))


class Together(Rounded):
    def run(self, images):
        with torch.inference_mode():
            logits, features = self.module(images)
            return logits + features.sum() * 1e-6, features


@pytest.mark.parametrize(
    ("factory", "told"),
    [(Rounded, "of the largest answer"), (Together, "depends on the other images")],
)
def test_engines(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_engine(spec_of(EngineSpec, factory, devices=("cpu",)))


class TasksOnly(fashionbatch.Executor):
    def run(self, lending):
        worker = lending.worker("")
        while (lease := lending.take(1)) is not None:
            alone = fashionbatch.Lease(lease.tasks)
            worker.do(alone, partial(lending.hear, lease), lending.asked)
            lending.finish(lease)


class Leaves(fashionbatch.Executor):
    def run(self, lending):
        lending.take(1)


@pytest.mark.parametrize(
    ("factory", "told"),
    [(TasksOnly, "the tasks only, and not the parcel"), (Leaves, "before all leases are finished")],
)
def test_executors(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_executor(spec_of(ExecutorSpec, factory), deaths=False)


class Random(fashionbatch.Visualizer):
    def draw(self, explained, photos):
        for photo in photos:
            image = Image.new("L", (4, 4), next(TICK) % 256)
            yield fashionbatch.Picture(name=photo.name, image=image)


class Hooked(fashionbatch.Visualizer):
    def draw(self, explained, photos):
        explained.cam_layer.register_forward_hook(lambda *_: None)
        yield fashionbatch.Picture(name="x", image=Image.new("L", (4, 4)))


class Silent(fashionbatch.Visualizer):
    def draw(self, explained, photos):
        return []


@pytest.mark.parametrize(
    ("factory", "told"),
    [(Random, "another picture"), (Hooked, "leaves a hook"), (Silent, "draws no picture")],
)
def test_visualizers(factory, told) -> None:
    with pytest.raises(AssertionError, match=told):
        testing.check_visualizer(spec_of(VisualizerSpec, factory))


def test_a_visualizer_that_says_it_needs_no_model() -> None:
    """It gets none."""
    spec = spec_of(VisualizerSpec, Hooked, needs_model=False)
    with pytest.raises(AttributeError, match="'Subject' object has no attribute 'cam_layer'"):
        testing.check_visualizer(spec)


class Twice(fashionbatch.Source):
    def __init__(self, path):
        self.path = path

    def items(self):
        for _ in range(2):
            yield fashionbatch.Item(name="a.jpg", path=self.path / "dress" / "0.jpg")


class Gone(Twice):
    def items(self):
        yield fashionbatch.Item(name="a.jpg", path=self.path / "nothing.jpg")


@pytest.mark.parametrize(
    ("factory", "detect", "told"),
    [
        (Twice, lambda path: path.is_dir() and any(path.iterdir()), "twice"),
        (Gone, lambda path: path.is_dir() and any(path.iterdir()), "cannot be read"),
        (Twice, lambda path: False, "does not give True"),
        (Twice, lambda path: True, "is not False"),
    ],
)
def test_sources(factory, detect, told, catalog) -> None:
    path: Path = catalog({"dress": 1})
    with pytest.raises(AssertionError, match=told):
        testing.check_source(spec_of(SourceSpec, factory, detect=detect), path)
