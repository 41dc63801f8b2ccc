"""The maps: against formulas written out, on a planted object, and what is left behind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import fashionbatch
import numpy as np
import pytest
import torch
from fashionbatch.errors import PluginError, UnknownNameError, UsageError
from fashionbatch.models.build import Classifier, Head, build, find_backbone
from PIL import Image
from torch import Tensor, nn

from fashionbatch_cam import extraction, gradients, linear, masks

SIDE = 32
KINDS: dict[str, Callable[..., extraction.TorchCam]] = {
    kind.name: kind
    for kind in (
        linear.Cam, gradients.GradCamPlusPlus, gradients.SmoothGradCamPlusPlus, gradients.XGradCam,
        gradients.LayerCam, gradients.FinerCam, masks.ScoreCam, masks.SsCam, masks.IsCam,
    )
}  # fmt: skip
KINDS["finer-cam of layer-cam"] = functools.partial(gradients.FinerCam, base="layer-cam")
every = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


class Colours(nn.Module):
    """Maps of red, green, blue and brightness, a quarter of the input's size; their means."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 3, padding=1)
        with torch.no_grad():
            self.see.weight.fill_(-0.1)
            for channel in range(3):
                self.see.weight[channel, channel] = 0.2
            self.see.weight[3] = 0.02
            assert self.see.bias is not None
            self.see.bias.zero_()
        self.last = nn.Sequential(self.see, nn.ReLU(), nn.AvgPool2d(4))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.last(images)
        return maps.mean(dim=(2, 3))


@pytest.fixture
def explained() -> fashionbatch.Explained:
    """Tells red from green and blue things; nothing of it can be trained."""
    preprocessing = fashionbatch.Preprocessing(size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    head = Head(4, 3, fashionbatch.HeadSpec(), 1)
    with torch.no_grad():
        head.dense[0].weight.fill_(-0.5)  # type: ignore[operator]
        for colour in range(3):
            head.dense[0].weight[colour, colour] = 4  # type: ignore[index]
        head.dense[0].weight[3] = torch.tensor([2.0, 0.1, 2.0, 0.3])  # type: ignore[index]
        head.dense[0].bias.zero_()  # type: ignore[operator]
    backbone = Colours()
    model = Classifier(backbone, head, preprocessing).eval().requires_grad_(False)
    return fashionbatch.Explained(
        model=model,
        classes=("red", "green", "blue"),
        attributes=("purple",),
        preprocessing=preprocessing,
        cam_layer=backbone.last,
        cam_layout="NCHW",
        device=torch.device("cpu"),
    )


def planted(colour: int = 0, row: int = 4, column: int = 16, seed: int = 0) -> Image.Image:
    """A square of 12 pixels on grey noise."""
    pixels = np.random.default_rng(seed).integers(110, 146, (SIDE, SIDE, 3), np.uint8)
    pixels[row : row + 12, column : column + 12] = 40
    pixels[row : row + 12, column : column + 12, colour] = 230
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def left_alone(explained: fashionbatch.Explained) -> Iterator[None]:
    """Whatever a test does, nothing of the network or of torch is changed behind it."""
    before = {name: value.clone() for name, value in explained.model.state_dict().items()}
    generator = torch.get_rng_state()
    explained.model.backbone.see.weight.requires_grad_(True)  # one that gradients could land in
    yield
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), generator)
    for name, module in explained.model.named_modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert not getattr(module, hooks), name
        assert not module.training
    for name, value in explained.model.named_parameters():
        assert value.grad is None
        assert value.requires_grad == (name == "backbone.see.weight")
        assert torch.equal(value, before[name])


@every
def test_planted_object_is_the_hottest(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    """Of several images with several answers at once."""
    places = [(0, 4, 16), (2, 16, 4), (1, 12, 12)]
    images = [planted(*place) for place in places]
    maps, chosen, probability = kind().maps(explained, images)
    assert chosen == [0, 2, 1]
    assert maps.shape == (3, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    for values, (_, row, column) in zip(maps, places, strict=True):
        inside = np.zeros((SIDE, SIDE), bool)
        inside[row : row + 12, column : column + 12] = True
        assert values.max() > 0.9
        assert values[inside].mean() > 3 * values[~inside].mean()
    with torch.no_grad():
        shares = explained.model(explained.inputs(images)).logits.softmax(dim=1).amax(dim=1)
    assert probability == pytest.approx(shares.tolist(), abs=1e-5)


@every
def test_target_and_company(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    """The named class is looked for; an image's map is the same whatever it comes with."""
    both = planted(0, 2, 2)
    both.paste(planted(2, 16, 16).crop((16, 16, 28, 28)), (16, 16))
    others = [planted(1), both, planted(0, 9, 9, seed=4)]
    visualizer = kind(target="blue")
    maps, chosen, _ = visualizer.maps(explained, others)
    assert chosen == [2, 2, 2]
    assert maps[1][16:28, 16:28].mean() > 2 * maps[1][2:14, 2:14].mean()
    alone, _, _ = visualizer.maps(explained, [both])
    assert np.allclose(alone[0], maps[1], atol=1e-5)


@every
def test_same_again(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    """Bit for bit, in whatever state torch's generator is."""
    image = planted(seed=3)
    first, _, _ = kind().maps(explained, [image])
    state = torch.get_rng_state()
    torch.manual_seed(99)
    again, _, _ = kind().maps(explained, [image])
    torch.set_rng_state(state)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("kind", [gradients.SmoothGradCamPlusPlus, masks.SsCam])
def test_seed(kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained) -> None:
    """Another seed is other noise."""
    first, second = (kind(seed=seed).maps(explained, [planted()])[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.abs(first - second).mean() < 0.2


def of_attribute(explained: fashionbatch.Explained) -> fashionbatch.Explained:
    return dataclasses.replace(explained, classes=("red",), attributes=("a", "b", "purple"))


@every
def test_attribute(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    """An attribute has its own logit; Finer-CAM compares it with attributes."""
    several = of_attribute(explained)
    several.model.head.classes = 1
    maps, chosen, _ = kind(target="purple").maps(several, [planted(2, 16, 4)])
    assert chosen == [3]
    assert maps[0][16:28, 4:16].mean() > 2 * maps[0][:12].mean()


class Fault(Exception):
    """What goes wrong in the middle."""


@every
def test_nothing_is_left_behind_an_error(
    kind: Callable[..., extraction.TorchCam],
    explained: fashionbatch.Explained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first pass and in a later one; `left_alone` looks."""
    runs = 0

    def forward(maps: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        raise Fault

    monkeypatch.setattr(explained.model.head, "forward", forward)
    with pytest.raises(Fault):
        kind().maps(explained, [planted()])
    assert runs == 1


@pytest.mark.parametrize("kind", [masks.ScoreCam, gradients.SmoothGradCamPlusPlus])
def test_nothing_is_left_behind_an_error_in_a_later_pass(
    kind: Callable[..., extraction.TorchCam],
    explained: fashionbatch.Explained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, runs = explained.model.head.forward, 0

    def third_fails(features: Tensor) -> Any:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise Fault
        return forward(features)

    monkeypatch.setattr(explained.model.head, "forward", third_fails)
    with pytest.raises(Fault):
        kind().maps(explained, [planted()])
    assert runs == 3


# The formulas, on a network whose weights vary from place to place.


class Uneven(nn.Module):
    """A convolution, a layout, and a bottleneck that weighs each place in its own way."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, 2, 1)
        self.last = Layout(layout)

    def forward(self, images: Tensor) -> Tensor:
        values = self.last(self.maps(images))
        if self.last.layout == "NHWC":
            values = values.permute(0, 3, 1, 2)
        if self.last.layout == "tokens":
            values = values[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        return self.pooled(values)

    def maps(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images))

    def pooled(self, maps: Tensor) -> Tensor:
        weights = torch.linspace(-1, 2, 16).view(4, 4)
        return (maps * weights + maps.square()).sum(dim=(2, 3))


class Layout(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, maps: Tensor) -> Tensor:
        if self.layout == "NHWC":
            return maps.permute(0, 2, 3, 1).contiguous()
        if self.layout == "tokens":
            tokens = maps.flatten(2).transpose(1, 2)
            return torch.cat([tokens[:, :1] * 7, tokens], dim=1)
        return maps


def uneven(layout: str = "NCHW", seed: int = 0) -> fashionbatch.Explained:
    preprocessing = fashionbatch.Preprocessing(size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, head = Uneven(layout), Head(6, 4, fashionbatch.HeadSpec())
    return fashionbatch.Explained(
        model=Classifier(backbone, head, preprocessing).eval(),
        classes=("a", "b", "c", "d"),
        preprocessing=preprocessing,
        cam_layer=backbone.last,
        cam_layout=layout,  # type: ignore[arg-type]
        device=torch.device("cpu"),
    )


def photo(seed: int = 0, side: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def activation_and_gradient(
    explained: fashionbatch.Explained, image: Image.Image, weights: dict[int, float]
) -> tuple[Tensor, Tensor]:
    """``A`` and the derivative of a weighed sum of logits, by autograd: each ``[6, 4, 4]``."""
    x = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    backbone = explained.model.backbone
    with torch.no_grad():
        maps = backbone.maps(x)
    leaf = maps.clone().requires_grad_()
    logits = explained.model.head.dense[0](backbone.pooled(leaf))[0]
    score = sum((weight * logits[place] for place, weight in weights.items()), logits[0] * 0)
    (gradient,) = torch.autograd.grad(score, leaf)
    return maps[0], gradient[0]


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    """Each place of a channel weighed by its own positive derivative."""
    return sum((g[k].clamp(min=0) * a[k] for k in range(len(a))), torch.zeros(4, 4))


def grad_cam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """With powers of the first derivative for the second and third, as the paper derives."""
    found = torch.zeros(4, 4)
    for k in range(len(a)):
        weight = torch.tensor(0.0)
        for i in range(4):
            for j in range(4):
                if g[k, i, j] > 0:
                    below = 2 * g[k, i, j] ** 2 + a[k].sum() * g[k, i, j] ** 3
                    weight += g[k, i, j] ** 2 / below * g[k, i, j]
        found += weight * a[k]
    return found


def x_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """Gradients weighed by each activation's share of its channel."""
    shares = [a[k] / a[k].sum().clamp(min=1e-8) for k in range(len(a))]
    return sum(((g[k] * shares[k]).sum() * a[k] for k in range(len(a))), torch.zeros(4, 4))


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    return sum((g[k].mean() * a[k] for k in range(len(a))), torch.zeros(4, 4))


def on_input(found: Tensor) -> np.ndarray[Any, Any]:
    found = found.clamp(min=0) / found.max()
    return nn.functional.interpolate(found[None, None], (8, 8), mode="bilinear")[0, 0].numpy()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        (gradients.LayerCam, layer_cam),
        (gradients.GradCamPlusPlus, grad_cam_plus_plus),
        (gradients.XGradCam, x_grad_cam),
    ],
)
def test_formula(
    kind: Callable[..., extraction.TorchCam], formula: Callable[..., Tensor], layout: str
) -> None:
    """Of each of several images with a class of its own, however the maps lie."""
    explained = uneven(layout)
    images = [photo(seed) for seed in range(6)]
    maps, chosen, _ = kind().maps(explained, images)
    assert len(set(chosen)) > 1
    for values, image, place in zip(maps, images, chosen, strict=True):
        activation, gradient = activation_and_gradient(explained, image, {place: 1})
        by_hand = formula(activation, gradient)
        assert by_hand.max() > 0
        assert np.allclose(values, on_input(by_hand), atol=1e-5)


@pytest.mark.parametrize(("base", "formula"), [("grad-cam", grad_cam), ("layer-cam", layer_cam)])
@pytest.mark.parametrize("named", [False, True])
def test_finer_cam(base: str, formula: Callable[..., Tensor], named: bool) -> None:
    """The base's map of a logit less 0.6 times the mean of others: the nearest, or the named."""
    explained = uneven()
    image = photo(5)
    with torch.no_grad():
        logits = explained.logits(explained.inputs([image]))[0]
    chosen = int(logits.argmax())
    others = sorted((i for i in range(4) if i != chosen), key=lambda i: -logits[i].item())[:2]
    options: dict[str, Any] = {"references": 2}
    if named:
        others = others[1:] + [i for i in range(4) if i not in (chosen, *others)]
        names = "+".join(explained.classes[i] for i in others)
        options = {"target": explained.classes[chosen], "against": names}
    maps, [found], _ = gradients.FinerCam(base=base, **options).maps(explained, [image])
    weights = {chosen: 1.0, **{other: -0.3 for other in others}}
    by_hand = formula(*activation_and_gradient(explained, image, weights))
    assert found == chosen
    assert by_hand.max() > 0
    assert np.allclose(maps[0], on_input(by_hand), atol=1e-5)


def test_score_cam() -> None:
    """Each map, from 0 to 1 and enlarged, hides the normalized input; softmax of what scores."""
    explained = uneven(seed=3)
    maps, [chosen], _ = masks.ScoreCam(batch_size=4).maps(explained, [photo(1)])
    with torch.no_grad():
        model = explained.model
        x = model.normalized(explained.inputs([photo(1)]))
        activation = model.backbone.maps(x)[0]
        scores = torch.zeros(6)
        for k, each in enumerate(activation):
            low, high = each.min(), each.max()
            mask = ((each - low) / (high - low + 1e-8))[None, None]
            mask = nn.functional.interpolate(mask, (8, 8), mode="bilinear")
            scores[k] = model.head(model.backbone(x * mask)).logits[0, chosen]
    by_hand = (scores.softmax(dim=0)[:, None, None] * activation).sum(dim=0)
    assert np.allclose(maps[0], on_input(by_hand), atol=1e-4)


def test_cam(explained: fashionbatch.Explained) -> None:
    """The weights of the class in the last layer, on the last maps."""
    maps, _, _ = linear.Cam(target="green").maps(explained, [planted(1)])
    with torch.no_grad():
        x = explained.model.normalized(explained.inputs([planted(1)]))
        last = explained.model.backbone.last(x)[0]
    weights = explained.model.head.dense[0].weight[1].tolist()
    found = sum((w * channel for w, channel in zip(weights, last, strict=True)), last[0] * 0)
    found = found.clamp(min=0) / found.max()
    enlarged = nn.functional.interpolate(found[None, None], (SIDE, SIDE), mode="bilinear")
    assert np.allclose(maps[0], enlarged[0, 0].detach().numpy(), atol=1e-5)


# What cannot work is one line.


def test_cam_takes_means_and_one_layer(explained: fashionbatch.Explained) -> None:
    with pytest.raises(UsageError, match=r"^cam: the features are not the means.*grad-cam$"):
        linear.Cam().maps(uneven(), [photo()])
    with torch.random.fork_rng(devices=[]):
        hidden = Head(4, 3, fashionbatch.HeadSpec(hidden=(5,)), 1)
    model = Classifier(explained.model.backbone, hidden, explained.preprocessing).eval()
    with pytest.raises(UsageError, match=r"^cam: the head has hidden layers"):
        linear.Cam().maps(dataclasses.replace(explained, model=model), [planted()])


def test_finer_cam_takes_others(explained: fashionbatch.Explained) -> None:
    with pytest.raises(UsageError, match=r"^finer-cam: the model knows one attribute only"):
        gradients.FinerCam(target="purple").maps(explained, [planted()])
    with pytest.raises(UsageError, match="a class with classes"):
        gradients.FinerCam(target="red", against="purple").maps(explained, [planted()])
    with pytest.raises(UnknownNameError, match="gren"):
        gradients.FinerCam(target="red", against="gren").maps(explained, [planted()])


@every
def test_unknown_target(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'red'"):
        kind(target="rad").maps(explained, [planted()])


@every
def test_layer_without_maps(
    kind: Callable[..., extraction.TorchCam], explained: fashionbatch.Explained
) -> None:
    """A layer that gives no map, is never run, or is not of this network."""
    wrong = dataclasses.replace(explained, cam_layout="tokens")
    with pytest.raises(PluginError, match=r"\[1, 4, 8, 8\].*tokens"):
        kind().maps(wrong, [planted()])
    elsewhere = dataclasses.replace(explained, cam_layer=nn.Identity())
    with pytest.raises(PluginError, match="never run"):
        kind().maps(elsewhere, [planted()])
    explained.model.backbone.unused = nn.Identity().eval()
    unused = dataclasses.replace(explained, cam_layer=explained.model.backbone.unused)
    with pytest.raises(PluginError, match="never run"):
        kind().maps(unused, [planted()])


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (gradients.LayerCam, {"intensity": 2}, "intensity"),
        (gradients.SmoothGradCamPlusPlus, {"num_samples": 0}, "num_samples is a whole number"),
        (gradients.SmoothGradCamPlusPlus, {"num_samples": 2.5}, r"not 2\.5"),
        (gradients.SmoothGradCamPlusPlus, {"std": 0}, "std is a number above 0"),
        (gradients.SmoothGradCamPlusPlus, {"std": float("inf")}, "std"),
        (gradients.SmoothGradCamPlusPlus, {"seed": -1}, "seed"),
        (masks.ScoreCam, {"batch_size": 0}, "batch_size is a whole number"),
        (masks.ScoreCam, {"batch_size": True}, "batch_size"),
        (masks.SsCam, {"std": "much"}, "std"),
        (masks.SsCam, {"num_samples": 0}, "num_samples"),
        (masks.IsCam, {"num_samples": "ten"}, "num_samples"),
        (gradients.FinerCam, {"gamma": -1}, "gamma is a number of at least 0"),
        (gradients.FinerCam, {"references": 0}, "references"),
        (gradients.FinerCam, {"base": "score-cam"}, "base is grad-cam or layer-cam"),
        (gradients.FinerCam, {"against": "a"}, "takes a target"),
        (gradients.FinerCam, {"against": "b+a", "target": "a"}, "the target itself"),
    ],
)
def test_wrong_options(
    kind: Callable[..., extraction.TorchCam], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        kind(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "small-resnet",
        pytest.param("swin_t", marks=pytest.mark.slow),
        pytest.param("vit_b_32", marks=pytest.mark.slow),
    ],
)
def test_networks_with_random_weights(name: str) -> None:
    """Transformers too, by all that takes few passes."""
    component, spec = find_backbone(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build(component, spec.preprocessing, fashionbatch.HeadSpec(), 4)
    explained = fashionbatch.Explained(
        model=model.requires_grad_(False),
        classes=("a", "b", "c", "d"),
        preprocessing=spec.preprocessing,
        cam_layer=model.backbone.get_submodule(spec.cam_layer),
        cam_layout=spec.cam_layout,
        device=torch.device("cpu"),
    )
    side = spec.preprocessing.size
    for kind in (
        gradients.LayerCam, gradients.GradCamPlusPlus, gradients.XGradCam, gradients.FinerCam,
        functools.partial(gradients.SmoothGradCamPlusPlus, num_samples=2),
    ):  # fmt: skip
        maps, _, _ = kind().maps(explained, [photo(0, 60), photo(1, 60)])
        assert maps.shape == (2, side, side)
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        assert maps.max() <= 1
    if name == "small-resnet":
        assert linear.Cam().maps(explained, [photo()])[0].shape == (1, side, side)
    else:
        with pytest.raises(UsageError, match="not the means"):
            linear.Cam().maps(explained, [photo()])
