"""What users write in options: read as meant, or refused in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch import parse
from fashionbatch.config import DEFAULT_SPLIT
from fashionbatch.errors import UnknownNameError, UsageError

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


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb,c"])
def test_names_that_csv_refuses(text: str) -> None:
    """One line instead of a traceback."""
    with pytest.raises(UsageError, match="cannot be read as names") as caught:
        parse.parse_names([text])
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_parsers_raise_usage_errors_only(text: str) -> None:
    """Any text is read or refused with one line."""
    for read in (
        parse.parse_choice,
        parse.parse_split,
        parse.parse_limits,
        parse.parse_unfreeze,
        parse.parse_hidden,
        parse.parse_bottleneck,
    ):
        try:
            read(text)
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
    assert math.isclose(sum(parse.parse_split(DEFAULT_SPLIT).values()), 1)


@pytest.mark.parametrize(
    "text",
    ["", "train", "val=1", "train=0.5", "train=0.9,val=0.2", "train=nan", "train=true",
     "train=1,val=0", "train=0.8,dev=0.2", "train=0.5,train=0.5", "train=1.5,val=-0.5"],
)  # fmt: skip
def test_split_that_cannot_work_is_refused(text: str) -> None:
    """Unknown splits, shares that are no shares, sums other than 1."""
    with pytest.raises(UsageError):
        parse.parse_split(text)


def test_unfreeze_and_hidden_forms() -> None:
    """The forms that the help names."""
    assert parse.parse_unfreeze("blocks:3") == 3
    assert parse.parse_unfreeze("all") is None
    assert parse.parse_unfreeze("none") == 0
    assert parse.parse_bottleneck("layer3") == ("layer3", "avg")
    assert parse.parse_bottleneck("features.30:flatten") == ("features.30", "flatten")
    assert parse.parse_hidden("none") == ()
    assert parse.parse_hidden("256,128") == (256, 128)
    for text in ("blocks:-1", "blocks", "3", "blocks:x"):
        with pytest.raises(UsageError):
            parse.parse_unfreeze(text)
    for text in ("0", "256,", "a", "-1", "1.5"):
        with pytest.raises(UsageError):
            parse.parse_hidden(text)


def test_names_are_read_from_lists_and_repetitions() -> None:
    """Commas divide, double quotes hold together, blanks around a name and repetitions go."""
    assert parse.parse_names(["a,b", "c"]) == ("a", "b", "c")
    assert parse.parse_names([' Not sure , Skip,"coat, long" ', "Skip"]) == (
        "Not sure",
        "Skip",
        "coat, long",
    )
    assert parse.parse_names([]) == parse.parse_names(["", " , "]) == ()


WORDS = st.text(
    st.characters(exclude_characters='",\n\r', exclude_categories=["C", "Z"]), min_size=1
)


@given(st.lists(WORDS, unique=True))
def test_names_come_back(names: list[str]) -> None:
    """In one option or in several."""
    assert parse.parse_names(names) == parse.parse_names([",".join(names)]) == tuple(names)
    quoted = [f'"{name}, too"' for name in names]
    assert parse.parse_names([",".join(quoted)]) == tuple(f"{name}, too" for name in names)


def test_limits_are_whole_numbers_of_known_splits() -> None:
    """One or more for each split named."""
    assert parse.parse_limits("test=10000,val=1") == {"test": 10000, "val": 1}
    for text in ("test=0", "test=-1", "test=1.5", "test=many", "test=true", "test", "=3"):
        with pytest.raises(UsageError):
            parse.parse_limits(text)
    with pytest.raises(UnknownNameError, match="no split is called 'dev'"):
        parse.parse_limits("dev=3")
