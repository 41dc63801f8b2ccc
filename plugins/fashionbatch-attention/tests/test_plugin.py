"""What the plugin hands over, without torch; and whether it fits the backbones it is made of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import fashionbatch
import pytest
from fashionbatch import plugins, registry
from fashionbatch.errors import PluginError

from fashionbatch_attention import networks, plugin
from fashionbatch_attention.bases import BASES, LAYER

SPECS = list(plugin.fashionbatch_backbones())
every = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)


def test_lists_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_attention import plugin\n"
        "hooks = (plugin.fashionbatch_backbones, plugin.fashionbatch_regularizers,\n"
        "         plugin.fashionbatch_visualizers)\n"
        "print(*(spec.name for hook in hooks for spec in hook()))\n"
        "assert not {'torch', 'numpy', 'efficientnet_lite_pytorch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [f"attention-{name}" for name in BASES]
    assert done.stdout.split() == [*names, "landmark-attention", "attention"]


@every
def test_says_what_its_base_says(spec: fashionbatch.BackboneSpec) -> None:
    """Input, blocks, head, layer and size; the attention is the last block."""
    base: Any = registry.find("backbone", spec.name.removeprefix("attention-")).spec
    for field in ("preprocessing", "cam_layer", "cam_layout", "head", "parameters", "requires"):
        assert getattr(spec, field) == getattr(base, field), field
    assert spec.blocks == (*base.blocks, LAYER)
    assert set(spec.weights) == set(base.weights)


@every
def test_import_strings_lead_somewhere(spec: fashionbatch.BackboneSpec) -> None:
    for factory in (spec.factory, *spec.weights.values()):
        assert callable(registry.resolve(factory))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No other package is loaded."""
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "attention")
    plugins.discover.cache_clear()
    yield
    plugins.discover.cache_clear()


def test_names_the_package_that_is_missing(alone: None) -> None:
    message = "made of efficientnet-lite0, .*: pip install fashionbatch-efficientnet-lite"
    with pytest.raises(PluginError, match=message):
        getattr(networks.network, "efficientnet-lite0")()
