"""Checks of a backbone: its shapes, blocks, maps, and what is done with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashionbatch.errors import FashionbatchError
from fashionbatch.explanation.maps import channel_maps
from fashionbatch.models import freeze
from fashionbatch.models.build import Classifier, build
from fashionbatch.models.cut import cut
from fashionbatch.registry import Component
from fashionbatch.specs import BackboneSpec, HeadSpec
from fashionbatch.testing.parts import CLASSES, create, want

_TOLERANCE = 1e-4


def check_backbone(spec: BackboneSpec, *, size: int | None = None) -> None:
    """Shapes, determinism, freezing by blocks, cached activations, Grad-CAM's maps.

    Args:
        spec: of the backbone; its weight sets are not loaded.
        size: of the input, in pixels; by default that of its preprocessing. A smaller one is
            quicker, where the network takes it.

    Raises:
        AssertionError: what it does not do, in one line.
    """
    preprocessing = spec.preprocessing if size is None else spec.preprocessing.with_size(size)
    side = preprocessing.size
    bare = create("backbone", spec)
    want(
        isinstance(bare, nn.Module),
        spec,
        f"the factory gives {type(bare).__name__}, not a torch.nn.Module",
    )
    count = sum(p.numel() for p in bare.parameters())
    if spec.parameters:
        # as published, with a classifier that is not there
        fits = count / 1e6 <= 1.02 * spec.parameters + 0.06
        want(fits, spec, f"it has {count:,} parameters, its spec says {spec.parameters} million")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        component = Component(kind="backbone", spec=spec, provider="under-test", version="0")
        try:
            model = build(component, preprocessing, HeadSpec(), CLASSES, 0, None)
        except FashionbatchError as error:
            raise AssertionError(f"{spec.name}: {error}") from None
        images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    model.eval()
    maps: list[Tensor] = []
    layer = dict(model.backbone.named_modules()).get(spec.cam_layer)
    want(layer is not None, spec, f"it has no module {spec.cam_layer!r}, its cam_layer")
    assert layer is not None
    hook = layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    try:
        with torch.inference_mode():
            features = model.bottleneck(images)
    finally:
        hook.remove()
    want(
        features.ndim == 2 and len(features) == 3,
        spec,
        f"3 images give {list(features.shape)}, not [3, D]",
    )
    want(features.is_floating_point(), spec, f"it gives {features.dtype}, not floating point")
    want(bool(features.isfinite().all()), spec, "with random weights it gives numbers not finite")
    found = channel_maps(maps[0], spec.cam_layout) if maps else None
    want(
        found is not None and found.ndim == 4,
        spec,
        f"its cam_layer {spec.cam_layer!r} gives {_shape(maps)}, no maps of the layout "
        f"{spec.cam_layout}",
    )
    with torch.inference_mode():
        again = model.bottleneck(images)
        alone = model.bottleneck(images[1:2])
        turned = model.bottleneck(images.flip(0)).flip(0)
    want(torch.equal(features, again), spec, "in evaluation mode it gives other numbers each time")
    for other, how in ((alone, features[1:2]), (turned, features)):
        near = torch.allclose(other, how, rtol=_TOLERANCE, atol=_TOLERANCE)
        want(near, spec, "in evaluation mode an image's numbers depend on the batch's other images")
    _check_blocks(spec, model, images, side)
    missing = [name for name in spec.shown_layers if name not in dict(bare.named_modules())]
    want(not missing, spec, f"it has no module {missing[:1]}, of its shown_layers")


def _check_blocks(spec: BackboneSpec, model: Classifier, images: Tensor, side: int) -> None:
    try:
        blocks = freeze.block_names(model.backbone, spec.blocks)
    except FashionbatchError as error:
        raise AssertionError(f"{spec.name}: {error}") from None
    want(bool(blocks), spec, "no module with parameters matches its blocks")
    nested = [b for b in blocks if any(b.startswith(f"{a}.") for a in blocks)]
    want(not nested, spec, f"its block {nested[:1]} lies within another one")
    for trained in dict.fromkeys((1, len(blocks))):
        freeze.unfreeze(model, blocks, trained)
        freeze.train_mode(model)
        before = {n: b.clone() for n, b in model.named_buffers()}
        model.zero_grad()
        model(images).logits.square().sum().backward()
        last = [p for n, p in model.backbone.named_parameters() if n.startswith(f"{blocks[-1]}.")]
        moved = any(p.grad is not None and bool(p.grad.any()) for p in last)
        want(moved, spec, f"no gradient reaches {blocks[-1]!r}, its last block")
        known = model.named_parameters()
        wrong = [n for n, p in known if p.grad is not None and not p.requires_grad]
        want(not wrong, spec, f"{wrong[:1]} is frozen, and has a gradient")
        if trained < len(blocks):
            first = f"backbone.{blocks[0]}."
            drift = [
                n for n, b in model.named_buffers()
                if n.startswith(first) and not torch.equal(b, before[n])
            ]  # fmt: skip
            want(not drift, spec, f"{drift[:1]} is frozen, and a step changes it")
    freeze.unfreeze(model, blocks, 1)
    model.eval()
    try:
        parts = cut(model.backbone, spec.name, side)
    except FashionbatchError as error:
        raise AssertionError(
            f"{spec.name}: what is frozen cannot be computed once (--prefix-cache): {error}"
        ) from None
    with torch.inference_mode():
        pixels = model.normalized(images)
        whole, pieces = model.backbone(pixels), parts.tail(tuple(parts.prefix(pixels)))
    near = torch.allclose(whole, pieces, rtol=_TOLERANCE, atol=_TOLERANCE)
    want(near, spec, "cut at its last block it gives other numbers than as a whole")


def _shape(maps: list[Tensor]) -> str:
    if not maps:
        return "nothing, because it is never run as a whole"
    return str(list(getattr(maps[0], "shape", ()))) or type(maps[0]).__name__
