"""The table beside the installed timm."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import timm
import torch
from fashionbatch.models import freeze
from torch import nn

from fashionbatch_timm import generate, plugin, structure

TABLE: dict[str, Any] = json.loads(plugin._TABLE.read_bytes())
ROWS: dict[str, list[Any]] = TABLE["networks"]
#: quick to build, of as many kinds
SAMPLE = (
    "convnext_tiny",
    "crossvit_tiny_240",
    "deit_tiny_distilled_patch16_224",
    "efficientnet_b0",
    "legacy_seresnet18",
    "mobilenetv3_large_100",
    "poolformer_s12",
    "regnetx_002",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "xcit_tiny_12_p16_224",
)


def test_made_from_the_installed_timm() -> None:
    assert TABLE["timm"] == timm.__version__, "make the table anew: fashionbatch_timm.generate"


@pytest.mark.parametrize("name", SAMPLE)
def test_generator_gives_the_row(name: str) -> None:
    *about, own, tags = ROWS[name]
    *found, input_, inputs = json.loads(json.dumps(generate.row(name)))
    assert found == about
    assert input_ == TABLE["inputs"][own]
    assert inputs == {tag: TABLE["inputs"][number] for tag, number in tags.items()}
    assert list(inputs) == list(tags)


def test_every_input_is_timms() -> None:
    left_out, not_quite = [], []
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        if name not in ROWS:
            left_out.append(name)
            continue
        size, resize, mode, interpolation, mean, std = TABLE["inputs"][ROWS[name][-1][tag]]
        config = timm.get_pretrained_cfg(full)
        assert config.input_size == (3, size, size)
        assert resize == int(size / config.crop_pct)
        assert mode == {"border": "letterbox"}.get(config.crop_mode, config.crop_mode)
        if mode == "letterbox" or (mode == "squash" and resize != size):
            not_quite.append(full)
        assert interpolation == config.interpolation
        assert tuple(mean) == config.mean
        assert tuple(std) == config.std
    assert len(set(left_out)) < 15
    # stretched and then cut in timm, which is only stretched here; or on the mean, here on black
    assert len(not_quite) == 15


def test_default_tags_come_first() -> None:
    for name, row in ROWS.items():
        tags = list(row[-1])
        if tags:
            assert tags[0] == timm.get_pretrained_cfg(name).tag


def test_all_networks_are_there_or_left_out_with_a_reason() -> None:
    missing = [name for name in timm.list_models() if name not in ROWS]
    assert 0 < len(missing) < 15
    for name in missing[::6]:
        with pytest.raises(structure.Unfit, match=r"not \[N, D\]|takes"):
            generate.row(name)


def test_patterns_match_what_they_stand_for() -> None:
    known = ["stem", "s1", "s1.b1", "s1.b12", "stem.bn", "s1.down"]
    found = structure.patterns(["s1.b1", "s1.b12"], known)
    assert found == ["s?.b?", "s?.b??"] or found == ["s*.b*"]
    matching = {n for n in known if any(structure.matches(n, each) for each in found)}
    assert matching == {"s1.b1", "s1.b12"}


@pytest.mark.parametrize(
    "name", ["legacy_seresnet18", "regnetx_002", "swin_tiny_patch4_window7_224"]
)
def test_patterns_lead_to_the_blocks_that_were_read(name: str) -> None:
    found = structure.read(name, 224)
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert freeze.block_names(network, found.patterns) == list(found.blocks)


def test_networks_without_a_map_or_blocks_are_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: flat.to("meta"))
    with pytest.raises(structure.Unfit, match="map"):
        structure.read("flat", 32)
    flat.append(nn.Unflatten(1, (2, 4)))
    with pytest.raises(structure.Unfit, match=re.escape("[2, 2, 4], not [N, D]")):
        structure.read("flat", 32)


def test_nothing_is_computed_when_a_network_is_read() -> None:
    before = torch.random.get_rng_state()
    structure.read("resnet18", 224)
    assert torch.equal(torch.random.get_rng_state(), before)
