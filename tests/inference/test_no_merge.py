"""``predict --no-merge``: a folder of parts that reads like the file they would be merged into."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch import api
from fashionbatch.errors import OutputExistsError, StoreError, UsageError
from fashionbatch.inference import plan as plans
from fashionbatch.store import parts_set, publish
from fashionbatch.store.reader import Predictions, open_predictions

Predict = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SLICE", 4)


def everything(predictions: Predictions) -> dict[str, Any]:
    """Every array and every word."""
    found: dict[str, Any] = {"about": predictions.about()}
    for group in ("items", "predictions", "features", "failures", "shards", "classes"):
        for name in predictions.columns(group):
            try:
                found[name] = predictions.column(name)[()].tolist()
            except TypeError:
                found[name] = predictions.text(name).read(0, 10**6)
            if found[name] and isinstance(found[name][0], bytes):
                found[name] = [text.decode() for text in found[name]]
    return found


def read(path: Path) -> dict[str, Any]:
    with open_predictions(path) as predictions:
        return everything(predictions)


def test_reads_like_the_merged_file(catalogue, predict: Predict, tmp_path: Path) -> None:
    """Every array, block and row; export, evaluate and merge make the same of both."""
    source = catalogue(30, broken=(3, 17))
    file = predict(source, "a.h5", probabilities=True)
    folder = predict(source, "a", probabilities=True, no_merge=True)
    assert sorted(p.name for p in folder.iterdir())[-1] == parts_set.MANIFEST
    assert not (tmp_path / "a.parts").exists()
    assert read(file) == read(folder)
    with open_predictions(file) as one, open_predictions(folder) as other:
        assert len(one) == len(other) == 28
        for a, b in zip(one.batches(7), other.batches(7), strict=True):
            assert (a.names, a.keys, a.sha256) == (b.names, b.keys, b.sha256)
            assert (a.shards == b.shards).all() and (a.features() == b.features()).all()
        assert repr(one[5]) == repr(other["005.png" if one[5].name == "005.png" else one[5].name])
        assert list(one.failures) == list(other.failures)
        assert one.shards == other.shards
    for kind, options in (("csv", {}), ("npz", {"features": True})):
        for path, name in ((file, "one"), (folder, "other")):
            api.export(path, to=kind, output=tmp_path / f"{name}.{kind}", **options)
        one, other = (tmp_path / f"{name}.{kind}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
    labels = tmp_path / "t.csv"
    with open_predictions(file) as rows:
        labels.write_text("image,label\n" + "".join(f"{r.name},{r.classes[0]}\n" for r in rows))
    one, other = (api.evaluate(p, labels=labels) for p in (file, folder))
    assert {**one, "predictions": ""} == {**other, "predictions": ""}
    other_images = catalogue(9, name="more")
    for path in other_images.iterdir():
        path.rename(path.with_name(f"more-{path.name}"))
        (other_images / f"more-{path.name}").open("ab").write(b"x")
    more = predict(other_images, "more.h5", probabilities=True)
    for path, name in ((file, "m1"), (folder, "m2")):
        api.merge([path, more], output=tmp_path / f"{name}.h5")
    assert (tmp_path / "m1.h5").read_bytes() == (tmp_path / "m2.h5").read_bytes()
    api.merge([folder], output=tmp_path / "alone.h5")
    assert read(tmp_path / "alone.h5")["items/name"] == read(file)["items/name"]


class _Parts:
    """Rows in memory, in pieces."""

    def __init__(self, pieces: list[np.ndarray]) -> None:
        self.pieces = pieces

    def part(self, number: int) -> dict[str, np.ndarray]:
        return {"x": self.pieces[number]}


SLICES = st.builds(slice, *[st.none() | st.integers(-9, 30)] * 2, st.sampled_from([None, 1, 2, -1]))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.data())
def test_keys_are_numpys(sizes: list[int], data: st.DataObject) -> None:
    """Rows, slices, lists and masks of rows, and what follows them, over borders of parts."""
    rows = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    borders = np.cumsum([0, *sizes])
    pieces = [rows[a:b] for a, b in itertools.pairwise(borders)]
    array = parts_set._Concatenated(_Parts(pieces), "x", borders, rows.dtype, (3,))
    keys: Any = SLICES | st.just(()) | st.just(Ellipsis)
    if len(rows):
        place = st.integers(-len(rows), len(rows) - 1)
        keys |= place | st.lists(st.integers(0, len(rows) - 1), max_size=5).map(
            lambda numbers: np.array(numbers, np.int64)
        )
        keys |= st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)).map(np.array)
        keys |= st.tuples(st.slices(len(rows)), st.integers(0, 2))
    key = data.draw(keys)
    assert np.array_equal(array[key], rows[key])
    assert np.array_equal(array[key].shape, rows[key].shape)


def test_numbers_of_shards_pass_over_empty_ones() -> None:
    numbers = parts_set._Numbers("items/shard", np.array([0, 0, 2, 2, 5]))
    assert numbers[()].tolist() == [1, 1, 3, 3, 3]


def test_damage_is_one_line(catalogue, predict: Predict) -> None:
    """Any part, and the manifest; the other parts can be read."""
    folder = predict(catalogue(12), "a", no_merge=True)
    path = folder / "part-000001.h5"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with open_predictions(folder) as predictions:
        assert predictions.topk_index[:4].shape == (4, 5)
        with pytest.raises(StoreError, match="part-000001.h5 cannot be used"):
            predictions.topk_index[4:5]
    path.unlink()
    with open_predictions(folder) as predictions, pytest.raises(StoreError, match="is missing"):
        list(predictions)
    manifest = folder / parts_set.MANIFEST
    manifest.write_text(manifest.read_text()[:-9])
    with pytest.raises(StoreError, match="predictions.json cannot be read"):
        open_predictions(folder)


def test_typed_again_and_changed(catalogue, predict: Predict, ran: list[int]) -> None:
    """It is complete; another configuration is refused; a catalogue that has grown is taken up."""
    source = catalogue(12, broken=(2,))
    folder = predict(source, "a", no_merge=True)
    before = read(folder)
    del ran[:]
    predict(source, "a", no_merge=True)
    assert not ran
    with pytest.raises(OutputExistsError, match="other topk"):
        predict(source, "a", no_merge=True, topk=3)
    for i in range(12, 20):
        (source / f"{i:03d}.png").write_bytes((source / "000.png").read_bytes() + bytes([i]))
    with pytest.raises(OutputExistsError, match="--incremental"):
        predict(source, "a", no_merge=True)
    assert read(folder) == before
    predict(source, "a", no_merge=True, incremental=True)
    grown = read(folder)
    assert (
        len(grown["items/name"]) == 19
        and grown["features/pooled"][:11] == before["features/pooled"]
    )
    fresh = predict(source, "b", no_merge=True)
    assert read(fresh) == grown
    predict(source, "a", no_merge=True, topk=3, restart=True)
    assert len(read(folder)["predictions/topk_index"][0]) == 3
    assert sorted(p.name for p in folder.parent.iterdir() if p.name.startswith(("a", "."))) == ["a"]


@pytest.mark.parametrize("again", [{}, {"restart": True}])
@pytest.mark.parametrize("broken", [1, 2, 3])
def test_stopped_at_any_step_of_the_end(
    catalogue, predict: Predict, monkeypatch, ran: list[int], again: dict, broken: int
) -> None:
    """At each rename and before it: nothing is predicted twice, and predictions stay readable."""
    source = catalogue(9)
    reference = read(predict(source, "reference", no_merge=True))
    if again:
        predict(source, "a", no_merge=True, topk=3)
    steps = iter(range(1, 9))
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if next(steps) == broken:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(publish.Path, "rename", rename)
        try:
            predict(source, "a", no_merge=True, **again)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
    assert stopped == (broken <= (2 if again else 1))
    del ran[:]
    folder = predict(source, "a", no_merge=True)
    assert not ran
    assert read(folder) == reference
    assert sorted(p.name for p in folder.parent.iterdir() if p.name.startswith(("a", "."))) == ["a"]


def test_another_process_was_quicker(catalogue, predict: Predict, monkeypatch) -> None:
    """Both give the same, and neither takes the other's away."""
    source = catalogue(9)
    real = publish._rename

    def rename(folder: Path, output: Path, **options: Any) -> None:
        monkeypatch.setattr(publish, "_rename", real)
        predict(source, "a", no_merge=True)  # the other one
        real(folder, output, **options)

    monkeypatch.setattr(publish, "_rename", rename)
    folder = predict(source, "a", no_merge=True)
    assert len(read(folder)["items/name"]) == 9
    assert sorted(p.name for p in folder.parent.iterdir()) == ["a", "catalogue"]


def test_what_it_does_not_replace(catalogue, predict: Predict, tmp_path: Path) -> None:
    source = catalogue(5)
    (tmp_path / "notes").mkdir()
    file = predict(source, "a.h5")
    with pytest.raises(OutputExistsError, match="is a file: --no-merge makes a folder"):
        predict(source, "a.h5", no_merge=True, restart=True)
    folder = predict(source, "a", no_merge=True)
    with pytest.raises(OutputExistsError, match="go on with --no-merge"):
        predict(source, "a")
    with pytest.raises(OutputExistsError, match="folder of something else"):
        predict(source, "notes", no_merge=True, restart=True)
    with pytest.raises(UsageError, match="leave --keep-parts out"):
        predict(source, "b", no_merge=True, keep_parts=True)
    assert read(file)["items/name"] == read(folder)["items/name"]
    assert json.loads((folder / parts_set.MANIFEST).read_text())["schema_version"] == 1
