"""The networks beside timm's own, their weights, and where these come from."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from fashionbatch import registry
from fashionbatch.errors import ModelError, PluginError
from fashionbatch.models.build import load_weights
from fashionbatch.pipeline.transforms import fit
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from fashionbatch_timm import networks, plugin

SPECS = {spec.name.removeprefix("timm-"): spec for spec in plugin.fashionbatch_backbones()}
NAME, TAG = "test_resnet", "r160_in1k"
PHOTOGRAPHS = Path("/work/shared/data/clothing")


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def filled(name: str, seed: int = 0) -> nn.Module:
    """With classifier, and with random weights and statistics."""
    torch.manual_seed(seed)
    network: nn.Module = timm.create_model(name, pretrained=False).eval()
    for buffer in network.buffers():
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face's, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, state: dict[str, Tensor]) -> Path:
    """Lays a file where Hugging Face's library lays what it has downloaded."""
    commit = "0" * 40
    repository = cache / f"models--timm--{NAME}.{TAG}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    file = repository / "snapshots" / commit / "model.safetensors"
    safetensors.torch.save_file(state, file)
    return file


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_vit2"])
def test_features_are_those_in_front_of_the_classifier(name: str) -> None:
    whole = filled(name)
    backbone = registry.resolve(SPECS[name].factory)().eval()
    own = backbone.state_dict()
    backbone.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own})
    given = images(SPECS[name].preprocessing.size)
    with torch.inference_mode():
        expected = whole.forward_head(  # type: ignore[operator]  # a method of timm's
            whole.forward_features(given),  # type: ignore[operator]  # likewise
            pre_logits=True,
        )
        torch.testing.assert_close(backbone(given), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("resnet50", "a1_in1k"),  # the centre
        ("convnext_tiny", "in12k_ft_in1k_384"),  # stretched
        ("efficientnet_b0", "ra_in1k"),
        ("swin_tiny_patch4_window7_224", "ms_in1k"),
        ("vit_base_patch16_224", "augreg2_in21k_ft_in1k"),  # of another mean
    ],
)
def test_input_is_that_of_timms_transform(name: str, tag: str) -> None:
    """Of a real photograph; a pixel may be resized to a neighbouring grey level."""
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"{PHOTOGRAPHS} with photographs is missing")
    file = next(each for each in sorted(PHOTOGRAPHS.rglob("*.jpg")))
    image = Image.open(file).convert("RGB")
    given = SPECS[name].input_of(tag)
    with torch.device("meta"):
        network = timm.create_model(f"{name}.{tag}", pretrained=False)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    expected = transform(image)
    assert isinstance(expected, Tensor)
    pixels = torch.from_numpy(np.array(fit(image, given))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (given.mean, given.std))
    found = (pixels - mean) / std
    assert found.shape == expected.shape
    off = (found - expected).abs() * std * 255  # in grey levels
    assert off.mean() < 2
    assert off.quantile(0.95) < 8


def test_weights_from_the_cache(cache: Path) -> None:
    state = filled(NAME).state_dict()
    put(cache, state)
    backbone = registry.resolve(SPECS[NAME].factory)()
    assert load_weights(backbone, SPECS[NAME], TAG) == TAG
    loaded = backbone.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(loaded[k], state[k]) for k in loaded)


def test_weights_from_a_file(tmp_path: Path) -> None:
    """What the message without a network says to fetch can be passed."""
    state = filled(NAME).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    backbone = registry.resolve(SPECS[NAME].factory)()
    load_weights(backbone, SPECS[NAME], str(tmp_path / "model.safetensors"))
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[k], state[k]) for k in loaded)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(ModelError) as caught:
        networks.weights.test_resnet.r160_in1k()
    said = str(caught.value)
    assert offline or "no route" in said
    assert f"https://huggingface.co/timm/{NAME}.{TAG}/resolve/main/model.safetensors" in said
    assert "--weights model.safetensors" in said
    assert "--weights none" in said
    assert "\n" not in said


def test_without_a_network_and_without_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    with pytest.raises(ModelError, match=r"no route.*https://.*seresnet18-4bb0ce65.pth") as caught:
        networks.weights.legacy_seresnet18.in1k()
    assert "--weights seresnet18-4bb0ce65.pth" in str(caught.value)


def test_damaged_file(cache: Path) -> None:
    file = put(cache, filled(NAME).state_dict())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged, or of another network"):
        networks.weights.test_resnet.r160_in1k()


def test_file_that_lacks_a_tensor(cache: Path) -> None:
    """timm itself would go on with random numbers there."""
    state = filled(NAME).state_dict()
    del state["layer1.0.conv1.weight"]
    put(cache, state)
    with pytest.raises(ModelError, match=r"does not fill.*layer1.0.conv1.weight"):
        networks.weights.test_resnet.r160_in1k()


def test_pickles_are_not_run(cache: Path, tmp_path: Path) -> None:
    """A repository without safetensors holds torch's own kind of file."""
    folder = put(cache, {"x": torch.zeros(1)}).parent
    shutil.rmtree(folder)
    folder.mkdir()
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.mkdir, (str(ran),)

    torch.save({"conv1.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        networks.weights.test_resnet.r160_in1k()
    assert not ran.exists()


def test_networks_that_timm_has_no_more() -> None:
    with pytest.raises(PluginError, match=rf"timm {timm.__version__} has no network 'gone'"):
        networks.network.gone()
    for by_tag in (networks.weights.gone, networks.weights.test_resnet):
        with pytest.raises(PluginError, match="has no weights 'gone_in1k'"):
            by_tag.gone_in1k()
