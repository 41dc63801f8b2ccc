"""Options that cannot work are refused before anything is done; those seldom meant are doubted."""

from __future__ import annotations

import pytest

from fashionbatch.errors import UsageError


def test_bottleneck_refuses_unfreeze(train, tmp_path):
    """Bottleneck mode cannot train the base."""
    with pytest.raises(UsageError, match="bottleneck"):
        train(mode="bottleneck", unfreeze="blocks:1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"opt": "adam", "momentum": 0.5}, "--momentum: the optimizer adam has none"),
        ({"opt": "rprop", "weight_decay": 0.1}, "--weight-decay: the optimizer rprop has none"),
        ({"mode": "bottleneck", "freeze_epochs": 2}, "--freeze-epochs 2 is in front of"),
        ({"unfreeze": "none", "freeze_epochs": 1}, "--freeze-epochs 1 is in front of"),
        (
            {"prefix_cache": True, "unfreeze": "blocks:1", "augment": "none",
             "regularizer": ["random-erasing"]},
            "random-erasing",
        ),
    ],
)  # fmt: skip
def test_options_that_could_do_nothing_are_refused(train, tmp_path, options, told):
    """Before anything is computed."""
    with pytest.raises(UsageError, match=told):
        train(**options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "doubt"),
    [
        ({"prefix_cache": True, "unfreeze": "blocks:1", "epochs": 3}, "--augment-copies 1"),
        ({"unfreeze": "none", "layer_decay": 0.5}, "--layer-decay 0.5"),
        ({"attribute_weight": 2.0}, "--attribute-weight 2"),
    ],
)
def test_doubts(train, options, doubt):
    """What is allowed and seldom meant is told."""
    told = []
    train(dry_run=True, tell=lambda event, v: event == "warn" and told.append(v["text"]), **options)
    assert any(text.startswith(doubt) for text in told), told


def test_unknown_options(train):
    """Options that nothing takes are refused with the ones there are."""
    with pytest.raises(UsageError, match="nesterov"):
        train(opt="adam", opt_kwargs=("nesterov=true",))
    with pytest.raises(UsageError, match="weight"):
        train(regularizer=("l2-kernel:wait=1",))
    with pytest.raises(UsageError, match="epochs_drop is at least 1"):
        train(sched="step:epochs_drop=0")
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        train(epoch=3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"regularizer": ("l2-kernel:wieght=1",)}, "did you mean 'weight'"),
        ({"regularizer": ("ema:decay=2",)}, "decay"),
        ({"regularizer": ("stochastic-depth",)}, "no branches to leave out"),
        (
            {
                "backbone": "efficientnet_b0",
                "mode": "bottleneck",
                "regularizer": ("stochastic-depth",),
            },
            "branches that could be left out are frozen",
        ),
        ({"mode": "bottleneck", "regularizer": ("cutmix",)}, "--regularizer cutmix"),
        ({"mode": "bottleneck", "augment": "flip"}, "--augment flip"),
        ({"mode": "bottleneck", "layer_decay": 0.5}, "--layer-decay"),
        ({"sched": "step:dorp=1"}, "did you mean 'drop'"),
        ({"opt_kwargs": ("nonsense=1",)}, "nonsense"),
        ({"opt_kwargs": ("lr=0.9",)}, "--lr"),
        ({"freeze_opt": "sgd"}, "--freeze-epochs"),
        ({"augment_copies": 2}, "--prefix-cache"),
    ],
)
def test_wrong_options_show_before_anything_is_done(train, tmp_path, options, named):
    """A dry run knows them, too."""
    with pytest.raises(UsageError, match=named):
        train(dry_run=True, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"freeze_epochs": 2, "unfreeze": "blocks:1"}, "stays frozen in all 2 epochs"),
        ({"warmup_epochs": 2}, "never reaches --lr 0.001"),
        ({"freeze_epochs": 1, "unfreeze": "blocks:1", "warmup_epochs": 1.5}, None),
    ],
)
def test_options_that_train_nothing_are_doubted(train, options, told):
    """They are allowed, and a line says what they come to."""
    texts = []
    tell = lambda event, values: texts.append(values["text"]) if event == "warn" else None  # noqa: E731
    train(dry_run=True, tell=tell, **options)
    assert len(texts) == (told is not None)
    assert told is None or told in texts[0]
