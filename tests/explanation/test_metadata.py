"""What a picture's file says of itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import fashionbatch
from fashionbatch import api
from fashionbatch.models import card as cards


def photo(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28, 3), np.uint8))


def chunks(path):
    with Image.open(path) as image:
        return dict(image.text)


@pytest.mark.parametrize(
    ("visualizer", "keys"),
    [
        ("grad-cam", {"Class", "Probability"}),
        ("occlusion:patch=9", {"Class", "Probability", "Lowest"}),
        ("activations:layers=stem", {"Sparsity"}),
        ("class-maximization:steps=1", {"Class", "Probability"}),
        ("deep-dream:steps=1", {"Layer", "Norm"}),
    ],
)
def test_chunks(run, tmp_path, visualizer, keys):
    """Visualizer with its options, model, source, and what is told; no time, no path."""
    (tmp_path / "a b").mkdir()
    photo().save(tmp_path / "a b" / "ü.png")
    result = api.explain(visualizer, [tmp_path], model=run, output=tmp_path / "o", device="cpu")
    [(name, about)] = result["about"].items()
    found = chunks(tmp_path / "o" / name)
    assert set(about) == keys
    assert found == {
        **about,
        "Software": "fashionbatch",
        "Title": "a b/ü.png",
        "Source": "a b/ü.png",
        "Visualizer": visualizer,
        "Provider": f"fashionbatch {fashionbatch.__version__}",
        "Model": cards.load_card(run).sha256,
    }


def test_a_picture_of_no_image_has_no_source(run, tmp_path):
    """What comes from noise, and a sheet of many."""
    (tmp_path / "c").mkdir()
    photo().save(tmp_path / "c" / "p.png")
    for visualizer, paths in (("class-maximization:steps=1", []), ("grad-cam:sheet=true", ["c"])):
        output = tmp_path / visualizer.partition(":")[0]
        api.explain(visualizer, [tmp_path / p for p in paths], model=run, output=output)
        for path in output.iterdir():
            assert "Source" not in chunks(path)
            assert chunks(path)["Visualizer"] == visualizer


def test_names_are_inert(run, tmp_path):
    """A name's escape sequences and line breaks are written out in the file."""
    (tmp_path / "c").mkdir()
    photo().save(tmp_path / "c" / "\x1b[31mred\n<b>.png")
    result = api.explain("grad-cam", [tmp_path / "c"], model=run, output=tmp_path / "o")
    [name] = result["about"]
    data = (tmp_path / "o" / name).read_bytes()
    assert chunks(tmp_path / "o" / name)["Source"] == r"\x1b[31mred\n<b>.png"
    assert b"\x1b[31m" not in data


@pytest.mark.parametrize("key", ["", "k" * 80, "naïve—", " a", "a\n"])
def test_keywords(key):
    """A keyword that PNG cannot have is refused where the picture is made."""
    with pytest.raises(ValueError, match="1 to 79"):
        fashionbatch.Picture(name="a", image=photo(), about={key: "x"})
    fashionbatch.Picture(name="a", image=photo(), about={"Größe": "x"})
