from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fashionbatch import api
from fashionbatch.builtin import occlusion
from fashionbatch.builtin.occlusion import Occlusion
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explanation import run as explaining
from fashionbatch.explanation.base import Explained, Photo
from fashionbatch.models.build import Classifier, Head
from fashionbatch.specs import HeadSpec, Preprocessing


def photo(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


class _Corner(nn.Module):
    """Sees the brightness of one place only."""

    def __init__(self, rows, columns):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, images):
        return images[:, :1, self.rows, self.columns].mean(dim=(2, 3))


def looking_at(rows, columns, crop_mode="letterbox"):
    """A model of two classes: ``bright`` there, or ``dark``."""
    preprocessing = Preprocessing(
        size=28, resize=28, mean=(0.5,) * 3, std=(0.5,) * 3, crop_mode=crop_mode
    )
    head = Head(1, 2, HeadSpec())
    with torch.no_grad():
        head.dense[0].weight.copy_(torch.tensor([[5.0], [-5.0]]))
        head.dense[0].bias.zero_()
    backbone = _Corner(rows, columns)
    return Explained(
        model=Classifier(backbone, head, preprocessing).eval(),
        classes=("bright", "dark"),
        preprocessing=preprocessing,
        cam_layer=backbone,
        device=torch.device("cpu"),
    )


def test_agrees_with_hiding_by_hand(run):
    """The heat of a pixel is the mean fall over the squares that hide it."""
    explained = explaining.load(run, "cpu")
    image = photo(28, 28, 3)
    target = explained.classes[2]
    falls, chosen, before, lowest = Occlusion(patch=9, stride=6, target=target).falls(
        explained, image
    )

    def probability(pixels):
        values = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        with torch.no_grad():
            return explained.model(values).logits.softmax(1)[0, 2].item()

    pixels = np.array(image)
    afters = {}
    for y in (0, 6, 12, 18, 19):
        for x in (0, 6, 12, 18, 19):
            hidden = pixels.copy()
            hidden[y : y + 9, x : x + 9] = 128
            afters[y, x] = probability(hidden)
    assert chosen == 2 and before == pytest.approx(probability(pixels), abs=1e-5)
    assert lowest == pytest.approx(min(afters.values()), abs=1e-5)
    for y in range(28):
        for x in range(28):
            over = [
                before - after
                for (top, left), after in afters.items()
                if top <= y < top + 9 and left <= x < left + 9
            ]
            assert falls[y, x] == pytest.approx(np.mean(over), abs=1e-5)


@pytest.mark.parametrize("crop_mode", ["letterbox", "squash", "center"])
def test_heat_is_where_the_model_looks(crop_mode):
    """On a wide image, with its crop or letterbox undone."""
    explained = looking_at(slice(12, 16), slice(2, 6), crop_mode)
    image = Image.new("RGB", (280, 140), "white")
    [picture] = Occlusion(patch=5, stride=2, intensity=1).draw(
        explained, [Photo(image=image, name="a")]
    )
    page = np.asarray(picture.image).astype(int)[:140, :280]
    red = page[..., 0] - page[..., 2]
    centre = {"letterbox": (70, 40), "squash": (70, 40), "center": (70, 90)}[crop_mode]
    assert red[centre] > 100  # red there,
    assert red[:, 190:].max() < 0 and red[:8].max() < 0  # blue elsewhere
    assert picture.about["Class"] == "bright"
    assert float(picture.about["Probability"]) > 0.99
    assert float(picture.about["Lowest"]) == pytest.approx(0.5, abs=0.02)  # grey is neither


def test_letterbox_is_not_hidden(monkeypatch):
    """Squares that hide nothing of the image are not run."""
    explained = looking_at(slice(12, 16), slice(2, 6))
    seen = []
    explained.model.register_forward_hook(
        lambda module, inputs, outputs: seen.append(inputs[0].clone())
    )
    monkeypatch.setattr(occlusion, "_BATCH", 5)
    falls = Occlusion(patch=4, stride=4).falls(explained, Image.new("RGB", (280, 140), "white"))[0]
    hidden = torch.cat(seen[1:])
    assert max(len(batch) for batch in seen) == 5
    # rows 7 to 20 are the image's
    assert len(hidden) == 7 * 4
    assert not hidden[:, :, :7].any() and not hidden[:, :, 21:].any()
    assert not falls[:7].any() and not falls[21:].any()
    thin = Occlusion(patch=8, stride=4).falls(explained, Image.new("RGB", (280, 9), "white"))
    assert thin[0].shape == (28, 28)


def test_batches_do_not_matter(run, monkeypatch):
    """The same heat whatever is run at once, and again."""
    explained = explaining.load(run, "cpu")
    first = Occlusion().falls(explained, photo(40, 28))
    assert np.array_equal(Occlusion().falls(explained, photo(40, 28))[0], first[0])
    monkeypatch.setattr(occlusion, "_BATCH", 7)
    assert np.allclose(Occlusion().falls(explained, photo(40, 28))[0], first[0], atol=1e-5)


def test_rising_probability_is_no_heat():
    """Where hiding helps, there is no heat: the image is all blue."""
    explained = looking_at(slice(12, 16), slice(2, 6))
    image = Image.new("RGB", (28, 28), "black")
    [picture] = Occlusion(target="bright", intensity=1).draw(
        explained, [Photo(image=image, name="a")]
    )
    page = np.asarray(picture.image).astype(int)[:140, :140]
    assert (page == page[0, 0]).all()
    assert page[0, 0, 2] > page[0, 0, 0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("patch=0", UsageError, "patch"),
        ("stride=0", UsageError, "stride"),
        ("intensity=2", UsageError, "intensity"),
        ("patch=29", UsageError, "28 pixels"),
        ("patch=4,stride=5", UsageError, "gaps"),
        ("target=nothing", UnknownNameError, "nothing"),
    ],
)
def test_refused(run, tmp_path, options, error, message):
    """Options that cannot work are one line; nothing is made."""
    photo(9, 9).save(tmp_path / "p.png")
    with pytest.raises(error, match=message):
        api.explain(f"occlusion:{options}", [tmp_path / "p.png"], model=run, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_picture(run, tmp_path):
    """The original's size with a caption below."""
    photo(200, 90).save(tmp_path / "p.png")
    result = api.explain(
        "occlusion", [tmp_path / "p.png"], model=run, output=tmp_path / "o", device="cpu"
    )
    [about] = result["about"].values()
    assert set(about) == {"Class", "Probability", "Lowest"}
    with Image.open(tmp_path / "o" / "p.png.occlusion.png") as image:
        assert image.height == 90 + 28
