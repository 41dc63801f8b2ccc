from __future__ import annotations

import hashlib
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from fashionbatch import api
from fashionbatch.drawing import catalogue as catalogues
from fashionbatch.drawing.cells import MAT
from fashionbatch.drawing.shown import Shown
from fashionbatch.errors import SourceError, UsageError
from fashionbatch.retrieval import sheet
from fashionbatch.store.reader import open_predictions

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30)}


@pytest.fixture
def photos(tmp_path):
    """Six plain pictures of each of three colours, by shade."""
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(6):
            shade = tuple(min(255, c + 3 * i) for c in colour)
            Image.new("RGB", (30, 40), shade).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def made(photos, run, tmp_path):
    """Its predictions."""
    output = tmp_path / "p.h5"
    api.predict(photos, model=run, output=output, workers=1, device="cpu")
    return output


def search(made, images, run=None, **options):
    options.setdefault("output", made.parent / "found")
    return api.search(made, images, model=run, device="cpu", **options)


def test_row_and_file(made, photos, run, tmp_path):
    """A row finds others like it and not itself; the same image as a file finds the row first."""
    result = search(made, ["red/2.png", photos / "red" / "2.png"], run, k=5, catalog=photos)
    by_row, by_file = result["queries"]
    assert (by_row["name"], by_row["row"], by_file["row"]) == ("red/2.png", 14, None)
    assert {n["name"].split("/")[0] for n in by_row["neighbours"][:2]} == {"red"}
    assert "red/2.png" not in [n["name"] for n in by_row["neighbours"]]
    first = by_file["neighbours"][0]
    assert (first["name"], first["rank"], first["row"]) == ("red/2.png", 1, 14)
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert [n["name"] for n in by_file["neighbours"][1:]] == [
        n["name"] for n in by_row["neighbours"][:4]
    ]
    with open_predictions(made) as found:
        for neighbour in by_row["neighbours"]:
            row = found[neighbour["row"]]
            assert (row.name, row.classes[0]) == (neighbour["name"], neighbour["class"])
            assert neighbour["probability"] == pytest.approx(float(row.probabilities[0]), abs=1e-6)
    assert result["failed"] == [] and result["no_sheet"] is None
    for query in result["queries"]:
        page = np.asarray(Image.open(query["sheet"]))
        red = np.abs(page.astype(int) - (206, 36, 36)).max(axis=2) < 3
        assert red.sum() > 20_000, "the picture that was looked for is not on the sheet"


def test_the_model_is_found_by_its_hash(made, photos, run, tmp_path, monkeypatch):
    """In runs/, whatever it is called there; another one is refused, also if it is named."""
    monkeypatch.chdir(tmp_path)
    image = photos / "red" / "2.png"
    with pytest.raises(UsageError, match="holds no run with the weights"):
        search(made, [image])
    other = tmp_path / "runs" / "a"
    shutil.copytree(run, tmp_path / "runs" / "b")
    shutil.copytree(run, other)
    card = (other / "model.json").read_text()
    with open_predictions(made) as found:
        (other / "model.json").write_text(card.replace(found.model["sha256"], "0" * 64))
    (tmp_path / "runs" / "0").mkdir()
    (tmp_path / "runs" / "0" / "model.json").write_text("{")
    assert search(made, image, sheet=False)["queries"][0]["neighbours"][0]["name"] == "red/2.png"
    with pytest.raises(UsageError, match=r"--model .*a did not make the predictions"):
        search(made, [image], other)
    assert search(made, ["red/2.png"], sheet=False)["queries"][0]["row"] == 14  # needs no model


def test_misuse(made, photos, run, predictions):
    """What is no image and no row, a folder, and a file without features."""
    with pytest.raises(UsageError, match=r"no file red/9\.png, and no row .*mean 'red/0\.png'"):
        search(made, ["red/9.png"])
    with pytest.raises(UsageError, match="is a folder"):
        search(made, [photos])
    with pytest.raises(UsageError, match="--features none"):
        search(predictions("none.h5", features=None), ["a.jpg"])
    with pytest.raises(UsageError, match="--catalog"):
        search(made, ["red/2.png"], catalog=photos / "nowhere")


def test_images_that_cannot_be_used(made, photos, run, tmp_path):
    """A damaged image is listed and the others are found; if none is left, that is an error."""
    bad = tmp_path / "bad.png"
    bad.write_bytes((photos / "red" / "2.png").read_bytes()[:40])
    result = search(made, [bad, photos / "red" / "2.png"], run, sheet=False)
    assert [f["name"] for f in result["failed"]] == [str(bad)]
    assert [q["name"] for q in result["queries"]] == [str(photos / "red" / "2.png")]
    with pytest.raises(SourceError, match=r"bad\.png cannot be used \(decode: "):
        search(made, [bad], run)


def test_where_the_images_lie(made, photos, tmp_path):
    """In the folder that the file tells of; otherwise the table comes with a line that says why."""
    with h5py.File(made, "a") as file:
        file.attrs.pop("source", None)
    assert "--catalog" in search(made, ["red/2.png"])["no_sheet"]
    assert not (tmp_path / "found").exists()
    with h5py.File(made, "a") as file:
        file.attrs["source"] = str(photos)
    result = search(made, ["red/2.png"])
    assert result["no_sheet"] is None and result["queries"][0]["sheet"]
    photos.rename(tmp_path / "moved")
    result = search(made, ["red/2.png"])
    assert f"{photos}, where the images lay, is not there" in result["no_sheet"]
    assert search(made, ["red/2.png"], catalog=tmp_path / "moved")["no_sheet"] is None


def test_shards(photos, run, tmp_path):
    """Images are drawn from shards, too, each the one that was predicted."""
    packed = tmp_path / "packed"
    api.shard(photos, output=packed, samples_per_shard=4, workers=1)
    api.predict(
        packed, model=run, output=tmp_path / "p.h5", workers=1, device="cpu", ignore_labels=True
    )
    with open_predictions(tmp_path / "p.h5") as found:
        catalogue = catalogues.find(found, packed)
        for row in found:
            assert catalogue.read(row.row) == (photos / row.name).read_bytes()
        catalogue.close()
        other = catalogues.find(found, photos)
        for row in found:  # the folder that they were packed from has the same names
            assert other.read(row.row) == (photos / row.name).read_bytes()
    assert search(tmp_path / "p.h5", ["red/2.png"], catalog=packed)["failed"] == []


def test_no_name_leads_out_of_the_folder(predictions, tmp_path):
    """Names of the file are not believed: neither absolute ones nor upward ones are opened."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c" / "pipe")
    names = ["../secret.png", str(tmp_path / "secret.png"), "x/../../secret.png", "pipe", "gone"]
    with open_predictions(predictions(shards={"s": (names, [])})) as found:
        catalogue = catalogues.find(found, tmp_path / "c")
        for row in range(len(names)):
            assert isinstance(catalogue.read(row), str), names[row]


def test_changed_images_are_not_shown(predictions, tmp_path):
    """Where the file knows the bytes' hash, another image under the same name is not drawn."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a").write_bytes(b"a")
    (tmp_path / "c" / "b").write_bytes(b"other")
    with open_predictions(predictions(shards={"s": (["a", "b"], [])}, hashed=True)) as found:
        assert next(found.batches()).sha256[0] == hashlib.sha256(b"a").hexdigest()
        catalogue = catalogues.find(found, tmp_path / "c")
        assert catalogue.read(0) == b"a"
        assert "changed" in catalogue.read(1)


def test_missing_images_are_crossed_out(made, photos, tmp_path):
    """An image that is gone is told of, and its cell says so; the others are drawn."""
    (photos / "red" / "3.png").unlink()
    result = search(made, ["red/2.png"], k=17, catalog=photos)
    assert [f["name"] for f in result["failed"]] == ["red/3.png"]
    assert result["queries"][0]["sheet"]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 250])
def test_sheet(count, photo):
    """Any number of neighbours, of any shape and name, stands within the page."""
    names = ("x" * 300, "a\x1b[31m\n[/]", "日本語", "")
    shapes = ((60, 60), (900, 12), (12, 900))
    shown = [
        Shown(
            data=photo(i, shapes[i % 3]) if i % 4 else ("gone" if i % 8 else b"no image"),
            lines=(f"{i}.", names[i % 4]),
        )
        for i in range(count)
    ]
    page = sheet.draw(Shown(data=photo(1, (900, 12)), lines=("l",)), shown, "t" * 400, "a")
    pixels = np.asarray(page)
    assert page.width <= 1300 and page.height < 20 * 260
    edge = np.concatenate([pixels[:8].reshape(-1, 3), pixels[:, :8].reshape(-1, 3)])
    edge = np.concatenate([edge, pixels[-8:].reshape(-1, 3), pixels[:, -8:].reshape(-1, 3)])
    assert (edge == 255).all()
    assert MAT == "#f0f0f0" and (pixels == 0xF0).all(axis=2).any()
