"""ONNX Runtime gives PyTorch's answers, whatever else is in the batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fashionbatch
import onnxruntime
import pytest
import torch
from fashionbatch.models.build import build, find_backbone
from fashionbatch.models.features import FeatureTap
from torch import Tensor, nn

from fashionbatch_onnxruntime import engine as engines
from fashionbatch_onnxruntime.engine import TOLERANCE, OnnxRuntime, compare, photographs

SHAPE = (4, 3, 28, 28)


def tap(
    layer: str = "pooled", backbone: str = "small-resnet", size: int = 28, attributes: int = 0
) -> FeatureTap:
    """A network of three classes with random weights and statistics unlike the initial ones."""
    torch.manual_seed(0)
    component, spec = find_backbone(backbone)
    preprocessing = spec.preprocessing.with_size(size)
    model = build(component, preprocessing, fashionbatch.HeadSpec(), 3, attributes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return FeatureTap(model, layer).eval()


def job_of(
    module: nn.Module, cache: Path, shape: tuple[int, int, int, int] = SHAPE, key: str = "a" * 64
) -> fashionbatch.EngineJob:
    device = torch.device("cpu")
    return fashionbatch.EngineJob(module=module, shape=shape, device=device, cache=cache, key=key)


def answers_of(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        answers: tuple[Tensor, ...] = module(images)
    return answers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the pooled network: exporting takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    OnnxRuntime(job_of(tap(), folder)).close()
    return folder


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where something is exported."""

    def export(*_: object) -> None:
        raise AssertionError("exported anew")

    monkeypatch.setattr(engines, "export", export)


@pytest.mark.parametrize(("layer", "attributes", "empty"), [("none", 0, [1]), ("blocks.1", 5, [])])
def test_gives_the_modules_answers(
    layer: str, attributes: int, empty: list[int], tmp_path: Path
) -> None:
    module = tap(layer, attributes=attributes)
    images = photographs(SHAPE).flip(0)
    expected = answers_of(module, images)
    answers = OnnxRuntime(job_of(module, tmp_path)).run(images)
    assert [a.shape for a in answers] == [e.shape for e in expected]
    assert [n for n, a in enumerate(answers) if a.numel() == 0] == empty
    for answer, known in zip(answers, expected, strict=True):
        assert answer.dtype == torch.float32
        if known.numel():
            assert (answer - known).abs().max() <= TOLERANCE * known.abs().max()
            assert known.std() > 0


@pytest.mark.usefixtures("no_export")
def test_cached_network_is_neither_exported_nor_compared_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tap()
    expected = answers_of(module, photographs(SHAPE))
    monkeypatch.setattr(module, "forward", lambda images: pytest.fail("run by PyTorch"))
    answers = OnnxRuntime(job_of(module, shared)).run(photographs(SHAPE))
    for answer, known in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, known)


def test_record_tells_of_the_comparison(shared: Path) -> None:
    (record,) = shared.glob("*.json")
    compared = json.loads(record.read_text())["compared"]
    assert compared["tolerance"] == TOLERANCE
    assert len(compared["differences"]) == 3
    assert max(compared["differences"]) <= TOLERANCE


@pytest.mark.parametrize(
    "change", [{"key": "b" * 64}, {"shape": (5, 3, 28, 28)}, {"key": ""}], ids=str
)
@pytest.mark.usefixtures("no_export")
def test_what_a_network_depends_on_is_in_its_name(change: dict[str, object], shared: Path) -> None:
    job = dataclasses.replace(job_of(tap(), shared), **change)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="exported anew"):
        OnnxRuntime(job)


def test_versions_are_in_its_name(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tap(), shared)
    names = {engines.Cache(shared, OnnxRuntime._key(job)).model.name}
    assert names == {p.name for p in shared.glob("*.onnx")}
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "__version__", "0")
        names.add(engines.Cache(shared, OnnxRuntime._key(job)).model.name)
    for name in ("torch", "onnx", "onnxscript", "opset"):
        changed = {**engines.versions(), name: "0"}
        with monkeypatch.context() as patch:
            patch.setattr(engines, "versions", lambda changed=changed: changed)
            names.add(engines.Cache(shared, OnnxRuntime._key(job)).model.name)
    assert len(names) == 6


def test_damaged_network_is_exported_again(shared: Path, tmp_path: Path) -> None:
    for path in shared.iterdir():
        data = bytearray(path.read_bytes())
        if path.suffix == ".onnx":
            data[len(data) // 2] ^= 1
        (tmp_path / path.name).write_bytes(data)
    module = tap()
    answers = OnnxRuntime(job_of(module, tmp_path)).run(photographs(SHAPE))
    for answer, known in zip(answers, answers_of(module, photographs(SHAPE)), strict=True):
        torch.testing.assert_close(answer, known)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.onnx")} == {
        p.name: p.read_bytes() for p in shared.glob("*.onnx")
    }, "the same module gives the same bytes"


def test_memory_layout_makes_no_difference(shared: Path) -> None:
    engine = OnnxRuntime(job_of(tap(), shared))
    images = photographs(SHAPE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(engine.run(images), engine.run(images.contiguous()), strict=True):
        assert torch.equal(one, other)


def test_answers_outlive_the_images_and_the_next_batch(shared: Path) -> None:
    engine = OnnxRuntime(job_of(tap(), shared))
    images = photographs(SHAPE)
    first = engine.run(images)
    kept = [answer.clone() for answer in first]
    images.zero_()
    engine.run(images)
    engine.close()
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def assert_images_stand_alone(engine: OnnxRuntime, images: Tensor) -> None:
    """Each answer is the same bit for bit in another place and in other company."""
    answers = engine.run(images)
    turned = engine.run(images.roll(3, 0).contiguous(memory_format=torch.channels_last))
    alone = torch.zeros_like(images)
    alone[-1] = images[-1]
    for answer, moved, single in zip(answers, turned, engine.run(alone), strict=True):
        assert torch.equal(answer, moved.roll(-3, 0))
        assert torch.equal(answer[-1], single[-1])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.usefixtures("no_export")
def test_images_stand_alone(threads: int, shared: Path) -> None:
    """Nor does it matter how many pieces a batch has, or how many threads work them off."""
    shape = (12, *SHAPE[1:])
    job = dataclasses.replace(job_of(tap(), shared, shape), threads=threads)
    engine = OnnxRuntime(job)
    images = photographs(shape)
    assert_images_stand_alone(engine, images)
    by_fours = OnnxRuntime(job_of(tap(), shared))
    for answer, *fours in zip(
        engine.run(images), *(by_fours.run(part) for part in images.split(4)), strict=True
    ):
        assert torch.equal(answer, torch.cat(fours))


@pytest.mark.parametrize(
    ("batch", "device", "size"),
    [(32, "cpu", 4), (6, "cpu", 3), (7, "cpu", 1), (1, "cpu", 1), (32, "cuda", 32)],
)
def test_pieces_make_up_a_batch(batch: int, device: str, size: int, tmp_path: Path) -> None:
    job = job_of(tap(), tmp_path, (batch, *SHAPE[1:]))
    assert engines.piece(dataclasses.replace(job, device=torch.device(device))) == size


def test_error_of_a_piece_is_raised(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxRuntime(job_of(tap(), shared, (8, *SHAPE[1:])))
    monkeypatch.setattr(engine, "_input", "another")
    with pytest.raises(Exception, match="another"):
        engine.run(photographs((8, *SHAPE[1:])))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("resnet18", 64), ("efficientnet-lite0", 224)])
def test_images_stand_alone_in_larger_networks(backbone: str, size: int, tmp_path: Path) -> None:
    if backbone == "efficientnet-lite0":
        pytest.importorskip("fashionbatch_efficientnet_lite")
    shape = (8, 3, size, size)
    module = tap("pooled", backbone, size)
    assert_images_stand_alone(OnnxRuntime(job_of(module, tmp_path, shape)), photographs(shape))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_other_precisions_are_refused(precision: str, tmp_path: Path) -> None:
    job = dataclasses.replace(job_of(tap(), tmp_path), precision=precision)
    with pytest.raises(ValueError, match=f"float32 only, not {precision}"):
        OnnxRuntime(job)


class Branching(nn.Module):
    """Does what no graph can say."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        values = images.float().mean(dim=(1, 2, 3))
        return (values if values.sum() > 0 else -values,)


def test_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written as ONNX") as caught:
        OnnxRuntime(job_of(Branching().eval(), tmp_path, (2, 3, 8, 8)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


class Elsewhere(nn.Module):
    """Computes something else in the export."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        values = images.float().mean(dim=(2, 3))
        return (values * 1.01 if torch.compiler.is_exporting() else values,)


def test_network_with_other_answers_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"differ from PyTorch's by 1\.0e-02"):
        OnnxRuntime(job_of(Elsewhere().eval(), tmp_path, (2, 3, 8, 8)))
    assert not list(tmp_path.iterdir())


def test_comparison_accepts_rounding_and_nothing_else() -> None:
    known = torch.tensor([[20.0, -3.0], [0.5, 1.0]])
    empty = torch.empty(2, 0)
    assert compare((known, empty), (known + 0.001, empty))["differences"] == [
        pytest.approx(5e-5, rel=0.01), 0.0
    ]  # fmt: skip
    broken = known.clone()
    broken[0, 1] = torch.nan
    assert compare((broken,), (broken,))["differences"] == [0.0]
    assert compare((torch.zeros(2, 2),), (torch.zeros(2, 2),))["differences"] == [0.0]
    for other in (known + 0.003, broken, torch.full_like(known, torch.inf)):
        with pytest.raises(ValueError, match="differ"):
            compare((known,), (other,))
        with pytest.raises(ValueError, match="differ"):
            compare((other,), (known,))


def test_device_without_provider_is_refused(shared: Path) -> None:
    devices = ["mps"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        devices.append("cuda:1")
    for device in devices:
        job = dataclasses.replace(job_of(tap(), shared), device=torch.device(device))
        with pytest.raises(ValueError, match=device):
            OnnxRuntime(job)


def test_details_name_versions(shared: Path) -> None:
    details = OnnxRuntime(job_of(tap(), shared)).details
    assert details["onnxruntime"] == onnxruntime.__version__
    assert details["torch"] == torch.__version__
    assert set(details) == {"onnxruntime", "torch", "onnx", "onnxscript", "opset"}
    json.dumps(dict(details))
