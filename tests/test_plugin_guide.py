"""The package that plugins/README.md builds, from its own blocks of code."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fashionbatch
from fashionbatch import hookspecs, plugins, registry, scaffold, specs, testing
from fashionbatch.models.build import build, find_backbone
from fashionbatch.testing import fixtures
from fashionbatch.training import checkpoint
from fashionbatch.training.distributed import Group
from fashionbatch.training.step import Forward, Stepper
from fashionbatch.training.targets import Loss, Targets
from fashionbatch.training.task import TrainingBatch
from tests.training.components import model, regularizer, schedule

GUIDE = (Path(__file__).parents[1] / "plugins" / "README.md").read_text(encoding="utf-8")
#: the pieces of each module, put together in their order
MODULES = {
    name: "\n\n".join(re.findall(rf"^`{name}`:\n\n```python\n(.*?)^```$", GUIDE, re.M | re.S))
    for name in ("plugin.py", "components.py")
}
#: from each heading to what is under it
SECTIONS = dict(re.findall(r"^#{2,3} ([^\n]+)\n(.*?)(?=^#{2,3} |\Z)", GUIDE, re.M | re.S))
COMPONENTS = (
    ("backbone", "patches"),
    ("optimizer", "signum"),
    ("regularizer", "confidence-penalty"),
    ("regularizer", "label-noise"),
    ("regularizer", "flat"),
    ("schedule", "halve"),
    ("logger", "lines"),
    ("visualizer", "saliency"),
    ("source", "zip"),
    ("engine", "plain"),
    ("executor", "alone"),
)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> None:
    """What `plugins new colours` writes, with the guide's modules in it; installed."""
    folder = scaffold.create("colours", ("optimizer",), tmp_path / "fashionbatch-colours")
    package = folder / "src" / "fashionbatch_colours"
    for name, text in MODULES.items():
        assert text
        (package / name).write_text(text)
    info = folder / "src" / "fashionbatch_colours-0.1.0.dist-info"
    info.mkdir()
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    entry = project["entry-points"]["fashionbatch"]["colours"]
    (info / "entry_points.txt").write_text(f"[fashionbatch]\ncolours = {entry}\n")
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fashionbatch-colours\nVersion: 0.1.0\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    plugins.discover.cache_clear()


def test_package_hands_over_its_components() -> None:
    """Nothing in it is broken, and everything can be imported."""
    colours = next(p for p in plugins.discover() if p.name == "colours")
    assert (colours.status, colours.error) == ("ok", "")
    assert tuple((kind, spec.name) for kind, spec in colours.components) == COMPONENTS
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
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("dress/1.png", "hat/2.png", "notes.txt"):
            Image.new("RGB", (9, 8)).save(tmp_path / "one.png")
            file.write(tmp_path / "one.png", name)
    checks = {
        "backbone": testing.check_backbone,
        "optimizer": lambda spec: testing.check_optimizer(spec, lr=0.02),
        "regularizer": testing.check_regularizer,
        "schedule": testing.check_schedule,
        "logger": testing.check_logger,
        "visualizer": testing.check_visualizer,
        "source": lambda spec: testing.check_source(spec, archive),
        "engine": testing.check_engine,
        "executor": lambda spec: testing.check_executor(spec, deaths=False),
    }
    assert checks.keys() == plugins.KINDS.keys() == {kind for kind, _ in COMPONENTS}
    for kind, name in COMPONENTS:
        checks[kind](registry.find(kind, name).spec)
    source = registry.create(registry.find("source", "zip"), archive)
    found = [getattr(entry, "label", type(entry).__name__) for entry in source.items()]
    assert found == ["dress", "hat", "Failure"]


def words(text: str) -> set[str]:
    """Names between backticks, in sentences and tables: an example explains nothing."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", prose))))


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_each_kind_is_told(kind: str) -> None:
    """In a section of its own: the hook, the type of its specs, each field, and an example."""
    hook, spec = plugins.KINDS[kind]
    told = words(SECTIONS[f"{kind.capitalize()}s"])
    common = words(SECTIONS["Reference"])
    own = {field.name for field in dataclasses.fields(spec)}
    shared = {field.name for field in dataclasses.fields(specs.Spec)}
    assert {hook, spec.__name__, "factory"} | (own - shared) <= told
    assert shared <= common
    assert f"def {hook}()" in MODULES["plugin.py"]


@pytest.mark.parametrize("spec", [specs.Preprocessing, specs.HeadSpec])
def test_what_a_backbone_says_of_its_input_and_head(spec: type) -> None:
    told = words(SECTIONS["Backbones"])
    assert {spec.__name__, *(field.name for field in dataclasses.fields(spec))} <= told


def test_nothing_for_plugins_is_left_out() -> None:
    """Each hook, each public name that is no job's, each method that a subclass may override."""
    told = words(GUIDE)
    assert {name for name in vars(hookspecs) if name.startswith("fashionbatch_")} <= told
    jobs = {n for n, module in fashionbatch._PUBLIC.items() if module == "fashionbatch.api"}
    beside = {"__version__", "open_shards"}  # of those who use results
    for name in set(fashionbatch.__all__) - jobs - beside:
        assert name in told, name
    bases = (
        "Engine",
        "Executor",
        "Lending",
        "WorkerProcess",
        "HeatVisualizer",
        "Logger",
        "Regularizer",
        "Schedule",
        "Source",
        "Visualizer",
    )
    for base in bases:
        for method, value in vars(getattr(fashionbatch, base)).items():
            if not method.startswith("_") and callable(value):
                assert method in told, f"{base}.{method}"
    for check in testing.__all__:
        assert check in words(SECTIONS["Tests"]), check
    for fixture in fixtures.__all__:
        assert fixture == "isolated" or fixture in words(SECTIONS["Tests"]), fixture
