"""A tar file made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

Photo = Callable[..., bytes]


@pytest.fixture
def foreign(tmp_path: Path, photo: Photo) -> Path:
    """Four samples written by webdataset."""
    path = tmp_path / "foreign" / "part-000000.tar"
    path.parent.mkdir()
    with webdataset.ShardWriter(
        str(path.parent / "part-%06d.tar"), maxcount=100, mtime=0, verbose=0
    ) as sink:
        for number in range(4):
            image = photo(number, (8, 8), kind="PNG")
            about = {"n": number, "label": "hat"}
            sink.write({"__key__": f"item{number}", "png": image, "json": about, "cls": number})
    return path
