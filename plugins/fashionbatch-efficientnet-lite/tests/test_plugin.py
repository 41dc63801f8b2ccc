"""What the plugin hands over, without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import fashionbatch
import pytest

from fashionbatch_efficientnet_lite import plugin

SIZES = {
    "efficientnet-lite0": (224, 256),
    "efficientnet-lite1": (240, 272),
    "efficientnet-lite2": (260, 292),
}


def test_lists_backbones_without_torch() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_efficientnet_lite import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_backbones()))\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'efficientnet_lite_pytorch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(SIZES)


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_backbones()), ids=lambda s: s.name)
def test_preprocessing_is_that_of_the_weights(spec: fashionbatch.BackboneSpec) -> None:
    given = spec.preprocessing
    assert (given.size, given.resize) == SIZES[spec.name]
    assert (given.crop_mode, given.interpolation) == ("letterbox", "bicubic")
    for pixel, value in ((127, 0.0), (255, 1.0)):  # (pixel - 127) / 128
        assert (pixel / 255 - given.mean[0]) / given.std[0] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("spec", list(plugin.fashionbatch_backbones()), ids=lambda s: s.name)
def test_import_strings_lead_somewhere(spec: fashionbatch.BackboneSpec) -> None:
    for factory in (spec.factory, *spec.weights.values()):
        assert isinstance(factory, str)
        module, _, attribute = factory.partition(":")
        assert callable(getattr(import_module(module), attribute))
