"""``fashionbatch inspect``: what is printed, drawn and returned."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

import fashionbatch
from fashionbatch.cli.values import size
from fashionbatch.errors import UnknownNameError
from fashionbatch.pipeline.ingest import Ingest
from fashionbatch.shards.write import Job, write
from fashionbatch.sources import Attribute, Item, Source

Cli = Callable[..., Any]
PICTURES = ["categories.png", "category-types.png", "contact-sheet.png"]


class Products(Source):
    """Products of four photographs each; the last one of each product is in another split."""

    class_types: ClassVar = {"jeans": "lower", "tee": "upper"}
    attributes = (Attribute(name="plain", type="texture"), Attribute(name="red", type="colour"))

    def items(self) -> Any:
        for number in range(40):
            product = number // 4
            data = io.BytesIO()
            # the photographs of the first product are the same file
            Image.new("RGB", (30, 40), (number if product else 0, 5, 9)).save(data, "PNG")
            yield Item(
                name=f"{number}.png",
                data=data.getvalue(),
                label="tee" if product % 3 else "jeans",
                split="test" if number % 4 == 3 else "train",
                group=f"product {product}",
                positive=(0,),
                unknown=(1,) if number < 10 else (),
                box=(0, 0, 15, 40),
            )


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """``shards/products``, of :class:`Products`."""
    path = tmp_path / "shards" / "products"
    write(Job(source=Products(), output=path, prepare=Ingest(check="headers")))
    return path


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1 KiB"),
        (3 << 19, "1.5 MiB"),
        (1 << 50, "1,024 TiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    """Bytes are shown in the largest unit that they fill."""
    assert size(count) == shown


def values(result: Any, code: int = 0) -> dict[str, Any]:
    """The one line of JSON on standard output."""
    assert result.code == code, result.err
    [line] = result.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told


def test_help(cli: Cli) -> None:
    """The help has an example and the options of a selection."""
    result = cli("inspect", "--help")
    assert result.code == 0
    for words in ("Example: fashionbatch inspect", "--classes", "--no-pictures", "--samples"):
        assert words in result.out


def test_for_people(cli: Cli, products: Path) -> None:
    """Tables of everything there is; pictures in a folder of the data set's name."""
    result = cli("inspect", "shards/products")
    assert result.code == 0, result.err
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for line in (
        "tee upper 18 6 24",
        "lower 1 16",
        "width, pixels 30 30 30",
        "box, share of the image 50.0% 50.0% 50.0%",
        "plain texture 40 0",
        "colour 1 0 10",
        "products in several splits 10",
        "test images whose product is in train too 10 (100.0%)",
        "images with the same bytes as another one 3",
        "of these across splits 3",
    ):
        assert line in lines, (line, lines)
    assert any(line.startswith("train 30 30 0 2 ") for line in lines)
    assert "product 0.png (train/jeans), 3.png (test/jeans)" in lines
    assert "near-identical photographs leak between splits" in result.err
    assert "--group-by product" in result.err
    assert sorted(p.name for p in Path("inspection/products").iterdir()) == PICTURES


def test_json(cli: Cli, products: Path) -> None:
    """One object on one line, with every number and where the pictures are."""
    told = values(cli("inspect", products, "--json", "-o", "out"))
    assert list(told) == [
        "data", "name", "split", "items", "labelled", "unlabelled", "bytes", "splits", "classes",
        "category_types", "imbalance", "images", "attributes", "attribute_types", "boxes",
        "leakage", "failures", "damaged", "notes", "pictures", "undrawn",
    ]  # fmt: skip
    assert told["items"] == 40
    assert told["leakage"]["products"]["in_several_splits"] == 10
    assert told["pictures"] == [f"out/{name}" for name in PICTURES]
    assert sorted(p.name for p in Path("out").iterdir()) == PICTURES
    assert not Path("inspection").exists()


def test_no_pictures(cli: Cli, products: Path, tmp_path: Path) -> None:
    """--no-pictures writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert values(cli("inspect", products, "--json", "--no-pictures"))["pictures"] == []
    assert sorted(tmp_path.rglob("*")) == before


def test_selection(cli: Cli, products: Path) -> None:
    """--classes, --category-type, --split and --per-class choose what is counted."""
    short = ("inspect", products, "--json", "--no-pictures")
    told = values(cli(*short, "--classes", "tee"))
    assert (told["items"], [c["name"] for c in told["classes"]]) == (24, ["tee"])
    assert values(cli(*short, "--category-type", "lower"))["items"] == 16
    told = values(cli(*short, "--split", "test"))
    assert (told["items"], told["split"]) == (10, "test")
    whole = values(cli(*short))["leakage"]
    assert told["leakage"] == whole and whole["products"]["in_several_splits"] > 0, "of all splits"
    # as training takes them: the test split stays whole
    told = values(cli(*short, "--per-class", 2))
    assert {s["split"]: s["items"] for s in told["splits"]} == {"train": 4, "test": 10}


def test_many_classes(cli: Cli, tmp_path: Path) -> None:
    """Of many classes the largest and smallest are printed; --json lists all."""
    for n in range(46):
        (tmp_path / "photos" / f"c{n:02d}").mkdir(parents=True)
        for i in range(1 + (n == 7) + 2 * (n == 8)):
            picture = Image.new("RGB", (9, 9), (n, i, 0))
            picture.save(tmp_path / "photos" / f"c{n:02d}" / f"{i}.png")
    fashionbatch.shard("photos", output="d", split="train=1", workers=1)
    result = cli("inspect", "d", "--no-pictures")
    shown = [line.split()[0] for line in result.out.splitlines() if line.startswith("c")]
    names = [name for name in shown if name != "class"]
    assert names[:3] == ["c08", "c07", "c00"]
    assert (len(names), names[-1]) == (20, "c45")
    assert "… 26 more" in result.out
    assert len(values(cli("inspect", "d", "--no-pictures", "--json"))["classes"]) == 46


def test_damaged_data(cli: Cli, products: Path) -> None:
    """A missing shard and images that cannot be drawn are told, and the exit code says so."""
    (products / "test-000000.tar").unlink()
    result = cli("inspect", products, "--json")
    told = values(result, 3)
    assert [(d["shard"], d["items"]) for d in told["damaged"]] == [("test-000000.tar", 10)]
    assert told["undrawn"]
    assert "Warning: " in result.err and "test-000000.tar is missing" in result.err
    result = cli("inspect", products, "--no-pictures")
    assert result.code == 3
    assert "Damaged shards" in result.out


def test_failures(cli: Cli, tmp_path: Path) -> None:
    """What failed when the data set was made is told; inspecting it is no failure."""
    (tmp_path / "photos" / "hat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "hat" / "1.png")
    for n in range(3):
        (tmp_path / "photos" / "hat" / f"bad{n}.png").write_text("no image")
    fashionbatch.shard("photos", output="d", workers=1)
    result = cli("inspect", "d", "--no-pictures")
    assert result.code == 0
    assert "3 failures" in result.out
    assert ["decode", "not", "a", "JPEG,", "PNG", "or", "WebP", "image", "3"] in [
        line.split() for line in result.out.splitlines()
    ]


def test_unlabelled(cli: Cli, tmp_path: Path) -> None:
    """Without labels there are no histograms, but samples."""
    (tmp_path / "photos").mkdir()
    for n in range(3):
        Image.new("RGB", (9, 9), (n, 0, 0)).save(tmp_path / "photos" / f"{n}.png")
    fashionbatch.shard("photos", output="d", workers=1)
    told = values(cli("inspect", "d", "--json"))
    assert told["pictures"] == ["inspection/d/contact-sheet.png"]
    assert cli("inspect", "d").code == 0


def test_foreign_shards(cli: Cli, products: Path) -> None:
    """Tar files without our index are inspected too; their sizes in pixels are not known."""
    Path("foreign").mkdir()
    for tar in products.glob("*.tar"):
        shutil.copy(tar, "foreign")
    told = values(cli("inspect", "foreign", "--json"))
    assert (told["items"], told["images"]["sizes_unknown"]) == (40, 40)
    assert {c["name"]: c["items"] for c in told["classes"]} == {"tee": 24, "jeans": 16}
    assert "40 of unknown width and height" in cli("inspect", "foreign", "--no-pictures").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere",), 2, "nowhere"),
        (("empty",), 1, "fashionbatch shard"),
        (("shards/products", "--classes", "tea"), 2, "did you mean 'tee'"),
        (("shards/products", "--samples", 0), 2, "--samples 0"),
        (("shards/products", "--split", "all"), 2, "train, val, test"),
        (("shards/products", "--split", "val"), 2, "no split"),
    ],
    ids=str,
)
def test_refused(
    cli: Cli, products: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    """What cannot work is refused in one line, and nothing is made."""
    (tmp_path / "empty").mkdir()
    result = cli("inspect", *arguments)
    assert (result.code, result.out) == (code, "")
    assert len(result.err.splitlines()) == 1
    assert words in result.err
    assert not (tmp_path / "inspection").exists()


def test_hostile_names(cli: Cli, tmp_path: Path) -> None:
    """Names cannot steer the terminal, and are kept as they are in the JSON."""
    for name in ("\x1b[31m", "a\nb", "[red]x"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / name / "1.png")
    fashionbatch.shard("photos", output="d", workers=1)
    result = cli("inspect", "d", "--no-pictures")
    assert "\x1b" not in result.out + result.err
    assert "a\\nb" in result.out and "[red]x" in result.out
    told = values(cli("inspect", "d", "--no-pictures", "--json"))
    assert {c["name"] for c in told["classes"]} == {"\x1b[31m", "a\nb", "[red]x"}


def test_from_python(products: Path, tmp_path: Path) -> None:
    """The function returns what --json prints, and refuses options that there are not."""
    told = fashionbatch.inspect(str(products), output=str(tmp_path / "out"), samples=2)
    assert told == json.loads(json.dumps(told))
    assert (tmp_path / "out" / "contact-sheet.png").exists()
    with pytest.raises(UnknownNameError, match="did you mean 'samples'"):
        fashionbatch.inspect(products, sample=2)
