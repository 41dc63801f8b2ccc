from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch import api
from fashionbatch.builtin.activations import Activations
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explanation import run as explaining
from fashionbatch.explanation.base import Photo
from fashionbatch.explanation.maps import channel_maps, standardized
from fashionbatch.models.build import find_backbone
from fashionbatch.pipeline.transforms import fit

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


def photo(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def test_values_are_the_layers(run):
    """Maps, shape and sparsity are those of the layer, read before the next one changes them."""
    explained = explaining.load(run, "cpu")
    model = explained.model
    model.backbone.stem[2] = torch.nn.ReLU(inplace=True)
    pixels = explained.inputs([photo(50, 30)])
    found = Activations(channels=8).activations(explained, pixels, ["stem.1", "blocks.1", "stem"])
    assert [a.layer for a in found] == ["stem.1", "stem", "blocks.1"]  # as they ran
    with torch.inference_mode():
        stem = model.backbone.stem(model.normalized(pixels))
        middle = model.backbone.blocks[1](model.backbone.blocks[0](stem))
        first = model.backbone.stem[:2](model.normalized(pixels))
    for activation, by_hand in zip(found, (first, stem, middle), strict=True):
        assert activation.shape == by_hand.shape[1:]
        assert np.allclose(activation.maps, by_hand[0, :8].numpy(), atol=1e-5)
        zeros = (by_hand == 0).double().mean().item()
        assert activation.sparsity == pytest.approx(zeros, abs=1e-3)
    assert found[2].sparsity > 0.1  # behind a ReLU
    assert found[0].sparsity == 0
    assert [a.kind for a in found] == ["BatchNorm2d", "Sequential", "_Block"]


def test_standardized():
    """The mean is mid-grey, 2.5 deviations are black or white, a silent channel is black."""
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0] = 7
    maps[1, :2], maps[1, 2:] = 3, 5
    maps[2, 0, 0] = 1e6
    grey = standardized(maps)
    assert grey.dtype == np.uint8
    assert grey[0].max() == 0
    assert set(np.unique(grey[1])) == {round(127.5 - 127.5 / 2.5), round(127.5 + 127.5 / 2.5)}
    assert grey[2, 0, 0] == 255
    assert standardized(np.full((1, 3, 3), 0.1, np.float32)).max() == 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 5, 7, 7), (5, 7, 7)),
        ((1, 7, 7, 5), (5, 7, 7)),
        ((1, 50, 5), (5, 7, 7)),
        ((1, 49, 5), (5, 7, 7)),
        ((1, 5), None),
    ],
)
def test_orders_of_dimensions(shape, expected):
    """Maps, channels last, tokens with and without a class token."""
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    maps = channel_maps(values)
    if expected is None:
        assert maps is None
        return
    assert maps.shape[1:] == expected
    # row 1, column 2 of channel 3
    if len(shape) == 3:
        assert maps[0, 3, 1, 2] == values[0, shape[1] - 49 + 9, 3]
    else:
        assert maps[0, 3, 1, 2] == (values[0, 3, 1, 2] if shape[1] == 5 else values[0, 1, 2, 3])


def test_picture(run, tmp_path):
    """Original, input, then 16 maps to a row; the sparsity is told; the same bytes again."""
    photo(80, 40).save(tmp_path / "p.png")
    told = []
    for output in ("a", "b"):
        result = api.explain(
            "activations", [tmp_path / "p.png"], model=run, output=tmp_path / output, device="cpu",
            tell=lambda event, values: told.append((event, values)),
        )  # fmt: skip
    assert (tmp_path / "a" / "p.png.activations.png").read_bytes() == (
        tmp_path / "b" / "p.png.activations.png"
    ).read_bytes()
    about = result["about"]["p.png.activations.png"]
    assert about["Sparsity"].count("%") == 3 and "blocks.1 " in about["Sparsity"]
    assert told[1] == ("picture", {"name": "p.png", "about": about})
    explained = explaining.load(run, "cpu")
    with Image.open(tmp_path / "a" / "p.png.activations.png") as opened:
        page = np.asarray(opened)
    # 32, 64 and 64 of 128 maps are 2, 4 and 4 rows
    assert page.shape[0] == 52 + 22 + 256 + 24 + 3 * (22 + 24) + 10 * 66 - 3 * 2
    seen = fit(Image.open(tmp_path / "p.png").convert("RGB"), explained.preprocessing)
    shown = Image.fromarray(page[74:330, 24 + 256 + 24 : 24 + 256 + 24 + 256])
    assert np.array_equal(np.asarray(shown), np.asarray(
        Image.fromarray(seen).resize((256, 256), Image.Resampling.NEAREST)
    ))  # fmt: skip
    [first] = Activations(channels=17).activations(
        explained, explained.inputs([Image.open(tmp_path / "p.png").convert("RGB")]), ["blocks.0"]
    )
    tile = Image.fromarray(standardized(first.maps)[16]).resize((64, 64), Image.Resampling.NEAREST)
    top = 52 + 22 + 256 + 24 + 22 + 66  # the seventeenth begins the second row
    assert np.array_equal(page[top : top + 64, 24:88, 0], np.asarray(tile))


def test_random_view(run):
    """A random view is what the network gets, each image's the same whatever stands beside it."""
    explained = explaining.load(run, "cpu")
    images = [photo(28, 28, 1), photo(28, 28, 2)]

    def drawn(images, **options):
        photos = [Photo(image=image, name=str(i)) for i, image in enumerate(images)]
        return [p.image.tobytes() for p in Activations(**options).draw(explained, photos)]

    plain, seen, other = (
        drawn(images[:1], **o) for o in ({}, {"augment": "paper"}, {"augment": "paper", "seed": 1})
    )
    assert len({*plain, *seen, *other}) == 3
    assert drawn(images, augment="paper")[0] == seen[0]


def test_choosing_layers(run):
    """Patterns match dots; what gives no maps is passed over; an unknown name is refused."""
    explained = explaining.load(run, "cpu")

    def chosen(layers):
        [picture] = Activations(layers=layers).draw(
            explained, [Photo(image=photo(28, 28), name="a")]
        )
        return [entry.split()[0] for entry in picture.about["Sparsity"].split(", ")]

    assert chosen("stem.?") == ["stem.0", "stem.1", "stem.2", "stem.3"]
    assert chosen("blocks.0*conv?+stem.3") == ["stem.3", "blocks.0.conv1", "blocks.0.conv2"]
    with pytest.raises(UnknownNameError, match=r"no layer.*'blocks\.7'.*blocks"):
        chosen("stem+blocks.7")
    assert hooks(explained.model) == 0


def test_no_maps(run):
    """Layers without maps are refused in one line, and no hook stays behind."""
    explained = explaining.load(run, "cpu")
    photos = [Photo(image=photo(9, 9), name="a")]
    explained.model.backbone.flat = torch.nn.Identity()
    with pytest.raises(UsageError, match="none of the layers flat gives maps"):
        list(Activations(layers="flat").draw(explained, photos))
    explained.model.backbone.blocks[2] = torch.nn.Linear(3, 3)  # fails while it runs
    with pytest.raises(RuntimeError):
        list(Activations().draw(explained, photos))
    assert hooks(explained.model) == 0


@pytest.mark.parametrize("option", ["channels=0", "augment=twirl", "layers=nothing"])
def test_refused(run, tmp_path, option):
    """Options that cannot work are one line that names them; nothing is made."""
    photo(9, 9).save(tmp_path / "p.png")
    with pytest.raises(UsageError, match=option.partition("=")[2]):
        api.explain(f"activations:{option}", [tmp_path / "p.png"], model=run, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_papers_layers():
    """VGG-16: max-pool 1, ReLU of convolutions 3 and 5, max-pool 5, counted from the input."""
    component, spec = find_backbone("vgg16")
    from fashionbatch import registry

    with torch.device("meta"):
        features = registry.create(component).features
    kinds = [type(m).__name__ for m in features]
    pools = [i for i, kind in enumerate(kinds) if kind == "MaxPool2d"]
    convolutions = [i for i, kind in enumerate(kinds) if kind == "Conv2d"]
    places = [pools[0], convolutions[2] + 1, convolutions[4] + 1, pools[4]]
    assert list(spec.shown_layers) == [f"features.{i}" for i in places]
    assert kinds[places[1]] == kinds[places[2]] == "ReLU"


def test_model_that_ends_with_a_layer(tmp_path):
    """Of a backbone cut off by ``--bottleneck``, what is left of it is shown."""
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=32, epochs=1, workers=0,
        device="cpu", output=tmp_path, name="cut", batch_size=16, bottleneck="blocks.1",
    )  # fmt: skip
    photo(28, 28).save(tmp_path / "p.png")
    for visualizer in ("activations", "grad-cam", "occlusion:patch=14", "deep-dream:steps=1"):
        result = api.explain(
            visualizer,
            [tmp_path / "p.png"],
            model=tmp_path / "cut",
            output=tmp_path / visualizer[:9],
        )
        assert result["pictures"] == 1
        if visualizer == "activations":
            [about] = result["about"].values()
            layers = [entry.split()[0] for entry in about["Sparsity"].split(", ")]
            assert layers == ["blocks.0", "blocks.1"]
