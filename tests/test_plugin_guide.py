"""The package that plugins/README.md builds, from its own blocks of code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fashionbatch
from fashionbatch import plugins, registry, testing
from fashionbatch.models.build import build, find_backbone
from fashionbatch.training import checkpoint
from fashionbatch.training.distributed import Group
from fashionbatch.training.step import Forward, Stepper
from fashionbatch.training.targets import Loss, Targets
from fashionbatch.training.task import TrainingBatch
from tests.training.components import model, regularizer, schedule

GUIDE = (Path(__file__).parents[1] / "plugins" / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", GUIDE, re.M | re.S))
COMPONENTS = (
    ("optimizer", "signum"),
    ("regularizer", "confidence-penalty"),
    ("regularizer", "label-noise"),
    ("regularizer", "flat"),
    ("schedule", "halve"),
    ("logger", "lines"),
    ("visualizer", "saliency"),
)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> None:
    """The guide's files, installed."""
    for name, text in BLOCKS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    info = tmp_path / "fashionbatch_example-0.1.0.dist-info"
    info.mkdir()
    entry = re.search(r"^example = \"(.+)\"$", BLOCKS["pyproject.toml"], re.M)
    assert entry is not None
    (info / "entry_points.txt").write_text(f"[fashionbatch]\nexample = {entry[1]}\n")
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fashionbatch-example\nVersion: 0.1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.discover.cache_clear()


def test_package_hands_over_its_components() -> None:
    """Nothing in it is broken, and everything can be imported."""
    example = next(p for p in plugins.discover() if p.name == "example")
    assert (example.status, example.error) == ("ok", "")
    assert tuple((kind, spec.name) for kind, spec in example.components) == COMPONENTS
    for kind, name in COMPONENTS:
        assert callable(registry.resolve(registry.find(kind, name).spec.factory))


def test_optimizer_and_regularizers_train(tmp_path: Path) -> None:
    """The loss falls; the optimizer's state goes through a checkpoint exactly."""
    made = model()
    vectors = torch.eye(4)[[0, 1, 2]].repeat(8, 1)
    targets = Targets(category=torch.tensor([0, 1, 2]).repeat(8))
    penalty = regularizer("confidence-penalty:weight=0.01", made)
    noise = regularizer("label-noise:share=0.01", made)
    optimizer = registry.create(
        registry.find("optimizer", "signum"), list(made.parameters()), lr=0.02, weight_decay=0.01
    )
    losses = []

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        values, aims = noise.on_batch(vectors, targets)
        outputs = net.head(values)
        loss = Loss()(outputs, aims, Loss().norms(aims)) + penalty.penalty(net.head, outputs, aims)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    made.train()
    for _ in range(40):
        step(made, optimizer)
    assert losses[-1] < losses[0] * 0.7
    checkpoint.save(
        tmp_path / "checkpoints", 1, 0, made.state_dict(), optimizer, {}, extra={}, randoms=[]
    )
    other = model().train()
    again = registry.create(
        registry.find("optimizer", "signum"), list(other.parameters()), lr=0.02, weight_decay=0.01
    )
    found = checkpoint.load_last(tmp_path / "checkpoints")
    checkpoint.restore_model(found, other)
    checkpoint.restore_optimizer(found, again)
    for net, chosen in ((made, optimizer), (other, again)):
        torch.manual_seed(5)
        step(net, chosen)
    assert losses[-1] == losses[-2]


def test_flat_takes_the_mean_of_two_gradients() -> None:
    """In a step like the framework's: the gradients here and near by, and the weights as before."""
    made = model()
    task = type("Plain", (), {"forward": staticmethod(lambda inputs: made(inputs[0]))})()
    stepper = Stepper(
        model=made, forward=Forward(made, task), loss=Loss(), group=Group(), bfloat16=False,
        optimizer=torch.optim.SGD(made.parameters(), lr=0.0), device=torch.device("cpu"),
        regularizers=[regularizer("flat:spread=0.5", made)],
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    weight = made.head.dense[-1].weight
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    before = [p.detach().clone() for p in made.parameters()]
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    batch = TrainingBatch((images,), Targets(category=torch.arange(6) % 3), ())
    stepper.step(batch, torch.zeros(0))
    here, near = seen
    assert not torch.allclose(here, near)
    assert torch.allclose(weight.grad, (here + near) / 2, atol=1e-6)
    for p, value in zip(made.parameters(), before, strict=True):
        assert torch.equal(p, value)


def test_label_noise_keeps_what_is_not_known() -> None:
    """All categories drawn anew, but those that nobody knows."""
    targets = Targets(category=torch.tensor([0, -1] * 300))
    noise = regularizer("label-noise:share=1", model())
    _, noisy = noise.on_batch(torch.zeros(600, 3, 8, 8), targets)
    assert (noisy.category[1::2] == 0).all()
    assert noisy.category[::2].mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.1)


def test_schedule_and_logger(tmp_path: Path) -> None:
    """The rate halves when the loss rises, also behind a checkpoint; the file has its lines."""
    halve = schedule("halve")
    lines = registry.create(registry.find("logger", "lines"), tmp_path)
    for epoch, loss in enumerate((1.0, 0.5, 0.75), 1):
        halve.after_epoch(epoch, {"val_loss": loss})
        lines.epoch({"epoch": epoch, "val_loss": loss})
    lines.close()
    assert (tmp_path / "lines.txt").read_text() == "1 1.0\n2 0.5\n3 0.75\n"
    other = schedule("halve")
    other.load_state_dict(json.loads(json.dumps(halve.state_dict())))
    other.after_epoch(4, {"val_loss": 0.8})
    assert (halve(3), other(4)) == (0.5, 0.25)


def test_visualizer() -> None:
    """The heat is the gradient's largest channel of the named class, at every pixel."""
    component, spec = find_backbone("small-resnet")
    network = build(component, spec.preprocessing, spec.head, 2, 1)
    network.requires_grad_(False)
    explained = fashionbatch.Explained(
        model=network,
        classes=("hat", "shoe"),
        attributes=("red",),
        preprocessing=spec.preprocessing,
        cam_layer=network.backbone.get_submodule(spec.cam_layer),
        device=torch.device("cpu"),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 3), np.uint8)
    photo = fashionbatch.Photo(image=Image.fromarray(pixels), name="1.png")
    saliency = registry.create(registry.find("visualizer", "saliency"), target="red")
    [picture] = saliency.draw(explained, [photo])
    assert set(picture.about) == {"Class", "Probability"} and picture.about["Class"] == "red"
    [heat], [chosen], _ = saliency.maps(explained, [photo.image])
    inputs = explained.inputs([photo.image]).float().requires_grad_()
    network(inputs).attributes[0, 0].backward()
    assert inputs.grad is not None
    by_hand = inputs.grad[0].abs().amax(dim=0)
    assert chosen == 2
    assert np.allclose(heat, (by_hand / by_hand.max()).numpy(), atol=1e-5)


def test_the_guides_components_keep_the_contract(tmp_path: Path) -> None:
    """By the calls that the guide recommends."""
    checks = {
        "optimizer": lambda spec: testing.check_optimizer(spec, lr=0.02),
        "regularizer": testing.check_regularizer,
        "schedule": testing.check_schedule,
        "logger": testing.check_logger,
        "visualizer": testing.check_visualizer,
    }
    for kind, name in COMPONENTS:
        checks[kind](registry.find(kind, name).spec)
