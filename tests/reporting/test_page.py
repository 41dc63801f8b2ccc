"""The page: one file that asks no network, and in which names are text and nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.reporting import page

HOSTILE = "</script><script>alert(1)</script><!-- {{script}} \u2028 & \ud800"


class Scripts(HTMLParser):
    """The scripts of a page, as a browser sees where they end; and all its links."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[list[str]] = []
        self.links: list[str] = []
        self.title = ""
        self._inside = ""

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        if tag == "script":
            self.scripts.append([str(dict(attrs).get("type")), ""])
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "action")]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][1] += data
        elif self._inside == "title":
            self.title += data


def parsed(text: str) -> Scripts:
    found = Scripts()
    found.feed(text)
    return found


@given(st.one_of(st.text(), st.just(HOSTILE)))
def test_fault_46_no_name_leaves_the_data(name: str) -> None:
    """Whatever it is, the page has its two scripts, and the data says the name."""
    found = parsed(page.render(name, {"name": name}))
    assert [kind for kind, _ in found.scripts] == ["application/json", "None"]
    assert json.loads(found.scripts[0][1]) == {"name": name}


def test_nothing_is_loaded() -> None:
    """No link leads out, and the policy forbids what would."""
    text = page.render("t", {})
    assert [link for link in parsed(text).links if not link.startswith("#")] == []
    assert "default-src &#x27;none&#x27;" in text
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_numbers_are_finite() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page.render("t", {"x": float("nan")})
