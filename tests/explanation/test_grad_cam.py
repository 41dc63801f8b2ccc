from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from fashionbatch import api
from fashionbatch.builtin.grad_cam import GradCam
from fashionbatch.errors import SourceError, UnknownNameError, UsageError
from fashionbatch.explanation import heat, sheet
from fashionbatch.explanation import run as explaining
from fashionbatch.models.build import Classifier, Head
from fashionbatch.specs import HeadSpec


def photo(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


@pytest.mark.parametrize("target", [None, 7])
def test_agrees_with_an_independent_one(run, target):
    """The map is ReLU(Σ α A), α the mean gradient of the logit, as written out by hand."""
    explained = explaining.load(run, "cpu")
    images = [photo(28, 28, i) for i in range(3)]
    name = None if target is None else explained.classes[target]
    maps, chosen, probability = GradCam(target=name).maps(explained, images)
    model = explained.model
    for i, image in enumerate(images):
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        x = (x - 0.5) / 0.5
        with torch.no_grad():
            activation = model.backbone.blocks(model.backbone.stem(x))
        leaf = activation.clone().requires_grad_()
        logits = model.head.dense[0](leaf.mean(dim=(2, 3)))[0]
        number = int(logits.argmax()) if target is None else target
        logits[number].backward()
        alpha = leaf.grad[0].mean(dim=(1, 2))
        by_hand = torch.zeros(activation.shape[2:])
        for k in range(len(alpha)):
            by_hand += alpha[k] * activation[0, k]
        by_hand = by_hand.clamp(min=0)
        by_hand = by_hand / by_hand.max().clamp(min=1e-12)
        big = torch.nn.functional.interpolate(by_hand[None, None], (28, 28), mode="bilinear")
        assert chosen[i] == number
        assert np.allclose(maps[i], big[0, 0].numpy(), atol=1e-3)
        assert probability[i] == pytest.approx(logits.softmax(0)[number].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("classes", "target", "number"), [(0, None, None), (0, "a1", 1), (3, "a1", 4), (3, "c2", 2)]
)
def test_attributes(run, classes, target, number):
    """An attribute's map is that of its own logit; its probability stands on its own."""
    explained = explaining.load(run, "cpu")
    head = Head(128, classes, HeadSpec(), 10 - classes)
    head.load_state_dict(explained.model.head.state_dict())
    named = dataclasses.replace(
        explained,
        model=Classifier(explained.model.backbone, head, explained.preprocessing).eval(),
        classes=tuple(f"c{i}" for i in range(classes)),
        attributes=tuple(f"a{i}" for i in range(10 - classes)),
    )
    images = [photo(28, 28, i) for i in range(3)]
    maps, chosen, probability = GradCam(target=target).maps(named, images)
    logits = explained.model(explained.inputs(images)).logits  # of the same ten
    if number is None:
        assert chosen == logits.argmax(1).tolist()
    else:
        assert chosen == [number] * 3
    for i, place in enumerate(chosen):
        only = GradCam(target=explained.classes[place]).maps(explained, images[i : i + 1])
        assert np.allclose(maps[i], only[0][0], atol=1e-5)
        of_class = place < classes
        each = logits[i, :classes].softmax(0) if of_class else logits[i].sigmoid()
        assert probability[i] == pytest.approx(each[place].item(), abs=1e-5)


@pytest.mark.parametrize("size", [(200, 60), (60, 200), (28, 28), (300, 300)])
def test_size(run, tmp_path, size):
    """The picture has the original's size (a tiny one's multiple), and a caption bar below."""
    factor = max(1, -(-160 // max(size)))
    photo(*size).save(tmp_path / "p.png")
    result = api.explain(
        "grad-cam", [tmp_path / "p.png"], model=run, output=tmp_path / "o", device="cpu"
    )
    assert result["pictures"] == 1
    [made] = (tmp_path / "o").iterdir()
    with Image.open(made) as image:
        assert image.height == size[1] * factor + 28
        assert image.width >= size[0] * factor


def test_image_shows_through(run, tmp_path):
    """With intensity 0 the picture is the original."""
    original = photo(200, 90)
    original.save(tmp_path / "p.png")
    api.explain(
        "grad-cam:intensity=0", [tmp_path / "p.png"], model=run, output=tmp_path / "o", device="cpu"
    )
    with Image.open(tmp_path / "o" / "p.png.grad-cam.png") as image:
        assert np.array_equal(np.asarray(image)[:90, :200], np.asarray(original))


def test_letterbox_is_undone(run):
    """What lies in the middle of the letterboxed input lies in the middle of the image."""
    explained = explaining.load(run, "cpu")
    assert explained.preprocessing.crop_mode == "letterbox"
    cam = np.zeros((28, 28), np.float32)
    cam[7:21, :14] = 1  # a 280 x 140 image covers rows 7 to 20 of the input
    over = heat.onto_original(cam, (280, 140), explained.preprocessing)
    assert over.shape == (140, 280)
    assert over[10:130, 5:130].min() > 0.99
    assert over[:, 150:].max() < 0.01


def test_unknown_class(run, tmp_path):
    """A class that the model lacks is refused with the nearest; nothing is made."""
    photo(9, 9).save(tmp_path / "p.png")
    known = explaining.load(run, "cpu").classes[0]
    with pytest.raises(UnknownNameError, match="did you mean"):
        api.explain(
            f"grad-cam:target={known}x", [tmp_path / "p.png"], model=run, output=tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()
    with pytest.raises(UsageError, match="intensity"):
        api.explain("grad-cam:intensity=2", [tmp_path / "p.png"], model=run, output=tmp_path / "o")
    with pytest.raises(UnknownNameError, match="grad-cam"):
        api.explain("gradcam", [tmp_path / "p.png"], model=run, output=tmp_path / "o")


def test_same_names(run, tmp_path):
    """Two images of the same name give two pictures."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        photo(9, 9).save(tmp_path / folder / "p.png")
    paths = [tmp_path / "a" / "p.png", tmp_path / "b" / "p.png"]
    result = api.explain("grad-cam", paths, model=run, output=tmp_path / "o", device="cpu")
    assert result["pictures"] == len(list((tmp_path / "o").iterdir())) == 2


def test_unusable_images(run, tmp_path):
    """Broken and unreadable files are listed; the others are drawn."""
    (tmp_path / "c").mkdir()
    photo(9, 9).save(tmp_path / "c" / "a.png")
    (tmp_path / "c" / "b.png").write_bytes(b"no image")
    (tmp_path / "c" / "c.png").symlink_to(tmp_path / "gone")
    result = api.explain(
        "grad-cam", [tmp_path / "c"], model=run, output=tmp_path / "o", device="cpu"
    )
    assert [f["name"] for f in result["failed"]] == ["b.png", "c.png"]
    assert (result["items"], result["pictures"]) == (3, 1)
    with pytest.raises(SourceError, match="none of the 1"):
        api.explain("grad-cam", [tmp_path / "c" / "b.png"], model=run, output=tmp_path / "n")
    with pytest.raises(UsageError, match="does not exist"):
        api.explain("grad-cam", [tmp_path / "nowhere"], model=run, output=tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_damaged_item_of_a_data_set(run, tmp_path):
    """An item of a data set whose bytes changed is listed too."""
    (tmp_path / "c").mkdir()
    for i in range(3):
        photo(9, 9, i).save(tmp_path / "c" / f"{i}.png")
    api.shard(tmp_path / "c", output=tmp_path / "d")
    tar = tmp_path / "d" / "all-000000.tar"
    data = bytearray(tar.read_bytes())
    data[512 + 60] ^= 1
    tar.write_bytes(data)
    result = api.explain(
        "grad-cam", [tmp_path / "d"], model=run, output=tmp_path / "o", device="cpu"
    )
    assert [f["name"] for f in result["failed"]] == ["0.png"]
    assert result["pictures"] == 2


@pytest.fixture
def cases(run, tmp_path):
    """A folder for each of two classes and one that the model does not know; answers by name."""
    explained = explaining.load(run, "cpu")
    answers = {}
    for place, label in enumerate([*explained.classes[:2], "unheard of"]):
        (tmp_path / "c" / label).mkdir(parents=True)
        for i in range(3):
            photo(28, 28, 10 * place + i).save(tmp_path / "c" / label / f"{i}.png")
            [number] = (
                explained.model(explained.inputs([photo(28, 28, 10 * place + i)]))
                .logits.argmax(1)
                .tolist()
            )
            answers[f"{label}/{i}.png"] = explained.classes[number]
    return tmp_path / "c", answers


def test_sheet(run, tmp_path, cases, monkeypatch):
    """One sheet of all images: wrong, right, and of no known class; its frames tell them apart."""
    folder, answers = cases
    monkeypatch.setattr(explaining, "_TOGETHER", 2)  # images come in several groups
    drawn = []
    draw = sheet.draw

    def watched(cases, title, about):
        drawn.extend(cases)
        return draw(cases, title, about)

    monkeypatch.setattr(sheet, "draw", watched)
    result = api.explain("grad-cam:sheet=true", [folder], model=run, output=tmp_path / "o")
    assert result["pictures"] == 1
    right = {
        name: answer == name.split("/")[0]
        for name, answer in answers.items()
        if not name.startswith("unheard")
    }
    assert {case.name: case.right for case in drawn if case.right is not None} == right
    assert {case.name for case in drawn} == set(answers)
    assert all(case.answer.startswith(answers[case.name]) for case in drawn)
    assert result["about"][f"grad-cam.{folder.name}.png"] == {
        "Right": f"{sum(right.values())} of 6",
    }  # fmt: skip
    with Image.open(tmp_path / "o" / f"grad-cam.{folder.name}.png") as image:
        page = np.asarray(image)
    red, green = (192, 57, 43), (30, 123, 52)
    for colour, count in ((red, 6 - sum(right.values())), (green, sum(right.values()))):
        edges = (page == colour).all(axis=2).sum()
        frame = 4 * 4 * (sheet.CELL + 4)
        assert (edges >= frame * count) and (edges < frame * count + frame)
    # one image by its own path: its folder's name is its class
    [name] = [n for n in answers if n.endswith("1.png") and not n.startswith("unheard")][:1]
    alone = api.explain("grad-cam:sheet=true", [folder / name], model=run, output=tmp_path / "p")
    [about] = alone["about"].values()
    assert about["Right"] == f"{int(right[name])} of 1"


def test_several_sheets(run, tmp_path, cases, monkeypatch):
    """What does not fit on a sheet goes onto the next; with a target nothing is judged."""
    folder, _ = cases
    monkeypatch.setattr(sheet, "MOST", 4)
    known = explaining.load(run, "cpu").classes[3]
    result = api.explain(
        f"grad-cam:sheet=true,target={known}", [folder], model=run, output=tmp_path / "o"
    )
    assert sorted(result["about"]) == [
        f"grad-cam.{folder.name}{number}.png" for number in ("-2", "-3", "")
    ]
    assert all("Right" not in about for about in result["about"].values())


def test_wrong_answer_is_captioned(run, tmp_path, cases, monkeypatch):
    """A picture says what the image is labelled where the answer is another; of data sets too."""
    folder, answers = cases
    captions = []
    monkeypatch.setattr(heat, "captioned", lambda image, caption: captions.append(caption) or image)
    api.shard(folder, output=tmp_path / "d")
    for path in (folder, tmp_path / "d"):
        captions.clear()
        result = api.explain("grad-cam", [path], model=run, output=tmp_path / "o" / path.name)
        wrong = [n for n, a in answers.items() if not n.startswith(("unheard", f"{a}/"))]
        assert wrong
        labels = sorted(c.partition("  (labelled ")[2] for c in captions if "labelled" in c)
        assert labels == sorted(n.split("/")[0] + ")" for n in wrong)
        told = {about["Class"] for about in result["about"].values()}
        assert told == set(answers.values())
