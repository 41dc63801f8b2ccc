"""What the plugin hands over, without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from fashionbatch_timm import plugin

SPECS = {spec.name: spec for spec in plugin.fashionbatch_backbones()}


def test_lists_backbones_without_torch() -> None:
    code = (
        "import sys, time\n"
        "from fashionbatch_timm import plugin\n"
        "began = time.process_time()\n"
        "names = [spec.name for spec in plugin.fashionbatch_backbones()]\n"
        "print(len(names), time.process_time() - began)\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'timm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, seconds = done.stdout.split()
    assert int(count) == len(SPECS) > 1000
    # about 0.02 s; every start of a command pays for it
    assert float(seconds) < 0.2


def test_names_and_weights() -> None:
    spec = SPECS["timm-convnext_tiny"]
    assert next(iter(spec.weights)) == "in12k_ft_in1k"
    assert "fb_in1k" in spec.weights
    assert spec.preprocessing.size == 224
    assert spec.inputs["in12k_ft_in1k_384"].size == 384
    assert spec.inputs["in12k_ft_in1k_384"].crop_mode == "squash"
    assert spec.input_of("in12k_ft_in1k_384").size == 384
    assert spec.input_of("in12k_ft_in1k") == spec.input_of("none") == spec.preprocessing


def test_import_strings_lead_somewhere() -> None:
    for spec in (SPECS["timm-resnet50"], SPECS["timm-vit_base_patch16_224"]):
        for factory in (spec.factory, *spec.weights.values()):
            assert isinstance(factory, str)
            module, _, attributes = factory.partition(":")
            target: object = import_module(module)
            for attribute in attributes.split("."):
                target = getattr(target, attribute)
            assert callable(target)


def test_no_tag_is_lost_in_an_import_string() -> None:
    for spec in SPECS.values():
        for tag, factory in spec.weights.items():
            assert isinstance(factory, str)
            assert "." not in tag
            assert factory.endswith(f":weights.{spec.name.removeprefix('timm-')}.{tag}")
