"""The contracts that components of each kind are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fashionbatch
import PIL.Image
import pytest
from fashionbatch import testing

from fashionbatch_hello import plugin

CHECKS: list[tuple[Callable[..., Any], Callable[..., None]]] = [
    (plugin.fashionbatch_backbones, testing.check_backbone),
    (plugin.fashionbatch_optimizers, testing.check_optimizer),
    (plugin.fashionbatch_regularizers, testing.check_regularizer),
    (plugin.fashionbatch_schedules, testing.check_schedule),
    (plugin.fashionbatch_loggers, testing.check_logger),
    (plugin.fashionbatch_visualizers, testing.check_visualizer),
    (plugin.fashionbatch_engines, testing.check_engine),
]


@pytest.mark.parametrize(("hook", "check"), CHECKS, ids=lambda f: f.__name__)
def test_components(hook: Callable[..., Any], check: Callable[..., None]) -> None:
    (spec,) = hook()
    check(spec)


def test_source(tmp_path: Path) -> None:
    """It needs a catalogue, which only its author knows."""
    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        PIL.Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    listed = tmp_path / "photos.hello"
    listed.write_text("dress 1.png\nhat 2.png\n")
    spec: fashionbatch.SourceSpec
    (spec,) = plugin.fashionbatch_sources()
    testing.check_source(spec, listed)
