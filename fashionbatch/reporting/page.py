"""The page: a template, a style, a script and the data, in one file that asks no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

#: what a file that may be replaced begins with
MARK = "<!DOCTYPE html><!-- fashionbatch report -->\n"


def render(title: str, data: Mapping[str, Any]) -> str:
    """The whole page.

    Names and labels come from outside. They are only in the data, where nothing can end the
    element that they are in, and the script puts them into the page as text. Besides, the page's
    own policy lets a browser run no other script and load nothing.

    Args:
        title: of the page.
        data: JSON values; NaN is none.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no byte is lost
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    script, style = _asset("report.js"), _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": html.escape(policy),
        "title": html.escape(title.encode("utf-8", "backslashreplace").decode()),
        "style": style,
        "data": text,
        "script": script,
    }
    # split once: a value may hold what looks like another one's name
    parts = re.split(r"\{\{(\w+)\}\}", _asset("report.html"))
    return MARK + "".join(values[p] if i % 2 else p for i, p in enumerate(parts))


def _asset(name: str) -> str:
    return (resources.files("fashionbatch.reporting") / "assets" / name).read_text(encoding="utf-8")
