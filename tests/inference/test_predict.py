from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from fashionbatch import api
from fashionbatch.config import PredictConfig
from fashionbatch.errors import (
    ImageError,
    OutputExistsError,
    SourceError,
    UsageError,
)
from fashionbatch.inference import job as jobs
from fashionbatch.inference import plan as plans
from fashionbatch.inference import stream as streams
from fashionbatch.interrupt import Interrupt
from fashionbatch.models import card as cards
from fashionbatch.models.engine import Engine
from fashionbatch.pipeline.decode import decode
from fashionbatch.pipeline.pool import Loaded
from fashionbatch.pipeline.transforms import fit
from fashionbatch.store.reader import open_predictions
from tests.inference.conftest import picture

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"


def one_by_one(run, datas):
    """Probabilities and bottlenecks by the model alone."""
    model, card = cards.load(run)
    answers = []
    for data in datas:
        pixels = torch.tensor(fit(decode(data), card.preprocessing)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            outputs = model(pixels)
        answers.append((outputs.logits.softmax(1)[0].numpy(), outputs.bottleneck[0].numpy()))
    return [np.stack(column) for column in zip(*answers, strict=True)]


def test_fits_the_model(run, catalogue, predict):
    """Every row holds what the model says of that very image."""
    folder = catalogue(21)
    names = sorted(p.name for p in folder.iterdir())
    probability, bottleneck = one_by_one(run, [(folder / n).read_bytes() for n in names])
    with open_predictions(predict(folder, probabilities=True, topk=3)) as found:
        assert found.names == names
        assert np.allclose(found.features()[()], bottleneck, atol=1e-4)
        assert np.allclose(found.probability[()], probability, atol=1e-5)
        best = np.argsort(-probability, axis=1, kind="stable")[:, :3]
        assert np.array_equal(found.topk_index[()], best)
        assert np.allclose(
            found.topk_probability[()], np.take_along_axis(probability, best, 1), atol=1e-5
        )
        assert found[0].classes[0] == found.classes[best[0, 0]]
        assert found.labels.tolist() == [-1] * 21


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_files_do_not_move_their_neighbours(catalogue, predict, workers):
    """Failed files are listed; no row ever belongs to another image."""
    broken = (0, 3, 4, 11, 20)
    clean = predict(catalogue(21, name="clean"), "clean.h5")
    path = predict(catalogue(21, broken, name="mixed"), "mixed.h5", workers=workers)
    with open_predictions(clean) as a, open_predictions(path) as b:
        assert [f["name"] for f in b.failures] == [f"{i:03d}.png" for i in broken]
        assert {f["stage"] for f in b.failures} == {"decode"}
        assert all(f["reason"] for f in b.failures)
        assert len(b) + len(b.failures) == 21
        of = {name: i for i, name in enumerate(a.names)}
        places = [of[name] for name in b.names]
        assert sorted(set(range(21)) - set(places)) == sorted(broken)
        assert np.allclose(a.features()[()][places], b.features()[()], atol=1e-4)
        assert np.array_equal(a.topk_index[()][places], b.topk_index[()])


def test_repeatable(catalogue, predict):
    """Two runs write the same bytes, whatever the number of workers."""
    folder = catalogue(20, (2,))
    first = predict(folder, "a.h5").read_bytes()
    assert predict(folder, "b.h5").read_bytes() == first
    assert predict(folder, "c.h5", workers=1).read_bytes() == first


def test_parts_are_resumed(catalogue, predict, monkeypatch, tmp_path):
    """A run that dies is gone on with; the file's bytes are those of an uninterrupted run."""
    monkeypatch.setattr(plans, "SLICE", 5)
    folder = catalogue(23, (7,))
    whole = predict(folder, "whole.h5").read_bytes()

    class Died(Exception):
        pass

    seen = 0

    def die(event, values):
        nonlocal seen
        if event == "progress":
            seen += values["items"]
            if seen > 12:
                raise Died

    with pytest.raises(Died):
        predict(folder, "cut.h5", tell=die)
    parts = sorted(p.name for p in (tmp_path / "cut.h5.parts").glob("part-*"))
    assert parts == ["part-000000.h5", "part-000001.h5"]
    assert not (tmp_path / "cut.h5").exists()
    data = bytearray((tmp_path / "cut.h5.parts" / parts[0]).read_bytes())
    data[data.index(b"000.png")] ^= 1  # a damaged part is made again
    (tmp_path / "cut.h5.parts" / parts[0]).write_bytes(data)
    events = []
    predict(folder, "cut.h5", tell=lambda e, v: events.append((e, v)))
    assert dict(events)["resumed"] == {"parts": 1, "items": 5, "of": 23}
    assert (tmp_path / "cut.h5").read_bytes() == whole
    assert not (tmp_path / "cut.h5.parts").exists()


def test_other_run_is_refused(catalogue, predict, tmp_path, monkeypatch):
    """Another configuration, input or content never mixes with what is there."""
    monkeypatch.setattr(plans, "SLICE", 5)
    folder = catalogue(8)
    path = predict(folder)
    before = path.read_bytes()
    events = []
    predict(folder, tell=lambda e, v: events.append(e))
    assert "complete" in events
    with pytest.raises(OutputExistsError, match="other topk"):
        predict(folder, topk=2)
    with pytest.raises(OutputExistsError, match="batch_size"):
        predict(folder, batch_size=4)
    with pytest.raises(OutputExistsError, match="input"):
        predict(folder, limit=3)
    (folder / "003.png").write_bytes((folder / "004.png").read_bytes())
    with pytest.raises(OutputExistsError, match="other images"):
        predict(folder)
    assert path.read_bytes() == before
    predict(folder, restart=True)
    assert path.read_bytes() != before


def test_other_model_is_refused(catalogue, predict, run, tmp_path):
    """A file of another model is left alone."""
    folder = catalogue(4)
    before = predict(folder).read_bytes()
    api.train(
        data=SAMPLE, backbone="small-resnet", weights="none", limit=8, epochs=1, workers=0,
        device="cpu", output=tmp_path, name="other", seed=5,
    )  # fmt: skip
    with pytest.raises(OutputExistsError, match="model"):
        predict(folder, model=tmp_path / "other")
    assert (tmp_path / "out.h5").read_bytes() == before


def test_foreign_parts_are_refused(catalogue, predict, tmp_path, monkeypatch):
    """Parts of another run beside the output are left alone."""
    folder = catalogue(4)

    monkeypatch.setattr(plans, "SLICE", 2)
    count = []

    def late(event, values):
        if event == "progress":
            count.append(1)
            if len(count) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(folder, tell=late)
    with pytest.raises(OutputExistsError, match="parts"):
        predict(folder, topk=1)
    assert [p.name for p in (tmp_path / "out.h5.parts").glob("p*")] == ["part-000000.h5"]


def test_something_else_at_the_output(catalogue, predict, tmp_path):
    """A file that is no prediction file, or a folder, is not overwritten."""
    folder = catalogue(2)
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(OutputExistsError):
        predict(folder)
    assert (tmp_path / "out.h5").read_text() == "mine"
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        predict(folder, "dir")


def test_own_shards_and_labels(predict, run, tmp_path):
    """Of a data set a split can be predicted, and its labels are stored."""
    with open_predictions(predict(SAMPLE, split="val", limit=20)) as found:
        assert len(found) == 20
        assert found[3].label in found.classes
        names, labels = found.names, found.labels
    from fashionbatch.shards.read import open_shards

    shards = open_shards(SAMPLE)
    rows = shards.select("val")[:20]
    assert names == [shards.name(r) for r in rows]
    assert labels.tolist() == shards.labels[rows].tolist()


def test_foreign_shards(predict, catalogue, run, tmp_path):
    """Shards by webdataset's own writer are predicted, whatever bytes their names have."""
    folder = catalogue(9)
    (tmp_path / "wds").mkdir()
    paths = sorted(folder.iterdir())
    with webdataset.ShardWriter(
        str(tmp_path / "wds" / "x-%04d.tar"), maxcount=4, verbose=0
    ) as sink:
        for i, path in enumerate(paths):
            key = f"a/b{i}" if i else "a/caf\udce9"
            sink.write({"__key__": key, "png": path.read_bytes(), "cls": i})
    told = []
    made = predict(tmp_path / "wds", tell=lambda event, values: told.append((event, values)))
    assert any("'0', '1', '2', ...) are no classes" in v["text"] for e, v in told if e == "warn")
    with open_predictions(made) as found:
        probability, _ = one_by_one(run, [p.read_bytes() for p in paths])
        assert np.array_equal(found.topk_index[:, 0], probability.argmax(1))
        assert found.names[0] == r"x-0000/a/caf\xe9.png"
        assert found.names[1:] == [f"x-{i // 4:04d}/a/b{i}.png" for i in range(1, 9)]
        assert [s[2] for s in found.shards] == [4, 4, 1]
    with open_predictions(predict(tmp_path / "wds" / "x-0002.tar", "one.h5")) as found:
        assert found.names == ["x-0002/a/b8.png"]


def test_labels_of_class_folders(predict, run, tmp_path):
    """An image's folder is its label where the model has a class of that name."""
    classes = cards.load_card(run).classes
    for i, name in enumerate([classes[4], classes[0], "something else"]):
        (tmp_path / "c" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "c" / name / "1.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "c" / "loose.png")
    with open_predictions(predict(tmp_path / "c")) as found:
        by_name = {row.name: row.label for row in found}
    assert by_name == {
        f"{classes[4]}/1.png": classes[4],
        f"{classes[0]}/1.png": classes[0],
        "something else/1.png": None,
        "loose.png": None,
    }


def test_other_classes(predict, tmp_path, run):
    """A data set of other classes is refused, or predicted without its labels."""
    for name in ("ant", "bee"):
        (tmp_path / "c" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "c" / name / f"{i}.png")
    api.shard(tmp_path / "c", output=tmp_path / "d", split="train=1.0")
    with pytest.raises(SourceError, match="'ant', 'bee'"):
        predict(tmp_path / "d", "deep/out.h5")
    assert not (tmp_path / "deep").exists()
    with open_predictions(predict(tmp_path / "d", ignore_labels=True)) as found:
        assert len(found) == 6
        assert set(found.labels.tolist()) == {-1}


def test_nothing_usable(catalogue, predict, tmp_path):
    """Where no image can be used the job fails, and says so again; all reasons are recorded."""
    folder = catalogue(3, (0, 1, 2))
    for _ in range(2):
        with pytest.raises(SourceError, match="none of the 3 files"):
            predict(folder)
    with open_predictions(tmp_path / "out.h5") as found:
        assert (len(found), len(found.failures)) == (0, 3)


def test_single_image_and_odd_name(predict, tmp_path):
    """One image is predicted, also where its name is no UTF-8."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    path = folder / "caf\udce9\x1b[31m.png"
    data = io.BytesIO()
    Image.new("RGB", (9, 9)).save(data, "PNG")
    path.write_bytes(data.getvalue())
    for number, source in enumerate((path, folder)):
        with open_predictions(predict(source, f"{number}.h5")) as found:
            assert found.names == ["caf\\xe9\x1b[31m.png"]


def test_nothing_there(predict, tmp_path):
    """A missing or empty input is refused."""
    with pytest.raises(UsageError, match="does not exist"):
        predict(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no files"):
        predict(tmp_path / "empty")
    (tmp_path / "empty" / "x.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="--split"):
        predict(tmp_path / "empty", split="val")
    assert not (tmp_path / "out.h5").exists()


@pytest.fixture
def packed(tmp_path):
    """A data set of ours: two shards, of three images each."""
    for i in range(6):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{i}.png").write_bytes(picture(i))
    api.shard(tmp_path / "photos", output=tmp_path / "packed", samples_per_shard=3)
    return tmp_path / "packed"


def test_repaired_shard_is_predicted(packed, predict, tmp_path, monkeypatch):
    """A file of a damaged shard is not complete when the shard is whole; and the other way."""
    second = packed / "all-000001.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[:-512])
    with open_predictions(predict(packed)) as found:
        assert (len(found), len(found.failures)) == (3, 3)
    before = (tmp_path / "out.h5").read_bytes()
    monkeypatch.chdir(tmp_path)
    predict(Path("packed"))  # the same shards by another path
    second.write_bytes(whole)
    with pytest.raises(OutputExistsError, match=r"of 2 shards 1 damaged then and whole.*--incr"):
        predict(packed)
    assert (tmp_path / "out.h5").read_bytes() == before
    with open_predictions(predict(packed, restart=True)) as found:
        assert (len(found), len(found.failures)) == (6, 0)
    second.write_bytes(whole[:-1024])
    with pytest.raises(OutputExistsError, match="1 whole then and damaged now"):
        predict(packed)


def test_part_of_a_damaged_shard_is_made_again(packed, predict, tmp_path, monkeypatch):
    """The parts of a stopped run: what was damaged then is predicted, the rest is kept."""
    from fashionbatch.store import merge

    first = packed / "all-000000.tar"
    whole = first.read_bytes()
    first.unlink()

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(packed)
    first.write_bytes(whole)
    events = []
    with open_predictions(predict(packed, tell=lambda e, v: events.append((e, v)))) as found:
        assert (len(found), len(found.failures)) == (6, 0)
    assert dict(events)["resumed"] == {"parts": 1, "items": 3, "of": 6}


def test_complete_file_says_what_failed(packed, predict):
    """An image that could not be read is counted when the file is found complete."""
    data = bytearray((packed / "all-000001.tar").read_bytes())
    data[700] ^= 1  # in the first image
    (packed / "all-000001.tar").write_bytes(data)
    output = predict(packed)
    events = []
    predict(packed, tell=lambda e, v: events.append((e, v)))
    assert dict(events)["complete"] == {"output": str(output), "failed": 1}


def test_no_file_is_lost(predict, tmp_path):
    """Whatever is called otherwise than an image is tried; only hidden files are passed over."""
    folder = tmp_path / "c"
    (folder / "hat" / ".cache").mkdir(parents=True)
    for name in ("hat/1.png", "IMG_0001", "hat/IMG_0002", ".DS_Store", "hat/.cache/1.png"):
        (folder / name).write_bytes(picture(1))
    (folder / "prices.csv").write_text("a,b")
    with open_predictions(predict(folder)) as found:
        assert found.names == ["IMG_0001", "hat/1.png", "hat/IMG_0002"]
        assert [(f["name"], f["stage"]) for f in found.failures] == [("prices.csv", "decode")]


@pytest.mark.parametrize("through", ["c", "link"])
@pytest.mark.parametrize("to", ["c", "link"])
def test_output_below_the_catalogue_is_no_item(predict, catalogue, tmp_path, through, to):
    """Whichever of them is named through a symbolic link."""
    folder = catalogue(3, name="c")
    (tmp_path / "link").symlink_to(folder)
    (folder / "p").mkdir()
    events = []
    for _ in range(2):
        predict(tmp_path / through, f"{to}/p/out.h5", tell=lambda e, v: events.append((e, v)))
    assert [v["items"] for e, v in events if e == "start"] == [3, 3]
    assert "complete" in dict(events)


def test_link_to_itself_is_a_failure(predict, catalogue):
    """It is listed, and the others are predicted."""
    folder = catalogue(1)
    (folder / "loop.png").symlink_to("loop.png")
    with open_predictions(predict(folder)) as found:
        assert [(f["name"], f["stage"]) for f in found.failures] == [("loop.png", "read")]


def test_memory_per_row(run):
    """A long plan takes a few bytes per row, beside the shard in work."""

    class Missing:
        def read(self, row):
            raise ImageError("read", "gone")

        def name(self, row):
            return f"{row}"

        key = name

        def labels(self, rows, numbers):
            return np.full(len(rows), -1, np.int32)

    class Pool:
        def batches(self, order):
            for number, rows in enumerate(order):
                failures = {place: ImageError("read", "gone") for place in range(len(rows))}
                images = torch.zeros(300, 3, 28, 28, dtype=torch.uint8)
                sha256 = np.zeros((len(rows), 32), np.uint8)
                yield Loaded(
                    number=number, rows=rows, images=images, failures=failures, sha256=sha256,
                    release=lambda: None,
                )  # fmt: skip

    class Silent(Engine):
        def run(self, images):
            return torch.zeros(300, 10), torch.zeros(300, 0), torch.zeros(300, 128)

    rows = np.arange(60_000)
    units = [
        plans.Unit(name=f"{i}", chosen=mine, sha256=None)
        for i, mine in enumerate(np.split(rows, 200))
    ]
    plan = plans.Plan(path=Path(), catalogue=Missing(), units=units)
    config = PredictConfig(batch_size=300, device="cpu")
    made = []
    tracemalloc.start()
    try:
        job = jobs.prepare(plan, run, config, Path("x.h5"), lambda e, v: None)
        stream = streams.Stream(
            plan=plan, labels=job.labels, grid=job.grid, answers=job.answers,
            engine=Silent(), device=job.device, pool=Pool(), fingerprint="",
        )  # fmt: skip
        stream.run(
            range(200), lambda part: made.append(len(part.failures)),
            lambda e, v: None, Interrupt(),
        )  # fmt: skip
        assert made == [300] * 200
        assert tracemalloc.get_traced_memory()[1] < 20 * len(rows)
    finally:
        tracemalloc.stop()


def test_selection_restricts_the_vocabulary(predict, run, tmp_path):
    """A data set of more classes than the model's is predicted where only its own are chosen."""
    known = cards.load_card(run).classes[:2]
    for i, name in enumerate([*known, "something else"]):
        (tmp_path / "c" / name).mkdir(parents=True)
        for n in range(3):
            Image.new("RGB", (9, 9), (i, n, 0)).save(tmp_path / "c" / name / f"{n}.png")
    api.shard(tmp_path / "c", output=tmp_path / "set", split="train=1", workers=1)
    with pytest.raises(SourceError, match="something else"):
        predict(tmp_path / "set")
    made = predict(tmp_path / "set", classes=known, per_class=2)
    with open_predictions(made) as found:
        assert sorted(row.label for row in found) == sorted([*known, *known])
