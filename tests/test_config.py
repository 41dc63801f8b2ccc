"""Options: what cannot work is refused on construction."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fashionbatch import fields
from fashionbatch.config import ExplainConfig, PredictConfig, ShardConfig, TrainConfig
from fashionbatch.errors import FashionbatchError, UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("kind", "options", "flag"),
    [
        (ShardConfig, {"samples_per_shard": 0}, "--samples-per-shard"),
        (ShardConfig, {"check": "maybe"}, "--check"),
        (ShardConfig, {"workers": 0}, "--workers"),
        (ShardConfig, {"split": "train=2"}, "--split"),
        (ShardConfig, {"fraction": 0.0}, "--fraction"),
        (ShardConfig, {"fraction": 1.1}, "--fraction"),
        (ShardConfig, {"fraction": float("nan")}, "--fraction"),
        (ShardConfig, {"per_class": 0}, "--per-class"),
        (ShardConfig, {"limit_per_split": "test=0"}, "--limit-per-split"),
        (ShardConfig, {"resize": 0}, "--resize"),
        (ShardConfig, {"resize_side": "both"}, "--resize-side"),
        (ShardConfig, {"quality": 101}, "--quality"),
        (ShardConfig, {"layout": "deep"}, "--layout"),
        (ShardConfig, {"annotations": "both"}, "--annotations"),
        (ShardConfig, {"seed": -1}, "--seed"),
        (ShardConfig, {"append": True, "exist_ok": True}, "--append"),
        (TrainConfig, {"per_class": 0}, "--per-class"),
        (PredictConfig, {"fraction": 0.0}, "--fraction"),
        (TrainConfig, {"epochs": 0}, "--epochs"),
        (TrainConfig, {"lr": float("nan")}, "--lr"),
        (TrainConfig, {"lr": -1.0}, "--lr"),
        (TrainConfig, {"momentum": 1.5}, "--momentum"),
        (TrainConfig, {"head_dropout": 1.0}, "--head-dropout"),
        (TrainConfig, {"crop_mode": "zoom"}, "--crop-mode"),
        (TrainConfig, {"mode": "both"}, "--mode"),
        (TrainConfig, {"name": "../elsewhere"}, "--name"),
        (TrainConfig, {"name": ".."}, "--name"),
        (TrainConfig, {"name": " "}, "--name"),
        (TrainConfig, {"unfreeze": "3"}, "--unfreeze"),
        (TrainConfig, {"opt_kwargs": ("beta",)}, "--opt-kwargs"),
        (TrainConfig, {"bottleneck": "layer3:max"}, "--bottleneck"),
        (TrainConfig, {"prefix_cache": True, "mode": "bottleneck"}, "--prefix-cache"),
        (TrainConfig, {"augment_copies": 2}, "--augment-copies"),
        (TrainConfig, {"augment_copies": 2, "prefix_cache": True, "augment": "none"}, "--augment"),
        (PredictConfig, {"topk": 0}, "--topk"),
        (PredictConfig, {"feature_dtype": "int8"}, "--feature-dtype"),
        (PredictConfig, {"split": "dev"}, "--split"),
    ],
)
def test_values_that_cannot_work_name_their_flag(
    kind: type, options: dict[str, Any], flag: str
) -> None:
    """The message says which option is wrong; the exit code is 2."""
    with pytest.raises(UsageError, match=flag) as caught:
        kind(**options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["attributes,category", "category, attributes"])
def test_tasks_in_any_order_are_saved_in_one(task: str) -> None:
    """Two orders of the same are not two trainings."""
    assert TrainConfig(task=task).to_json()["task"] == "category,attributes"
    for wrong in ("category,category", "category,colours", "attributes,"):
        with pytest.raises(UsageError, match="--task"):
            TrainConfig(task=wrong)


def test_misspelled_option_suggests_the_right_one() -> None:
    """make() refuses what it does not know."""
    with pytest.raises(UnknownNameError, match="batch_size"):
        fields.make(TrainConfig, {"batchsize": 4})
    assert fields.make(TrainConfig, {"batch_size": 4}).batch_size == 4


def test_short_forms_become_regularizers() -> None:
    """--clip-grad and --patience are short for regularizers, behind those named."""
    made = TrainConfig(regularizer=("l2-kernel:weight=0.1",), clip_grad=0.5, patience=3)
    assert made.regularizers == [
        "l2-kernel:weight=0.1",
        "clip-grad:max_norm=0.5",
        "early-stopping:patience=3",
    ]


@pytest.mark.parametrize("made", [ShardConfig(), TrainConfig(data=Path("x")), PredictConfig()])
def test_every_option_has_help_and_goes_into_json(made: Any) -> None:
    """No option without a line of help; all values are plain."""
    values = made.to_json()
    json.dumps(values)
    assert set(values) == set(type(made).__dataclass_fields__)
    for field in type(made).__dataclass_fields__.values():
        assert field.metadata["help"].strip()


def test_every_error_has_an_exit_code() -> None:
    """1: could not be done; 2: asked for in a way that cannot work."""
    todo: list[type[FashionbatchError]] = [FashionbatchError]
    while todo:
        kind = todo.pop()
        assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)
        todo += kind.__subclasses__()


def test_selection_is_read_from_its_options() -> None:
    """The same fields for packing, training and predicting."""
    given = {
        "classes": ("a,b", '"c, d"'),
        "category_type": ("upper",),
        "fraction": 0.5,
        "per_class": 600,
        "limit_per_split": "test=10",
        "seed": 3,
    }
    for kind in (ShardConfig, TrainConfig, PredictConfig):
        assert fields.make(kind, given).selection() == {
            "classes": ("a", "b", "c, d"),
            "category_type": ("upper",),
            "fraction": 0.5,
            "per_class": 600,
            "limit_per_split": {"test": 10},
            "seed": 3,
        }
        assert kind().selection()["limit_per_split"] == {}


def test_chosen_is_what_was_asked_for() -> None:
    """Without what does not decide about bytes: paths, processes, what happens to the output."""
    assert ShardConfig().chosen() == {}
    made = ShardConfig(
        output=Path("x"), root=Path("y"), class_names=Path("z"), workers=3, exist_ok=True,
        classes=("a",), resize=9, check="decode", seed=1,
    )  # fmt: skip
    assert made.chosen() == {"classes": ["a"], "resize": 9, "check": "decode", "seed": 1}


def test_source_gets_its_own_options_only() -> None:
    """Those that were given, so that a source can refuse what is not for it."""
    assert ShardConfig().source() == (None, {})
    made = ShardConfig(layout="flat", label_column="x", root=Path("y"), resize=3)
    assert made.source() == (None, {"layout": "flat", "label_column": "x", "root": Path("y")})
    made = ShardConfig(source_type="acme:zip:depth=2", layout="flat")
    assert made.source() == ("acme:zip", {"depth": 2, "layout": "flat"})
    with pytest.raises(UsageError, match="option=value"):
        ShardConfig(source_type="zip:depth=2,x")


@pytest.mark.parametrize(
    ("kind", "options", "flag"),
    [
        (ShardConfig, {"per_class": 2.5}, "--per-class 2.5: it must be a whole number"),
        (ShardConfig, {"seed": True}, "--seed True"),
        (ShardConfig, {"split": {"train": 1}}, "--split {'train': 1}: it must be text"),
        (ShardConfig, {"classes": "dress"}, "--classes 'dress'"),
        (TrainConfig, {"lr": "fast"}, "--lr 'fast': it must be a number"),
        (PredictConfig, {"probabilities": 1}, "--probabilities 1"),
        (TrainConfig, {"lr": 0}, "--lr 0: it must be above 0"),
        (TrainConfig, {"clip_grad": 0.0}, "--clip-grad 0.0: it must be above 0"),
        (TrainConfig, {"regularizer": ("ema", "ema")}, "--regularizer ema is given twice"),
        (
            TrainConfig,
            {"regularizer": ("clip-grad:max_norm=2",), "clip_grad": 1.0},
            "--regularizer clip-grad is given twice (--clip-grad is short for it)",
        ),
        (TrainConfig, {"logger": ("tensorboard", "tensorboard")}, "--logger tensorboard"),
        (ExplainConfig, {"rows": "unsure"}, "--rows is of a prediction file"),
    ],
)
def test_types_are_checked(kind: type, options: dict[str, Any], flag: str) -> None:
    """From Python anything can come."""
    with pytest.raises(UsageError, match=re.escape(flag)):
        kind(**options)
