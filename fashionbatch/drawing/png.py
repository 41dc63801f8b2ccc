"""Pictures as PNG files under names that come from a catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fashionbatch import files


def save(
    path: Path, image: Image.Image, title: str, about: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes a PNG with a title and what else is known of it, atomically.

    Args:
        path: of the file.
        image: of any mode that PNG has.
        title: of the picture.
        about: more text chunks, by keyword (1 to 79 characters of Latin-1). In all texts a
            character that cannot be printed is written ``\\n`` or ``\\x1b``: they come from
            catalogues, and whoever prints a file's chunks may do so on a terminal.
    """
    chunks = PngInfo()
    for key, text in {**about, "Software": "fashionbatch", "Title": title}.items():
        chunks.add_itxt(key, _inert(text))
    with files.atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def _inert(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def free_path(folder: Path, name: str, taken: set[str]) -> Path:
    """A file of the folder for a picture: no name leaves the folder, or replaces another's picture.

    Args:
        folder: of the pictures.
        name: anything.
        taken: names given so far, in lower case; the new one is added.
    """
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._")[:150] or "picture"
    stem, number = safe, 1
    while safe.lower() in taken:
        number += 1
        safe = f"{stem}-{number}"
    taken.add(safe.lower())
    return folder / f"{safe}.png"
