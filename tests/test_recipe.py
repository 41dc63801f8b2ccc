"""Recipes: what they hold, and what goes before what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch import api, recipe, registry
from fashionbatch.config import TrainConfig
from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.parse import parse_choice

#: row of the paper's Table 1: residual blocks trained, optimizer, rate, epochs, settings
TABLE_1: dict[str, tuple[str, str, float, int, dict[str, Any]]] = {
    "table1-1": ("blocks:2", "adam", 0.001, 80, {}),
    "table1-2": (
        "blocks:2", "adam", 0.001, 50,
        {"clip_grad": 0.5, "regularizer": ("l2-kernel:weight=0.01", "l2-activity:weight=0.01")},
    ),
    "table1-3": ("blocks:3", "adam", 0.001, 100, {"patience": 10}),
    "table1-4": ("blocks:3", "sgd", 0.0001, 100, {"patience": 10, "momentum": 0.9}),
    "table1-5": (
        "blocks:3", "rmsprop", 0.002, 100, {"patience": 10, "opt_kwargs": ("alpha=0.9",)},
    ),
    "table1-6": ("blocks:3", "adam", 0.001, 100, {}),
}  # fmt: skip
NOT_OF_A_RECIPE = {"data", "recipe", "output", "name", "exist_ok", "resume", "device", "workers"}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", TABLE_1)
def test_rows_of_the_papers_table(name: str) -> None:
    """Each is its row and what all rows share, and nothing else."""
    unfreeze, opt, lr, epochs, more = TABLE_1[name]
    shared = {
        "backbone": "resnet50", "freeze_epochs": 1, "freeze_opt": "adam", "batch_size": 128,
        "img_size": 224, "augment": "paper", "per_class": 600,
        "limit_per_split": "val=10000,test=10000",
    }  # fmt: skip
    row = {"unfreeze": unfreeze, "opt": opt, "lr": lr, "epochs": epochs}
    asked = TrainConfig(**shared, **row, **more, recipe=name)
    assert recipe.resolve({"recipe": name}) == asked


def test_the_papers_offline_training() -> None:
    """VGG-16's features, a head of 256 with dropout, RMSProp at 2e-5."""
    made = recipe.resolve({"recipe": "vgg16-bottleneck"})
    assert (made.mode, made.backbone, made.img_size) == ("bottleneck", "vgg16", 150)
    assert (made.head_hidden, made.head_dropout) == ("256", 0.5)
    assert (made.opt, made.lr, made.batch_size, made.epochs) == ("rmsprop", 2e-5, 100, 100)
    assert made.selection()["limit_per_split"] == {"train": 20000, "val": 10000, "test": 10000}


@pytest.mark.parametrize("name", recipe.names())
def test_recipes_of_the_package_can_be_used(name: str) -> None:
    """Each says what it is, leaves run and machine to the user, and names components there are."""
    loaded = recipe.load(name)
    assert loaded.summary
    assert loaded.source
    assert not NOT_OF_A_RECIPE & loaded.options.keys()
    made = recipe.resolve({"recipe": name})
    used = [("backbone", made.backbone), ("optimizer", made.opt), ("schedule", made.sched)]
    used += [("optimizer", made.freeze_opt or made.opt)]
    used += [("regularizer", text) for text in made.regularizers]
    for kind, text in used:
        assert registry.find(kind, parse_choice(text)[0])


def test_the_package_has_these() -> None:
    """The names are public."""
    assert set(recipe.names()) == {*TABLE_1, "vgg16-bottleneck", "fast", "best"}


def test_what_goes_before_what() -> None:
    """Defaults < recipe < options < --set; an option that equals its default goes before, too."""
    assert TrainConfig().epochs == 10
    options: dict[str, Any] = {"recipe": "table1-3"}
    assert recipe.resolve(options).epochs == 100
    assert recipe.resolve({**options, "epochs": 10}).epochs == 10
    assert recipe.resolve({**options, "epochs": 10}, ["epochs=3"]).epochs == 3
    assert recipe.resolve(options, ["epochs="]).epochs == 10
    assert recipe.resolve({**options, "patience": None}).patience is None
    assert recipe.resolve({**options, "epochs": 3}).patience == 10
    # a list replaces the recipe's
    two = {"recipe": "table1-2"}
    assert recipe.resolve(two, ["regularizer=a", "regularizer=b:c=1,d=2"]).regularizer == (
        "a", "b:c=1,d=2",
    )  # fmt: skip
    assert recipe.resolve(two, ["regularizer="]).regularizer == ()


def test_overrides_have_their_fields_types() -> None:
    """Each value is of its option's type; names may be written as on the command line."""
    pairs = ["batch-size=8", "lr=1", "compile=true", "data=a/b", "head_hidden=none", "unfreeze=all"]
    made = recipe.overrides(pairs)
    assert made == {
        "batch_size": 8, "lr": 1.0, "compile": True, "data": Path("a/b"), "head_hidden": "none",
        "unfreeze": "all",
    }  # fmt: skip
    assert isinstance(made["lr"], float)
    assert recipe.overrides(["epochs=3", "epochs=4"]) == {"epochs": 4}
    assert recipe.overrides(["sched=step:drop=0.5"]) == {"sched": "step:drop=0.5"}


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("epochs", "option=value"),
        ("=3", "option=value"),
        ("epochs=many", "a whole number"),
        ("epochs=2.5", "a whole number"),
        ("lr=fast", "a number"),
        ("compile=yes", "true or false"),
        ("recipe=fast", "--recipe fast"),
        ("epochs=0", "at least 1"),
        ("augment=all", "paper"),
    ],
)
def test_overrides_that_cannot_work(pair: str, words: str) -> None:
    """Refused in one line that says why."""
    with pytest.raises(UsageError, match=words) as caught:
        recipe.resolve({}, [pair])
    assert "\n" not in str(caught.value)


@given(
    st.integers(1, 10**9), st.floats(0, 1e9), st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
)  # fmt: skip
def test_what_is_written_is_read(count: int, rate: float, flag: bool, text: str) -> None:
    """Any value comes back from the text that Python writes for it."""
    pairs = [f"epochs={count}", f"lr={rate}", f"compile={flag}", f"device={text}"]
    made = recipe.overrides(pairs)
    assert made == {"epochs": count, "lr": rate, "compile": flag, "device": text}


def test_files_of_users(tmp_path: Path) -> None:
    """A TOML file is a recipe, by its path; lists are lists of texts."""
    path = write(
        tmp_path / "mine.toml",
        'summary = "Mine"\nlr = 1\nregularizer = ["l2-kernel"]\ndata = "shards/x"\n',
    )
    made = recipe.resolve({"recipe": path})
    assert (made.lr, made.regularizer, made.data) == (1, ("l2-kernel",), Path("shards/x"))
    assert made.recipe == path
    assert recipe.load(path).summary == "Mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = ", "cannot be read"),
        ("epoch = 3", "did you mean 'epochs'"),
        ("[opt]\nlr = 3", "--opt"),
        ("epochs = 0", "at least 1"),
        ('epochs = "3"', "a whole number"),
        ('lr = "3"', "a number"),
        ('regularizer = "ema"', "list"),
        ("regularizer = [3]", "list"),
        ('name = "x"', "--name"),
        ('output = "x"', "--output"),
        ("resume = true", "--resume"),
        ("exist_ok = true", "--exist-ok"),
        ('recipe = "fast"', "--recipe"),
        ("summary = 3", "summary"),
        ("\0", "cannot be read"),
    ],
)
def test_files_that_cannot_work(tmp_path: Path, text: str, words: str) -> None:
    """Refused in one line that names the file and what is wrong in it."""
    path = write(tmp_path / "mine.toml", text)
    with pytest.raises(UsageError, match=words) as caught:
        recipe.load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_recipe(tmp_path: Path) -> None:
    """Names suggest the nearest; paths say what is wrong with them."""
    with pytest.raises(UnknownNameError, match="did you mean 'table1-3'"):
        recipe.load("table1_3")
    with pytest.raises(UsageError, match="No such file"):
        recipe.load("nowhere.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b'summary = "\xe9"')
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load(str(tmp_path / "latin.toml"))


def test_recipe_whose_backbone_is_missing(
    monkeypatch: pytest.MonkeyPatch, fresh_plugins: None
) -> None:
    """It says what to install; with another backbone it works without."""
    monkeypatch.setenv("FASHIONBATCH_PLUGINS", "")
    with pytest.raises(UsageError, match="pip install fashionbatch-efficientnet-lite"):
        api.train(recipe="fast", data="nowhere")
    with pytest.raises(UsageError, match="nowhere"):
        api.train(recipe="fast", backbone="resnet18", data="nowhere")
