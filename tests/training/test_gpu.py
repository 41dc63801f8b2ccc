"""What only a GPU shows, and what of it a CPU can."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fashionbatch.models import device as devices
from fashionbatch.training import images
from fashionbatch.training.checkpoint import Random
from fashionbatch.training.job import Job
from fashionbatch.training.targets import Targets
from fashionbatch.training.task import TrainingBatch
from tests.training.runs import history, same, weights

CPU = torch.device("cpu")


def gpu(test):
    """Skips where there is none."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(missing(test))


def batch() -> TrainingBatch:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 4, 4, 3).permute(0, 3, 1, 2)
    targets = Targets(
        category=torch.tensor([1, 0]), attributes=torch.ones(2, 3), known=torch.ones(2, 3).bool()
    )
    return TrainingBatch((pixels,), targets, ("a", "b"))


def test_precision_is_that_of_the_hardware(monkeypatch):
    """bfloat16 is chosen where the GPU has it, not where it is emulated; never on a CPU."""

    def precision(wanted: str, device: torch.device) -> str:
        known = SimpleNamespace(config=SimpleNamespace(precision=wanted), device=device)
        return Job.precision.fget(known)

    for real in (True, False):
        supports = lambda including_emulation=True, real=real: including_emulation or real  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
        auto = "bfloat16" if real else "float32"
        assert precision("auto", torch.device("cuda")) == auto
        assert precision("bfloat16", CPU) == "bfloat16"
        assert precision("float32", torch.device("cuda")) == "float32"
        assert precision("auto", CPU) == "float32"


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_images_for_a_gpu_are_pinned(monkeypatch, device, pinned):
    """The loader is told to; on a CPU it would be one copy more for nothing."""
    asked = []
    monkeypatch.setattr(
        images, "batches", lambda *a, **options: asked.append(options["pinned"]) or iter(())
    )
    task = images.Images(
        model=None, shards=None, labels=None, rows={}, sampling=None, preprocessing=None,
        augment="none", workers=0, device=torch.device(device),
    )  # fmt: skip
    list(task._batches(None))
    assert asked == [pinned]


def test_a_batch_moves_as_it_is():
    """To the CPU it is where it was, without a copy."""
    made = batch()
    moved = made.to(CPU)
    assert moved.inputs[0].data_ptr() == made.inputs[0].data_ptr()
    assert moved.keys == made.keys
    assert moved.targets.known is made.targets.known


@gpu
def test_a_batch_goes_to_the_gpu_from_pinned_memory():
    """Every tensor, laid out as before; one that is there already stays."""
    made = batch()
    moved = made.to(torch.device("cuda"))
    assert torch.equal(moved.inputs[0].cpu(), made.inputs[0])
    assert moved.inputs[0].stride() == made.inputs[0].stride()
    assert moved.targets.landmarks is None
    for name in ("category", "attributes", "known"):
        value = vars(moved.targets)[name]
        assert torch.equal(value.cpu(), vars(made.targets)[name])
    again = devices.moved(moved.inputs[0], torch.device("cuda"))
    assert again.data_ptr() == moved.inputs[0].data_ptr()


@gpu
def test_training_on_a_gpu(train, tmp_path):
    """Images in workers and pinned memory, dropout, a checkpoint of the middle: bit for bit."""
    options = {
        "device": "cuda", "workers": 1, "epochs": 3, "limit": 40, "head_hidden": "16",
        "head_dropout": 0.4, "augment": "paper",
    }  # fmt: skip
    train("whole", **options)
    train("cut", **{**options, "epochs": 2})
    train("cut", resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert history(tmp_path / "whole") == history(tmp_path / "cut")
    train("head", mode="bottleneck", device="cuda")


@gpu
def test_random_states_of_the_gpu_are_kept():
    """What is drawn behind a restore is what was drawn behind the save."""
    torch.rand(3, device="cuda")
    state = Random.now()
    first = torch.rand(5, device="cuda")
    state.restore()
    assert torch.equal(torch.rand(5, device="cuda"), first)


@gpu
def test_too_large_a_step_is_halved_on_a_gpu(train, tmp_path):
    """torch's own error, made by a limit on the memory that it may take."""
    told = []
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(600 * 2**20 / total)
    try:
        train(
            "small", backbone="resnet18", device="cuda", img_size=224, limit=128, batch_size=128,
            epochs=1, precision="float32",
            tell=lambda event, values: told.append(values) if event == "memory" else None,
        )  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert told
    assert isinstance(weights(tmp_path / "small"), dict)
