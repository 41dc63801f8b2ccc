"""The contract that components of each kind are held to."""

from __future__ import annotations

from pathlib import Path

from fashionbatch import testing
from fashionbatch.testing.fixtures import Photograph

from fashionbatch_hello import plugin


def test_backbones() -> None:
    for spec in plugin.fashionbatch_backbones():
        testing.check_backbone(spec)


def test_optimizers() -> None:
    for spec in plugin.fashionbatch_optimizers():
        testing.check_optimizer(spec)


def test_regularizers() -> None:
    for spec in plugin.fashionbatch_regularizers():
        testing.check_regularizer(spec)


def test_schedules() -> None:
    for spec in plugin.fashionbatch_schedules():
        testing.check_schedule(spec)


def test_loggers() -> None:
    for spec in plugin.fashionbatch_loggers():
        testing.check_logger(spec)


def test_visualizers() -> None:
    for spec in plugin.fashionbatch_visualizers():
        testing.check_visualizer(spec)


def test_sources(tmp_path: Path, photograph: Photograph) -> None:
    """It needs a catalogue, which only its author knows."""
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(photograph(number))
    listed = tmp_path / "photos.hello"
    listed.write_text("dress 1.jpg\nhat 2.jpg\n")
    for spec in plugin.fashionbatch_sources():
        testing.check_source(spec, listed)


def test_engines() -> None:
    for spec in plugin.fashionbatch_engines():
        testing.check_engine(spec)


def test_executors() -> None:
    for spec in plugin.fashionbatch_executors():
        testing.check_executor(spec)
