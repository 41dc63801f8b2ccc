"""A small trained model, and folders of photographs to predict."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashionbatch import api
from fashionbatch.inference.stream import Stream
from fashionbatch.models import card as cards

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model trained on the sample."""
    folder = tmp_path_factory.mktemp("runs")
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
        device="cpu", output=folder, name="run", batch_size=16,
    )  # fmt: skip
    return folder / "run"


def picture(seed: int) -> bytes:
    """A PNG of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed % 7, 24, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[..., Path]:
    """``catalogue(count, broken=(), name=...)``: a flat folder; files in ``broken`` are damaged."""

    def make(count: int, broken: tuple[int, ...] = (), name: str = "catalogue") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for i in range(count):
            data = picture(i)
            (folder / f"{i:03d}.png").write_bytes(data[: len(data) // 2] if i in broken else data)
        return folder

    return make


@pytest.fixture
def predict(run: Path, tmp_path: Path) -> Callable[..., Any]:
    """``predict(source, name, **options)`` into ``tmp_path / name``; gives the path."""

    def go(source: Path, name: str = "out.h5", **options: Any) -> Path:
        output = tmp_path / name
        values = {"model": run, "output": output, "workers": 1, "device": "cpu", "batch_size": 8}
        api.predict(source, **{**values, **options})
        return output

    return go


@pytest.fixture
def spoilt(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``spoilt(value)``: the loaded model answers so for the second image of a batch.

    With ``only`` of that batch alone; 1e6 is what a feature becomes.
    """
    real = cards.load

    def use(value: float, patch: pytest.MonkeyPatch = monkeypatch, only: int | None = None) -> None:
        def load(folder: Path) -> Any:
            model, card = real(folder)
            passes = 0

            def hook(module: Any, inputs: Any, outputs: Any) -> Any:
                nonlocal passes
                if len(outputs.logits) < 2:  # tried out
                    return outputs
                passes += 1
                if only is not None and passes - 1 != only:
                    return outputs
                logits, bottleneck = outputs.logits.clone(), outputs.bottleneck.clone()
                if value == 1e6:
                    bottleneck[1, 3] = value
                else:
                    logits[1] = value
                return outputs._replace(logits=logits, bottleneck=bottleneck)

            model.head.register_forward_hook(hook)
            return model, card

        patch.setattr(cards, "load", load)

    return use


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that went through the network, one for each batch."""
    counts: list[int] = []
    original = Stream._sort_in

    def counted(stream: Stream, loaded: Any, answers: Any) -> None:
        counts.append(len(loaded.rows))
        return original(stream, loaded, answers)

    monkeypatch.setattr(Stream, "_sort_in", counted)
    return counts
