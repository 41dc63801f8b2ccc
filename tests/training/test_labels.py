from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fashionbatch.errors import ShardError, SourceError
from fashionbatch.shards.index import Index, IndexRow
from fashionbatch.shards.manifest import Manifest
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.sources import Attribute
from fashionbatch.training.labels import Labels, balanced_weights
from tests.sources.deepfashion_tree import CATEGORIES

SAMPLE = Path(__file__).parents[2] / "shards" / "fashion-mnist"
BOTH = ("category", "attributes")


def data_set(rows, width, classes=()):
    """In memory: ``rows`` of label, positive and unknown."""
    index = Index.of(
        [
            IndexRow(f"{i}", f"{i}", 0, 0, 0, label, bytes(32), "jpg", positive=p, unknown=u)
            for i, (label, p, u) in enumerate(rows)
        ]
    )
    manifest = Manifest(
        name="set", classes=classes, items=len(rows), failed=0, shards=(),
        attributes=tuple(Attribute(name=f"a{i}") for i in range(width)),
    )  # fmt: skip
    return ShardSet(Path("set"), manifest, index)


def test_deepfashion(deepfashion):
    """Category, positive, negative and unknown attributes are those of the catalogue's files."""
    path, shown = deepfashion
    with open_shards(path) as shards:
        rows = np.random.default_rng(0).permutation(len(shards))
        targets = Labels(shards, BOTH)(rows)
        truth = [shown[shards.name(row)] for row in rows.tolist()]
        classes = [CATEGORIES[image.label - 1] for image in truth]
        assert [shards.classes[i] for i in targets.category.tolist()] == classes
    values = torch.tensor([image.values for image in truth])
    assert targets.attributes.dtype == torch.float32
    assert torch.equal(targets.attributes, (values == 1).float())
    assert torch.equal(targets.known, values != 0)


def test_unannotated_items_are_left_out(deepfashion):
    """An item all of whose attributes are unknown is of use for its category only."""
    path, shown = deepfashion
    with open_shards(path) as shards:
        rows = shards.select()
        (empty,) = (r for r in rows if not any(shown[shards.name(int(r))].values))
        assert Labels(shards, ("attributes",)).usable(rows).tolist() == [
            r for r in rows if r != empty
        ]
        for tasks in (BOTH, ("category",)):
            assert np.array_equal(Labels(shards, tasks).usable(rows), rows)


def test_restricted_vocabulary(deepfashion):
    """Items of other classes have an unknown category, and keep their attributes."""
    path, shown = deepfashion
    with open_shards(path) as whole:
        shards = whole.restricted(Selection(classes=("Dress", "Jeans")))
        rows = shards.select()
        names = [CATEGORIES[shown[shards.name(r)].label - 1] for r in rows.tolist()]
        wanted = [("Dress", "Jeans").index(n) if n in ("Dress", "Jeans") else -1 for n in names]
        labels = Labels(shards, BOTH)
        assert labels(rows).category.tolist() == wanted
        assert labels(rows).attributes.sum() == 3 * (len(rows) - 1)
        assert Labels(shards, ("category",)).usable(rows).tolist() == [
            r for r, w in zip(rows.tolist(), wanted, strict=True) if w >= 0
        ]
        assert labels.class_counts(rows).tolist() == [1, 1]


def test_what_is_not_learnt_is_absent(deepfashion):
    """Each task gets its own targets only; the category needs no attributes."""
    with open_shards(deepfashion[0]) as shards:
        rows = shards.select()
        only = Labels(shards, ("attributes",))(rows)
        assert only.category is None
        assert only.known is not None
    with open_shards(SAMPLE) as shards:
        only = Labels(shards, ("category",))(np.array([3, 0]))
        assert only.category.tolist() == shards.labels[[3, 0]].tolist()
        assert (only.attributes, only.known) == (None, None)


@given(st.data())
def test_any_rows(data):
    """Whatever the rows hold, and in whatever order they are asked for, repeated or none."""
    width = data.draw(st.integers(1, 9))
    numbers = st.lists(st.integers(0, width - 1), unique=True)
    listed = data.draw(st.lists(st.tuples(st.integers(-1, 2), numbers, numbers), min_size=1))
    rows = np.array(data.draw(st.lists(st.integers(0, len(listed) - 1))), np.int64)
    labels = Labels(data_set(listed, width, ("x", "y", "z")), BOTH)
    targets = labels(rows)
    assert targets.attributes.shape == targets.known.shape == (len(rows), width)
    for place, row in enumerate(rows.tolist()):
        label, positive, unknown = listed[row]
        assert targets.category[place] == label
        assert targets.attributes[place].nonzero()[:, 0].tolist() == sorted(positive)
        assert (~targets.known[place]).nonzero()[:, 0].tolist() == sorted(unknown)
    wanted = [r for r in rows.tolist() if listed[r][0] >= 0 or len(listed[r][2]) < width]
    assert labels.usable(rows).tolist() == wanted


def test_balanced_weights():
    """scikit-learn's "balanced": all classes that occur weigh the same, the mean item 1."""
    shards = data_set([(label, (), ()) for label in [0] * 6 + [2] * 3 + [-1] * 5 + [3]], 0, "abcd")
    counts = Labels(shards, ("category",)).class_counts(np.arange(len(shards)))
    assert counts.tolist() == [6, 0, 3, 1]
    weights = balanced_weights(counts)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([10 / 18, 0, 10 / 9, 10 / 3])
    assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(counts.sum())
    assert balanced_weights(np.zeros(3, np.int64)).tolist() == [0, 0, 0]


def test_a_data_set_without_attributes():
    """Attributes cannot be learnt where there are none; one line says what to do."""
    with (
        open_shards(SAMPLE) as shards,
        pytest.raises(SourceError, match="has no attributes.*--task") as error,
    ):
        Labels(shards, BOTH)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("row", [(0, (5,), ()), (0, (), (7,))])
def test_an_index_of_other_attributes(row):
    """An index that counts in more attributes than there are is refused, not wrapped round."""
    with pytest.raises(ShardError, match="of 5"):
        Labels(data_set([row], 5), ("attributes",))
