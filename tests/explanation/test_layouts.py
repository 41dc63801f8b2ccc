"""Grad-CAM of networks whose maps lie in other ways than ``[N, C, h, w]``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fashionbatch.builtin.grad_cam import GradCam
from fashionbatch.errors import PluginError
from fashionbatch.explanation import run as explaining
from fashionbatch.explanation.base import Explained
from fashionbatch.models.build import Classifier, Head, build, find_backbone
from fashionbatch.specs import HeadSpec, Preprocessing


def photo(side, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def enlarged(cam, side):
    """ReLU, the largest value 1, bilinear."""
    cam = cam.clamp(min=0)
    cam = cam / cam.max()
    return nn.functional.interpolate(cam[None, None], (side, side), mode="bilinear")[0, 0].numpy()


class _Layout(nn.Module):
    """Puts ``[N, C, h, w]`` as a network of that layout has it, behind two other tokens."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout

    def forward(self, maps):
        if self.layout == "NHWC":
            return maps.permute(0, 2, 3, 1).contiguous()
        if self.layout == "tokens":
            tokens = maps.flatten(2).transpose(1, 2)
            return torch.cat([tokens[:, :2] * 7, tokens], dim=1)
        return maps


class _Small(nn.Module):
    """A convolution, a layout, and a bottleneck that weighs every place by its own number."""

    def __init__(self, layout):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, 2, 1)
        self.last = _Layout(layout)

    def forward(self, images):
        values = self.last(torch.tanh(self.convolution(images)))
        if self.last.layout == "NHWC":
            values = values.permute(0, 3, 1, 2)
        if self.last.layout == "tokens":
            values = (
                values[:, 2:].transpose(1, 2).unflatten(2, (4, 4)) + values[:, 0, :, None, None]
            )
        return self.pooled(values)

    def pooled(self, maps):
        return (maps.square() * torch.arange(16).view(4, 4)).sum(dim=(2, 3))


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_formula(layout, stated):
    """ReLU(Σ_k α_k A_k) with α by autograd, on a small network, for each layout."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone, head = _Small(layout), Head(6, 3, HeadSpec())
    explained = Explained(
        model=Classifier(backbone, head, preprocessing).eval(),
        classes=("a", "b", "c"),
        preprocessing=preprocessing,
        cam_layer=backbone.last,
        cam_layout=layout if stated else None,
        device=torch.device("cpu"),
    )
    maps, _, _ = GradCam(target="b").maps(explained, [photo(8)])
    x = (torch.from_numpy(np.array(photo(8))).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.no_grad():
        activation = torch.tanh(backbone.convolution(x))
    leaf = activation.clone().requires_grad_()
    first = leaf[:, :, :1, :1].detach() * 7 if layout == "tokens" else 0
    (head.dense[0](backbone.pooled(leaf + first))[0, 1]).backward()
    by_hand = torch.zeros(4, 4)
    for k in range(6):
        alpha = sum(leaf.grad[0, k, y, x].item() for y in range(4) for x in range(4)) / 16
        by_hand += alpha * activation[0, k]
    assert 0 < (by_hand > 0).sum() < 16
    assert np.allclose(maps[0], enlarged(by_hand, 8), atol=1e-5)


def named(name):
    component, spec = find_backbone(name)
    torch.manual_seed(1)
    model = build(component, spec.preprocessing, HeadSpec(), 4)
    return Explained(
        model=model,
        classes=("a", "b", "c", "d"),
        preprocessing=spec.preprocessing,
        cam_layer=model.backbone.get_submodule(spec.cam_layer),
        cam_layout=spec.cam_layout,
        device=torch.device("cpu"),
    )


def test_vision_transformer():
    """ViT: in front of the last attention, the class token left out."""
    explained = named("vit_b_32")
    maps, [chosen], _ = GradCam().maps(explained, [photo(224)])
    net = explained.model.backbone
    with torch.no_grad():
        x = explained.model.normalized(explained.inputs([photo(224)]))
        patches = net.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([net.class_token, patches], dim=1) + net.encoder.pos_embedding
        tokens = net.encoder.layers[:11](tokens)
        last = net.encoder.layers[11]
        values = last.ln_1(tokens)
    leaf = values.clone().requires_grad_()
    attended, _ = last.self_attention(leaf, leaf, leaf)
    tokens = tokens + attended
    tokens = tokens + last.mlp(last.ln_2(tokens))
    explained.model.head.dense[0](net.encoder.ln(tokens)[:, 0])[0, chosen].backward()
    by_hand = torch.zeros(49)
    alpha = leaf.grad[0, 1:].mean(dim=0)
    for place in range(49):
        by_hand[place] = torch.dot(alpha, values[0, 1 + place])
    assert by_hand.max() > 0
    assert np.allclose(maps[0], enlarged(by_hand.view(7, 7), 224), atol=1e-3)


def test_swin():
    """Swin: channels last."""
    explained = named("swin_t")
    maps, [chosen], _ = GradCam().maps(explained, [photo(224)])
    net = explained.model.backbone
    with torch.no_grad():
        values = net.features(explained.model.normalized(explained.inputs([photo(224)])))
    leaf = values.clone().requires_grad_()
    logits = explained.model.head.dense[0](net.norm(leaf).mean(dim=(1, 2)))
    logits[0, chosen].backward()
    by_hand = values[0] @ leaf.grad[0].mean(dim=(0, 1))
    assert by_hand.shape == (7, 7) and by_hand.max() > 0
    assert np.allclose(maps[0], enlarged(by_hand, 224), atol=1e-3)


@pytest.mark.parametrize("name", ["small-resnet", "swin_t"])
def test_agrees_with_torchcam(name):
    """The map is that of the package torchcam, where it is installed."""
    methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    explained = named(name)
    side = explained.preprocessing.size
    maps, [chosen], _ = GradCam().maps(explained, [photo(side)])
    net = nn.Sequential(explained.model.backbone, explained.model.head.dense[0])
    order = (lambda values: values.movedim(3, 1)) if explained.cam_layout == "NHWC" else None
    images = explained.model.normalized(explained.inputs([photo(side)])).requires_grad_()
    with methods.GradCAM(net, explained.cam_layer, reshape_transform=order) as extract:
        [theirs] = extract(chosen, net(images), normalized=False)
    assert theirs.max() > 0
    assert np.allclose(maps[0], enlarged(theirs[0].detach(), side), atol=1e-3)


def test_layout_that_does_not_fit(run):
    """A backbone whose layer is not what its spec says is named as the fault."""
    explained = explaining.load(run, "cpu")
    assert explained.cam_layout == "NCHW"
    wrong = dataclasses.replace(explained, cam_layout="tokens")
    with pytest.raises(PluginError, match=r"\[1, 128, 4, 4\].*tokens"):
        GradCam().maps(wrong, [photo(28)])
    unused = dataclasses.replace(explained, cam_layer=nn.Identity())
    with pytest.raises(PluginError, match="never run"):
        GradCam().maps(unused, [photo(28)])
