"""A classifier from its parts, and its weights from wherever they come."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from fashionbatch.errors import (
    FashionbatchError,
    ModelError,
    PluginError,
    UnknownNameError,
    UsageError,
)
from fashionbatch.models import card, device
from fashionbatch.models.build import Classifier, Head, build, find_backbone, load_weights
from fashionbatch.models.card import ModelCard
from fashionbatch.models.features import FeatureTap
from fashionbatch.registry import Component
from fashionbatch.sources import Attribute
from fashionbatch.specs import BackboneSpec, HeadSpec, Preprocessing

COMPONENT, SPEC = find_backbone("small-resnet")
IMAGES = torch.randint(0, 256, (4, 3, 28, 28), generator=torch.Generator().manual_seed(0)).byte()


def make(head: HeadSpec | None = None, classes: int = 5) -> Classifier:
    torch.manual_seed(0)
    return build(COMPONENT, SPEC.preprocessing, head or HeadSpec(hidden=(7,)), classes)


def component(factory: object) -> Component:
    spec = BackboneSpec(
        name="odd",
        factory=factory,  # type: ignore[arg-type]  # of a module
        summary="",
        preprocessing=Preprocessing(size=8, resize=8),
        blocks=("*",),
        cam_layer="0",
    )
    return Component(kind="backbone", spec=spec, provider="acme", version="1")


def test_outputs_have_their_shapes() -> None:
    """[N, classes] logits, [N, D] bottleneck, every dense layer's output, the logits last."""
    model = make(HeadSpec(hidden=(7, 6), dropout=0.5))
    outputs = model(IMAGES)
    assert outputs.logits.shape == (4, 5) and outputs.bottleneck.shape == (4, 128)
    assert [d.shape[1] for d in outputs.dense] == [7, 6, 5]
    assert torch.equal(outputs.dense[-1], outputs.logits) and outputs.attributes.shape == (4, 0)
    assert (outputs.dense[0] >= 0).all()
    assert [tuple(k.shape) for k in model.head.kernels] == [(7, 128), (6, 7), (5, 6)]
    assert not model.training


def test_pixels_are_normalized_once() -> None:
    """Bytes on the scale 0..255 reach the backbone as (x / 255 - mean) / std."""
    preprocessing = Preprocessing(size=8, resize=8, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    model = Classifier(nn.Flatten(), Head(192, 2, HeadSpec()), preprocessing)
    for images in (torch.full((1, 3, 8, 8), 255).byte(), torch.full((1, 3, 8, 8), 255.0)):
        found = model.bottleneck(images).view(3, 64)
        assert found[:, 0].tolist() == [1.0, 3.0, 1.0]
    assert "mean" not in model.state_dict()


def test_dropout_is_off_in_evaluation() -> None:
    """Two passes of an evaluated model are equal."""
    model = make(HeadSpec(hidden=(32,), dropout=0.9))
    assert torch.equal(model(IMAGES).logits, model(IMAGES).logits)


def test_size_that_does_not_fit_is_refused() -> None:
    """The backbone's own complaint becomes one line."""
    odd = component(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    assert build(odd, Preprocessing(size=8, resize=8), HeadSpec(), 2)(
        torch.zeros(1, 3, 8, 8)
    ).logits.shape == (1, 2)
    with pytest.raises(UsageError, match="--img-size") as caught:
        build(odd, Preprocessing(size=9, resize=9), HeadSpec(), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factory", [lambda: nn.Conv2d(3, 4, 1), lambda: nn.Softmax2d()])
def test_backbone_without_bottleneck_is_its_authors_fault(factory: object) -> None:
    """Output other than [N, D] breaks the plugin contract."""
    with pytest.raises(PluginError, match="acme"):
        build(component(factory), Preprocessing(size=8, resize=8), HeadSpec(), 2)


def test_weights_of_files(tmp_path: Path) -> None:
    """safetensors, a saved state_dict, a whole model's file and a run's folder all work."""
    source = make()
    state = {k: v.contiguous() for k, v in source.backbone.state_dict().items()}
    extra = {**state, "fc.weight": torch.zeros(3)}
    safetensors.torch.save_file(extra, tmp_path / "a.safetensors")
    torch.save(extra, tmp_path / "a.pth")
    whole = {k: v.contiguous() for k, v in source.state_dict().items()}
    safetensors.torch.save_file(whole, tmp_path / "model.safetensors")
    for name in ("a.safetensors", "a.pth", "model.safetensors", "."):
        torch.manual_seed(1)
        other = build(COMPONENT, SPEC.preprocessing, HeadSpec(), 5)
        origin = load_weights(other.backbone, SPEC, str(tmp_path / name))
        assert "SHA-256" in origin
        assert all(torch.equal(v, state[k]) for k, v in other.backbone.state_dict().items())
    assert load_weights(source.backbone, SPEC, "none") == "none"


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    """Missing, empty, garbage, of another network, of other shapes: one line each."""
    backbone = make().backbone
    state = dict(backbone.state_dict())
    first = next(iter(state))
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "garbage.safetensors").write_bytes(b"\xff" * 100)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({**state, first: torch.zeros(2)}, tmp_path / "shape.pth")
    before = {k: v.clone() for k, v in state.items()}
    for name in ("empty.pth", "garbage.safetensors", "list.pth", "other.pth", "shape.pth"):
        with pytest.raises(ModelError) as caught:
            load_weights(backbone, SPEC, str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such file"):
        load_weights(backbone, SPEC, str(tmp_path / "nowhere.pth"))
    with pytest.raises(UsageError, match="comes without weights"):
        load_weights(backbone, SPEC, "imagenett")
    named = dataclasses.replace(SPEC, weights={"imagenet": "nowhere:weights"})
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet'"):
        load_weights(backbone, named, "imagenett")
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_fault_44_weights_run_no_code(tmp_path: Path) -> None:
    """Fault 44: a pickle that would run a program is refused, and does not run it."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]  # what pickle calls

    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    torch.save({"w": Evil()}, tmp_path / "torch.pth")
    for name in ("plain.pth", "torch.pth"):
        with pytest.raises(ModelError):
            load_weights(make().backbone, SPEC, str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_fault_44_hash_in_the_name_is_checked(tmp_path: Path) -> None:
    """Fault 44: a published file's name ends with its hash; a flipped bit is found."""
    backbone = make().backbone
    torch.save(dict(backbone.state_dict()), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    named = tmp_path / f"w-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    named.write_bytes(data)
    assert load_weights(backbone, SPEC, str(named))
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    named.write_bytes(damaged)
    with pytest.raises(ModelError, match="damaged"):
        load_weights(backbone, SPEC, str(named))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Classifier]:
    model = make()
    about = ModelCard(
        backbone=COMPONENT.provenance,
        head=HeadSpec(hidden=(7,)),
        classes=("a", "b", "c", "d", "<script>"),
        preprocessing=SPEC.preprocessing,
    )
    card.save(tmp_path, model, about)
    return tmp_path, model


def test_saved_model_comes_back(saved: tuple[Path, Classifier]) -> None:
    """Weights and card: the same logits, classes and preprocessing."""
    folder, model = saved
    again, about = card.load(folder)
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    assert about.classes[-1] == "<script>" and about.preprocessing == SPEC.preprocessing
    assert sorted(p.name for p in folder.iterdir()) == [card.CARD, card.WEIGHTS]


@pytest.mark.parametrize("classes", [(), ("x", "y")])
def test_saved_attributes_come_back(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """Names and types, and a head that gives them all."""
    names = (Attribute(name="floral", type="texture"), Attribute(name="élan"))
    torch.manual_seed(0)
    model = build(COMPONENT, SPEC.preprocessing, HeadSpec(), len(classes), len(names))
    about = ModelCard(
        backbone=COMPONENT.provenance,
        head=HeadSpec(),
        classes=classes,
        attributes=names,
        tasks=("category", "attributes") if classes else ("attributes",),
        preprocessing=SPEC.preprocessing,
    )
    card.save(tmp_path, model, about)
    again, read = card.load(tmp_path)
    assert (read.attributes, read.classes, read.tasks) == (names, classes, about.tasks)
    assert torch.equal(again(IMAGES).attributes, model(IMAGES).attributes)
    assert again(IMAGES).attributes.shape == (4, 2)


def test_tasks_without_their_answers(saved: tuple[Path, Classifier]) -> None:
    """A card whose tasks are not those of its classes and attributes is damaged."""
    folder, _ = saved
    text = (folder / card.CARD).read_text()
    assert text.count('"category"') == 1
    (folder / card.CARD).write_text(text.replace('"category"', '"attributes"'))
    with pytest.raises(ModelError, match="5 classes and 0 attributes are not of the tasks"):
        card.load_card(folder)


@pytest.mark.parametrize("file", [card.CARD, card.WEIGHTS])
def test_fault_44_damaged_model_is_refused(saved: tuple[Path, Classifier], file: str) -> None:
    """Fault 44: any flipped bit in the weights; cut, empty or missing card or weights."""
    folder, _ = saved
    whole = (folder / file).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) * 2 // 3] ^= 4
    damages = [b"", whole[:-9], b"[]", b"{}"] + ([bytes(flipped)] if file == card.WEIGHTS else [])
    for data in damages:
        (folder / file).write_bytes(data)
        with pytest.raises(ModelError):
            card.load(folder)
    (folder / file).unlink()
    with pytest.raises(ModelError):
        card.load(folder)


def test_model_of_a_missing_package_says_what_to_install(
    saved: tuple[Path, Classifier],
) -> None:
    """The card names the package of the backbone."""
    folder, _ = saved
    text = (folder / card.CARD).read_text()
    (folder / card.CARD).write_text(text.replace('"fashionbatch"', '"acme-nets"'))
    with pytest.raises(ModelError, match="pip install acme-nets"):
        card.load(folder)


def test_tap_gives_a_layers_output() -> None:
    """Features of a layer in one pass."""
    model = make()
    expected = model.backbone.blocks(model.backbone.stem((IMAGES / 255 - 0.5) / 0.5))  # type: ignore[operator, union-attr]  # a SmallResNet
    _, _, features = FeatureTap(model, "blocks")(IMAGES)
    assert features.shape == (4, 128, 4, 4)
    assert torch.allclose(features, expected, atol=1e-5)
    outputs = model(IMAGES)
    assert torch.allclose(features.mean(dim=(2, 3)), outputs.bottleneck, atol=1e-5)
    logits, attributes, pooled = FeatureTap(model)(IMAGES)
    assert torch.equal(pooled, outputs.bottleneck) and torch.equal(logits, outputs.logits)
    assert attributes.shape == (4, 0)
    with pytest.raises(UnknownNameError, match="blocks"):
        FeatureTap(model, "block")


def test_device_that_is_not_there_is_refused() -> None:
    """auto always works; a wrong name is a usage error."""
    device.choose("auto")
    assert device.choose("cpu").type == "cpu"
    for name in ("cuda:99", "gpu", "", "tpu:0"):
        with pytest.raises(UsageError, match="--device"):
            device.choose(name)


def test_unknown_backbone_is_refused() -> None:
    """An error of ours with the nearest names."""
    with pytest.raises(FashionbatchError, match="small-resnet"):
        find_backbone("smal-resnet")
