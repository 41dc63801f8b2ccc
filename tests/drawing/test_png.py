from __future__ import annotations

from PIL import Image

from fashionbatch.drawing import png


def test_names_stay_in_the_folder(tmp_path):
    """Whatever the catalogue's names are, pictures stay in the folder and replace nothing."""
    names = ["../../evil", "/etc/passwd", "..", "a\x1b[31m/b", "x" * 400, "", "a_b", "a/b", "A b"]
    taken: set[str] = set()
    for name in names:
        png.save(png.free_path(tmp_path, name, taken), Image.new("RGB", (4, 4)), name)
    assert len(taken) == len(list(tmp_path.iterdir())) == len(names)
    assert all(p.suffix == ".png" and not p.name.startswith(".") for p in tmp_path.iterdir())
    with Image.open(tmp_path / "evil.png") as found:
        assert found.text["Title"] == "../../evil"
