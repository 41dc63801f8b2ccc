"""Pictures as PNG files under names that come from a catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fashionbatch import files


def save(path: Path, image: Image.Image, title: str) -> None:
    """Writes a PNG with a title, atomically."""
    about = PngInfo()
    about.add_itxt("Software", "fashionbatch")
    about.add_itxt("Title", title)
    with files.atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=about)


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
