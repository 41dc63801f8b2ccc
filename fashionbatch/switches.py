"""Which plugins the user has switched off, for good or for one command.

Environment:
    ``FASHIONBATCH_PLUGINS``: comma-separated names of the third-party plugins to load; empty loads
    none. It goes before what ``fashionbatch plugins disable`` has kept.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fashionbatch import files
from fashionbatch.errors import PluginError

ALLOWED = "FASHIONBATCH_PLUGINS"
_FILE = "plugins.json"


def reason(name: str) -> str:
    """Why a plugin is not to be loaded; empty where it is.

    Raises:
        PluginError: the file that ``disable`` has written is damaged.
    """
    allowed = os.environ.get(ALLOWED)
    if allowed is not None:
        named = {part.strip() for part in allowed.split(",")}
        return "" if name in named else f"{ALLOWED} leaves it out"
    return f"`fashionbatch plugins enable {name}` switches it on" if name in disabled() else ""


def disabled() -> frozenset[str]:
    """Names that are switched off for good.

    Raises:
        PluginError: the file that says so is damaged.
    """
    try:
        path = _path()
        values = json.loads(path.read_bytes())
        return frozenset(str(name) for name in values["disabled"])
    except OSError:  # nothing was ever switched off, or there is no home to keep it in
        return frozenset()
    except (ValueError, KeyError, TypeError) as error:
        raise PluginError(f"{path} is damaged ({error!r}): delete it") from error


def switch(name: str, *, on: bool) -> None:
    """Keeps the choice for all later commands.

    Raises:
        OSError: it cannot be written.
    """
    names = disabled() - {name} if on else disabled() | {name}
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"disabled": sorted(names)})


def _path() -> Path:
    return files.config_folder() / _FILE
