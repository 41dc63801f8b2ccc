from __future__ import annotations

import json
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fashionbatch import registry
from fashionbatch.errors import TrainingError, UsageError
from fashionbatch.models import card as cards
from fashionbatch.pipeline.batches import Order, batches
from fashionbatch.shards.read import open_shards
from fashionbatch.specs import RegularizerSpec
from fashionbatch.training.activations import computation
from fashionbatch.training.regularizer import Regularizer
from fashionbatch.training.targets import Targets
from tests.training.runs import SAMPLE, history, same, weights


def test_run_folder(train, tmp_path):
    """A run's folder holds configuration, model, card, history, curves and two checkpoints."""
    result = train(epochs=3)
    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints", "config.toml", "curves.png", "history.csv", "metrics.json",
        "model.json", "model.safetensors",
    ]  # fmt: skip
    kept = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert kept == ["epoch-0002", "epoch-0003"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["unfreeze"] == "all"
    assert config["img_size"] == 28
    assert list(result) == ["run", "epochs", "best_epoch", "val", "test", "trainable_parameters"]
    assert list(result["val"]) == list(result["test"]) == ["loss", "top1", "top3"]
    assert [row["epoch"] for row in history(folder)] == ["1", "2", "3"]
    card = json.loads((folder / "model.json").read_text())
    assert len(card["classes"]) == 10
    assert card["lineage"]["weights"] == "none"


@pytest.mark.parametrize("workers", [0, 1])
def test_same_seed_same_weights(train, tmp_path, workers):
    """The same seed gives the same weights, whatever the number of workers."""
    train("a", head_dropout=0.3)
    train("b", head_dropout=0.3, workers=workers)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_other_seed_other_weights(train, tmp_path):
    """The seed is used."""
    train("a", epochs=1)
    train("b", epochs=1, seed=1)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_early_stopping_and_best_epoch(train, tmp_path):
    """Training stops after so many epochs without improvement; the best epoch's weights stay."""
    result = train(epochs=9, patience=1, lr=0.3, opt="sgd")
    losses = [float(row["val_loss"]) for row in history(tmp_path / "run")]
    assert result["epochs"] == len(losses) < 9
    assert result["best_epoch"] == int(np.argmin(losses)) + 1
    assert result["val"]["loss"] == pytest.approx(min(losses), abs=1e-6)


def test_frozen_base_stays(train, tmp_path):
    """With --unfreeze none the base stays bitwise as it was, running statistics too."""
    train("a", epochs=1)
    path = str(tmp_path / "a")
    result = train("b", weights=path, unfreeze="none", epochs=2, lr=0.1, freeze_epochs=0)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    base = [k for k in first if k.startswith("backbone.")]
    assert len(base) > 20
    assert all(torch.equal(first[k], second[k]) for k in base)
    assert not torch.equal(first["head.dense.0.weight"], second["head.dense.0.weight"])
    assert result["trainable_parameters"] == 128 * 10 + 10


def test_unfrozen_blocks_only(train, tmp_path):
    """blocks:1 trains the last block and the head, and nothing before them."""
    train("a", epochs=1)
    train("b", weights=str(tmp_path / "a"), unfreeze="blocks:1", freeze_epochs=1, epochs=2)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    changed = {k for k in first if not torch.equal(first[k], second[k])}
    assert {k.rsplit(".", 2)[0] for k in changed if "conv" in k} == {"backbone.blocks.2"}
    assert all(k.startswith(("backbone.blocks.2.", "head.")) for k in changed)


def test_freeze_epochs(train, tmp_path):
    """In the first epochs only the head is trained."""
    train("a", epochs=1)
    common = {"weights": str(tmp_path / "a"), "unfreeze": "all", "lr": 0.01, "sched": "constant"}
    train("frozen", freeze_epochs=1, epochs=1, **common)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "frozen")
    assert all(torch.equal(first[k], second[k]) for k in first if k.startswith("backbone."))
    train("open", freeze_epochs=0, epochs=1, **common)
    assert not same(
        {"x": first["backbone.stem.0.weight"]},
        {"x": weights(tmp_path / "open")["backbone.stem.0.weight"]},
    )


def test_bottleneck(train, tmp_path, monkeypatch):
    """Features are computed once; the head is trained on them; the model is whole all the same."""
    calls = []
    real = computation._Passes._answers
    monkeypatch.setattr(
        computation._Passes, "_answers", lambda s, x: calls.append(len(x)) or real(s, x)
    )
    events = []
    first = train("a", mode="bottleneck", epochs=3, tell=lambda e, v: events.append(e))
    assert sum(calls) == 48
    assert "reused" not in events
    assert first["trainable_parameters"] == 1290
    calls.clear()
    second = train("b", mode="bottleneck", epochs=3, tell=lambda e, v: events.append(e))
    assert not calls
    assert "reused" in events
    assert {**second, "run": 0} == {**first, "run": 0}
    model, card = cards.load(tmp_path / "a")
    [cache] = (tmp_path / ".features").glob("*/part-*.h5")
    with h5py.File(cache) as file:
        rows, values = file["rows"][:5], file["tensors/bottleneck"][:5].astype(np.float32)
    from fashionbatch.pipeline.decode import decode
    from fashionbatch.pipeline.transforms import fit
    from fashionbatch.shards.read import open_shards

    shards = open_shards(Path(card.lineage["data"]))
    pixels = np.stack([fit(decode(shards.read(r)), card.preprocessing) for r in rows.tolist()])
    with torch.inference_mode():
        outputs = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        expected = model.head(torch.from_numpy(values)).logits
    assert torch.allclose(outputs.logits, expected, atol=1e-3)


def test_damaged_features_are_computed_again(train, tmp_path):
    """A damaged cache of features is not believed."""
    first = train("a", mode="bottleneck")
    [cache] = (tmp_path / ".features").glob("*/part-*.h5")
    data = bytearray(cache.read_bytes())
    with h5py.File(cache) as file:
        place = file["tensors/bottleneck"].id.get_chunk_info(0).byte_offset
    data[place + 100] ^= 0x40
    cache.write_bytes(data)
    events = []
    second = train("b", mode="bottleneck", tell=lambda e, v: events.append(e))
    assert "reused" not in events
    assert second["val"] == first["val"]


def test_prefix_cache_trains_as_without(train, tmp_path):
    """What is trained, and how well, is as without the cache but for float16; copies differ."""
    train("start", epochs=1)
    options = {"weights": str(tmp_path / "start"), "unfreeze": "blocks:1", "freeze_epochs": 0}
    events = []
    train("plain", augment="none", **options)
    train("cached", augment="none", prefix_cache=True, tell=lambda *e: events.append(e), **options)
    for a, b in zip(history(tmp_path / "plain"), history(tmp_path / "cached"), strict=True):
        for key in ("train_loss", "val_loss"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=0.02)
    told = [values for event, values in events if event == "disk"]
    [own] = (tmp_path / ".features").iterdir()
    parts = sum(p.stat().st_size for p in own.glob("part-*.h5"))
    assert told == [{"bytes": parts, "path": str(own), "kept": 0}]
    first, second = weights(tmp_path / "start"), weights(tmp_path / "cached")
    changed = {k for k in first if not torch.equal(first[k], second[k])}
    assert any(k.startswith("backbone.blocks.2.conv1") for k in changed)
    assert all(k.startswith(("backbone.blocks.2.", "head.")) for k in changed)
    train("copies", prefix_cache=True, augment_copies=3, **options)
    assert history(tmp_path / "copies") != history(tmp_path / "cached")


def test_bottleneck_layer_of_a_run(train, tmp_path, photo):
    """The head gets the layer asked for; the run predicts and explains with it."""
    from fashionbatch import api

    train("a", epochs=1, bottleneck="blocks.1:flatten", unfreeze="blocks:2")
    state = weights(tmp_path / "a")
    assert state["head.dense.0.weight"].shape == (10, 64 * 49)
    assert not any(k.startswith("backbone.blocks.2") for k in state)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(1))
    api.predict(folder, model=tmp_path / "a", output=tmp_path / "a.h5", device="cpu")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features/pooled"].shape == (1, 64 * 49)
    found = api.explain(
        "grad-cam", [folder], model=tmp_path / "a", output=tmp_path / "maps", device="cpu"
    )
    assert found["pictures"] == 1
    with pytest.raises(UsageError, match="at most blocks:2"):
        train("b", bottleneck="blocks.1", unfreeze="blocks:3")


def test_momentum_is_the_optimizers_own(train, tmp_path):
    """Without the option SGD has 0.9 and RMSProp none; with it, both have that."""
    for opt, own in (("sgd", 0.9), ("rmsprop", 0.0)):
        made = [train(f"{opt}{m}", opt=opt, lr=0.01, momentum=m) for m in (None, own, 0.5)]
        losses = [m["val"]["loss"] for m in made]
        assert losses[0] == losses[1] != losses[2]


def test_loss_that_is_not_finite(train, tmp_path):
    """A loss that is not finite ends training, names the images, and leaves no run behind."""
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch 1, step 2") as error:
        train(lr=1e30, opt="sgd")
    about = json.loads((tmp_path / "run.not-finite.json").read_text())
    assert (about["epoch"], about["step"], len(about["keys"])) == (1, 2, 8)
    assert all(repr(key) in str(error.value) for key in about["keys"][:3])
    assert "--lr" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("opt", ["sgd", "rmsprop", "adam", "adamw"])
def test_optimizers(train, opt, tmp_path):
    """Every built-in optimizer trains."""
    result = train(opt=opt, epochs=2, weight_decay=0.01, lr=0.01)
    rows = history(tmp_path / "run")
    assert result["epochs"] == 2
    assert rows[0]["train_loss"] != rows[1]["train_loss"]


def test_learns(train, tmp_path):
    """The network learns: the training loss falls far below chance."""
    train(epochs=8, augment="none", lr=3e-3)
    rows = history(tmp_path / "run")
    assert float(rows[-1]["train_loss"]) < 0.5 < 2 < float(rows[0]["train_loss"])
    assert float(rows[-1]["train_top1"]) > 0.9


def test_third_party_regularizer(train, monkeypatch):
    """A plugin's regularizer gets its methods called in the documented order."""
    calls = []

    class Spy(Regularizer):
        def on_batch(self, images, targets):
            calls.append("on_batch")
            return images.float() * 0, Targets(category=targets.shares(10))

        def penalty(self, head, outputs, targets):
            calls.append("penalty")
            assert [tuple(k.shape) for k in head.kernels] == [(10, 128)]
            assert outputs.bottleneck.requires_grad
            return outputs.logits.sum() * 0

        def on_gradients(self, parameters):
            calls.append("on_gradients")
            assert all(p.grad is not None for p in parameters)

        def after_step(self, model):
            calls.append("after_step")

        def after_epoch(self, epoch, metrics):
            calls.append(f"after_epoch {epoch}")
            assert {"train_loss", "val_loss", "val_top1", "val_top3", "val_top5"} <= metrics.keys()
            return epoch == 2

        def state_dict(self):
            calls.append("state_dict")
            return {"n": len(calls)}

    real = registry.components
    spec = RegularizerSpec(name="spy", factory=Spy, summary="spies")
    mine = registry.Component(kind="regularizer", spec=spec, provider="spies", version="1")
    monkeypatch.setattr(
        registry, "components", lambda kind: real(kind) + ([mine] if kind == "regularizer" else [])
    )
    assert train(epochs=5, regularizer=("spy",))["epochs"] == 2
    step = ["on_batch", "penalty", "on_gradients", "after_step"]
    one = [*step, *step]
    assert calls == [*one, "after_epoch 1", "state_dict", *one, "after_epoch 2", "state_dict"]


def test_reported_figures_are_those_of_the_saved_model(train, tmp_path):
    """With averaged weights and a best epoch that is not the last, too."""
    result = train(
        regularizer=("ema:decay=0.5",), epochs=12, lr=0.02, limit=40, augment="none", batch_size=8
    )
    assert result["best_epoch"] < 12
    row = history(tmp_path / "run")[result["best_epoch"] - 1]
    assert result["val"]["loss"] == pytest.approx(float(row["val_loss"]), abs=1e-6)
    model, card = cards.load(tmp_path / "run")
    assert card.metrics["val"]["loss"] == pytest.approx(float(row["val_loss"]), abs=1e-6)
    shards = open_shards(SAMPLE)
    rows = shards.select("val")
    rows = rows[np.linspace(0, len(rows) - 1, 40).astype(np.int64)]
    (batch,) = batches(shards, Order.sequential(rows, 40), card.preprocessing, workers=0)
    with torch.inference_mode():
        logits = model(batch.images).logits
    labels = torch.from_numpy(shards.labels[rows].astype(np.int64))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(result["val"]["loss"], abs=1e-5)


def test_tuple_for_an_optimizer(train):
    """Betas are two numbers."""
    assert train(epochs=1, opt_kwargs=("betas=0.8,0.9",))["epochs"] == 1


def test_colleagues_can_read_the_model(train, tmp_path):
    """As every other file of the run."""
    train(epochs=1)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("options", [{"mode": "bottleneck"}, {"prefix_cache": True}])
def test_a_dry_run_knows_the_disk(train, options, tmp_path):
    """To the byte, before anything is computed."""
    options |= {"augment": "none"}
    if "mode" not in options:
        options |= {"unfreeze": "blocks:1", "freeze_epochs": 0}
    planned = train(dry_run=True, **options)["plan"]["activation_bytes"]
    assert not (tmp_path / ".features").exists()
    said = []
    train(epochs=1, tell=lambda e, v: said.append(v["bytes"]) if e == "disk" else None, **options)
    written = sum(path.stat().st_size for path in (tmp_path / ".features").rglob("part-*.h5"))
    assert [planned] == said == [written]
    assert "activation_bytes" not in train(dry_run=True, exist_ok=True)["plan"]
