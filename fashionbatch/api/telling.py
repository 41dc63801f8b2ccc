"""How a job says what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: gets (event, values) as a job goes on; see the jobs for what each tells
Tell = Callable[[str, dict[str, Any]], None]


def silent(event: str, values: dict[str, Any]) -> None:
    """Tells nobody."""
