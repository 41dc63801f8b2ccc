"""The built-in components keep the contract that plugins are held to."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from fashionbatch import registry, testing
from fashionbatch.specs import SourceSpec

#: rates at which 60 steps are enough
RATES = {"asgd": 0.05, "adadelta": 1.0, "adagrad": 0.1, "radam": 0.05, "adafactor": 0.1}


def built_in(kind: str) -> list:
    return [c.spec for c in registry.components(kind) if c.provider == "fashionbatch"]


def each(kind: str):
    return pytest.mark.parametrize("spec", built_in(kind), ids=lambda spec: spec.name)


@each("optimizer")
def test_optimizers(spec) -> None:
    # rprop has a rate of its own for each weight
    heeds = spec.name != "rprop"
    testing.check_optimizer(spec, lr=RATES.get(spec.name, 0.01), heeds_lr=heeds)


class Branching(nn.Module):
    """A backbone beside a branch that may be left out."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.branch = StochasticDepth(0.5, "row")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features + self.branch(features.tanh())


@each("regularizer")
def test_regularizers(spec) -> None:
    change = Branching if spec.name == "stochastic-depth" else None
    testing.check_regularizer(spec, change=change)


@each("schedule")
def test_schedules(spec) -> None:
    testing.check_schedule(spec)


@each("logger")
def test_loggers(spec) -> None:
    testing.check_logger(spec)


@each("engine")
def test_engines(spec) -> None:
    testing.check_engine(spec)


@each("executor")
def test_executors(spec) -> None:
    testing.check_executor(spec)


@each("visualizer")
def test_visualizers(spec) -> None:
    if spec.name == "curves":
        pytest.skip("it draws the history of a run, and the small model has none")
    options = {"steps": 2} if spec.name in ("class-maximization", "deep-dream") else {}
    testing.check_visualizer(spec, **options)


@pytest.mark.parametrize(
    ("name", "size"), [("small-resnet", 28), ("resnet18", 64), ("mobilenet_v3_small", 64)]
)
def test_backbones(name: str, size: int) -> None:
    testing.check_backbone(registry.find("backbone", name).spec, size=size)


def test_folders_and_data_sets(catalog, tmp_path: Path) -> None:
    from fashionbatch import api

    photos = catalog({"dress": 3, "hat": 2})
    api.shard(photos, output=tmp_path / "packed", split="train=0.6,val=0.4")
    for name, path in (("folder", photos), ("dataset", tmp_path / "packed")):
        spec = registry.find("source", name).spec
        assert isinstance(spec, SourceSpec)
        testing.check_source(spec, path)
