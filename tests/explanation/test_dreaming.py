from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch import api
from fashionbatch.builtin.dreaming import ClassMaximization, DeepDream
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.explanation import run as explaining
from fashionbatch.explanation.ascent import Ascent
from fashionbatch.explanation.base import Photo


def photo(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


@pytest.fixture
def explained(run):
    """A model whose classes are far apart; the one that was trained has hardly begun to learn."""
    explained = explaining.load(run, "cpu")
    with torch.no_grad():
        explained.model.head.dense[0].weight.mul_(60)
    return explained


def probabilities(explained, image):
    with torch.inference_mode():
        return explained.model(explained.inputs([image])).logits.softmax(1)[0]


def test_from_noise(explained):
    """Without images: an input that the model takes for the class, which noise was not."""
    target = explained.classes[4]
    [picture] = ClassMaximization(target=target, steps=500).draw(explained, [])
    assert picture.name == picture.about["Class"] == target
    # 28 pixels are shown at 336
    made = picture.image.crop((0, 0, 336, 336)).resize((28, 28), Image.Resampling.NEAREST)
    after = probabilities(explained, made)
    noise = Ascent(steps=1, rate=1).noise(28, torch.device("cpu"))
    noise = Image.fromarray(noise[0].permute(1, 2, 0).byte().numpy())
    before = probabilities(explained, noise)
    assert after[4] > 0.9 > 0.5 > before[4]
    assert float(picture.about["Probability"]) == pytest.approx(after[4].item(), abs=1e-3)


def test_every_class(run, tmp_path):
    """Without images and a target: a picture of each class, named after it."""
    classes = explaining.load(run, "cpu").classes
    result = api.explain(
        "class-maximization:steps=2", model=run, output=tmp_path / "o", device="cpu"
    )
    assert [about["Class"] for about in result["about"].values()] == list(classes)
    assert result["items"] == 0 and result["pictures"] == len(classes)


def test_from_an_image(explained):
    """The class's probability rises; the image stands beside what became of it."""
    original = photo(28, 14)
    before = probabilities(explained, original)
    target = int(before.argmin())
    [picture] = ClassMaximization(target=explained.classes[target], steps=500).draw(
        explained, [Photo(image=original, name="a")]
    )
    assert float(picture.about["Probability"]) > 10 * before[target]
    page = np.asarray(picture.image)
    # the letterbox, 7 rows above and below, is cut off
    assert np.array_equal(page[:168:12, :336:12], np.asarray(original))
    assert not np.array_equal(page[:168:12, 344:680:12], np.asarray(original))


def test_without_a_target_the_answer_is_strengthened(explained):
    """Of an image: the predicted class."""
    before = probabilities(explained, photo(28, 28))
    [picture] = ClassMaximization(steps=20).draw(explained, [Photo(image=photo(28, 28), name="a")])
    assert picture.about["Class"] == explained.classes[int(before.argmax())]
    assert float(picture.about["Probability"]) > before.max()


@pytest.mark.parametrize("visualizer", ["class-maximization", "deep-dream"])
def test_deterministic(run, tmp_path, visualizer):
    """The same seed, the same bytes, whatever stands beside the image; another seed, others."""
    for i in range(2):
        photo(28, 28, i).save(tmp_path / f"{i}.png")
    made = []
    for number, (seed, count) in enumerate(((0, 2), (0, 1), (1, 1))):
        output = tmp_path / f"o{number}"
        torch.rand(1)  # the global generator counts for nothing
        api.explain(
            f"{visualizer}:steps=6,seed={seed}", [tmp_path / f"{i}.png" for i in range(count)],
            model=run, output=output, device="cpu",
        )  # fmt: skip
        made.append((output / f"0.png.{visualizer}.png").read_bytes())
    assert made[0] == made[1] != made[2]


def test_deep_dream_raises_the_layers_norm(explained):
    """The layer's root mean square rises; no hook stays behind."""
    [picture] = DeepDream(layer="blocks.0").draw(explained, [Photo(image=photo(28, 28), name="a")])
    before, after = (float(number) for number in picture.about["Norm"].split(" to "))
    with torch.inference_mode():
        model = explained.model
        values = model.backbone.stem(model.normalized(explained.inputs([photo(28, 28)])))
        by_hand = model.backbone.blocks[0](values).square().mean().sqrt().item()
    assert before == pytest.approx(by_hand, rel=1e-3)
    assert after > 1.1 * before
    assert not any(m._forward_hooks for m in explained.model.modules())


def test_ascent():
    """What scores is reached, what does not stays; where nothing pulls, the start comes back."""
    start = Ascent(steps=1, rate=1).noise(32, torch.device("cpu"))
    assert (start.min() > 60) and (start.max() < 195)
    made = Ascent(steps=60, rate=0.05).run(lambda pixels: pixels[:, :, 8:24, 8:24].mean(), start)
    assert made[:, :, 12:20, 12:20].mean() > 200
    still = Ascent(steps=3, rate=0.05).run(lambda pixels: 0 * pixels.sum(), start)
    assert torch.allclose(still, start, atol=0.05)


@pytest.mark.parametrize(
    ("visualizer", "error", "message"),
    [
        ("class-maximization:target=nothing", UnknownNameError, "nothing"),
        ("class-maximization:steps=0", UsageError, "steps"),
        ("class-maximization:rate=0", UsageError, "rate"),
        ("deep-dream:layer=nothing", UnknownNameError, "nothing"),
        ("deep-dream:steps=0", UsageError, "steps"),
    ],
)
def test_refused(run, tmp_path, visualizer, error, message):
    """Options that cannot work are one line; nothing is made."""
    photo(9, 9).save(tmp_path / "p.png")
    with pytest.raises(error, match=message):
        api.explain(visualizer, [tmp_path / "p.png"], model=run, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_images_are_needed(run, tmp_path):
    """A visualizer that needs images says so where none is named."""
    with pytest.raises(UsageError, match="deep-dream needs images"):
        api.explain("deep-dream", model=run, output=tmp_path / "o")
