"""Options: what cannot work is refused on construction."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch import config, parse
from fashionbatch.config import PredictConfig, ShardConfig, TrainConfig
from fashionbatch.errors import FashionbatchError, UnknownNameError, UsageError

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
VALUES = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from(["relu", "a b", "x:y"]),
)


@given(NAMES, st.dictionaries(NAMES.map(lambda n: n.replace("-", "_")), VALUES, max_size=4))
def test_choice_reads_back_what_was_written(name: str, options: dict[str, Any]) -> None:
    """NAME:k=v,... gives the name and values of the right types."""
    text = name + (":" if options else "") + ",".join(f"{k}={v}" for k, v in options.items())
    assert parse.parse_choice(text) == (name, options)


def test_choice_accepts_a_provider() -> None:
    """provider:name with and without options keeps the provider in the name."""
    assert parse.parse_choice("acme:step") == ("acme:step", {})
    assert parse.parse_choice("acme:step:drop=0.5,on=true") == (
        "acme:step",
        {"drop": 0.5, "on": True},
    )


@pytest.mark.parametrize("text", ["", ":", "step:", "=1", "step:drop=1,2", "step:=1", "a,b"])
def test_unreadable_choice_is_refused(text: str) -> None:
    """What is no NAME[:k=v] is a usage error, not a guess."""
    with pytest.raises(UsageError):
        parse.parse_choice(text)


@given(st.text(max_size=30))
def test_parsers_raise_usage_errors_only(text: str) -> None:
    """Any text is read or refused with one line."""
    for parse in (
        parse.parse_choice,
        parse.parse_split,
        parse.parse_unfreeze,
        parse.parse_hidden,
    ):
        try:
            parse(text)
        except UsageError as error:
            assert str(error)


def test_split_keeps_the_order_and_adds_up() -> None:
    """Shares come back as written."""
    assert parse.parse_split("train=0.7,test=0.2,val=0.1") == {
        "train": 0.7,
        "test": 0.2,
        "val": 0.1,
    }
    assert list(parse.parse_split("val=0.5,train=0.5")) == ["val", "train"]
    assert parse.parse_split("train=1") == {"train": 1.0}
    assert math.isclose(sum(parse.parse_split(config.DEFAULT_SPLIT).values()), 1)


@pytest.mark.parametrize(
    "text",
    ["", "train", "val=1", "train=0.5", "train=0.9,val=0.2", "train=nan", "train=true",
     "train=1,val=0", "train=0.8,dev=0.2", "train=0.5,train=0.5", "train=1.5,val=-0.5"],
)  # fmt: skip
def test_split_that_cannot_work_is_refused(text: str) -> None:
    """Unknown splits, shares that are no shares, sums other than 1."""
    with pytest.raises(UsageError):
        parse.parse_split(text)
    with pytest.raises(UsageError):
        ShardConfig(split=text)


def test_unfreeze_and_hidden_forms() -> None:
    """The forms that the help names."""
    assert parse.parse_unfreeze("blocks:3") == 3
    assert parse.parse_unfreeze("all") is None
    assert parse.parse_unfreeze("none") == 0
    assert parse.parse_hidden("none") == ()
    assert parse.parse_hidden("256,128") == (256, 128)
    for text in ("blocks:-1", "blocks", "3", "blocks:x"):
        with pytest.raises(UsageError):
            parse.parse_unfreeze(text)
    for text in ("0", "256,", "a", "-1", "1.5"):
        with pytest.raises(UsageError):
            parse.parse_hidden(text)


@pytest.mark.parametrize(
    ("kind", "options", "flag"),
    [
        (ShardConfig, {"samples_per_shard": 0}, "--samples-per-shard"),
        (ShardConfig, {"check": "maybe"}, "--check"),
        (ShardConfig, {"workers": 0}, "--workers"),
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


def test_misspelled_option_suggests_the_right_one() -> None:
    """make() refuses what it does not know."""
    with pytest.raises(UnknownNameError, match="batch_size"):
        config.make(TrainConfig, {"batchsize": 4})
    assert config.make(TrainConfig, {"batch_size": 4}).batch_size == 4


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
