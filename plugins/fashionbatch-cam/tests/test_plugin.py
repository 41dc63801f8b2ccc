"""What the plugin hands over, without torch or torchcam."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import fashionbatch

from fashionbatch_cam import plugin

NAMES = [
    "cam", "grad-cam-plus-plus", "smooth-grad-cam-plus-plus", "x-grad-cam", "layer-cam",
    "finer-cam", "score-cam", "ss-cam", "is-cam",
]  # fmt: skip


def test_lists_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_cam import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_visualizers()))\n"
        "assert not {'torch', 'numpy', 'torchcam', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == NAMES


def test_import_strings_lead_to_what_they_name() -> None:
    for spec in plugin.fashionbatch_visualizers():
        assert isinstance(spec.factory, str)
        module, _, attribute = spec.factory.partition(":")
        factory = getattr(import_module(module), attribute)
        assert issubclass(factory, fashionbatch.HeatVisualizer)
        assert factory.name == spec.name
        assert factory.title
