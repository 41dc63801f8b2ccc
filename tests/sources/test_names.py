"""Names of files survive as text, whatever bytes they are made of (fault 18)."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from fashionbatch.sources.base import from_text, to_text
from fashionbatch.sources.names import by_value


def as_a_system_gives_it(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


RAW = st.binary(max_size=40).map(as_a_system_gives_it)
TRICKY = st.lists(
    st.sampled_from([b"\\", b"x", b"X", b"e", b"9", b"\xe9", b"\x80", "é".encode(), b"/"])
).map(lambda parts: as_a_system_gives_it(b"".join(parts)))


@given(st.one_of(RAW, TRICKY, st.text()))
@example("\\xe9")
@example("\\\\xe9\udce9")
@example("\udce9\\")
def test_names_are_reversible(name: str) -> None:
    """Fault 18: from_text undoes to_text, and the text is valid UTF-8 and JSON."""
    text = to_text(name)
    text.encode("utf-8")
    assert json.loads(json.dumps(text)) == text
    assert from_text(text) == name


@given(st.lists(RAW, unique=True, max_size=6))
def test_different_names_stay_different(names: list[str]) -> None:
    """Fault 18: no two names become one."""
    assert len({to_text(name) for name in names}) == len(names)


@given(st.text())
def test_any_text_can_be_read_back(text: str) -> None:
    """from_text takes text that people wrote, too."""
    from_text(text)


def test_plain_names_stay_as_they_are() -> None:
    """Only what must be is escaped."""
    assert to_text("hat/größe 1,5 [/].jpg") == "hat/größe 1,5 [/].jpg"
    assert to_text(b"caf\xe9.jpg".decode("utf-8", "surrogateescape")) == "caf\\xe9.jpg"


def test_numbers_are_sorted_by_value() -> None:
    """Digits of other scripts and very long ones are texts."""
    labels = ["hat", "10", "2", "-1", "2.5", "٣", "1" * 30, "02", "bag"]
    assert sorted(labels, key=by_value) == [
        "02", "2", "10", "-1", "1" * 30, "2.5", "bag", "hat", "٣",
    ]  # fmt: skip
