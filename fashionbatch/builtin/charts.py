"""Pictures of how a training went and of what a prediction file holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fashionbatch.drawing.cells import cell
from fashionbatch.drawing.lettering import legible
from fashionbatch.errors import UsageError
from fashionbatch.explanation.base import Photo, Picture, Subject, Visualizer
from fashionbatch.reporting.embedding import POINTS, embed
from fashionbatch.store.answers import Answers, answers_of, most_mistaken
from fashionbatch.store.reader import Predictions
from fashionbatch.training import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_NAME = 22  # characters of a class
#: classes of a confusion matrix that has numbers in its cells, and of any
_NUMBERED, _CLASSES = 25, 60
#: Okabe & Ito 2008
_BLUE, _VERMILION, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


class Curves(Visualizer):
    """Loss, accuracies and learning rate of the model's training, epoch by epoch."""

    def draw(self, explained: Subject, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        _no_photos("curves", photos)
        if explained.run is None:
            raise UsageError("curves are of a run: name it with --model")
        history = curves.load_history(explained.run / curves.HISTORY)
        if not history:
            raise UsageError(f"{explained.run} has no {curves.HISTORY}: it has trained no epoch")
        best = curves.best_epoch(history)
        figure = curves.draw(history, explained.run.name, best_epoch=best)
        yield Picture(name="curves", image=_image(figure), about={"Epochs": str(len(history))})


class Confusion(Visualizer):
    """What is taken for what: rows are labels, columns predictions.

    A cell's shade is its share of the label. Of over 60 classes those with the most mistakes are
    drawn.

    Args:
        normalize: shares in percent in place of counts.
    """

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def draw(self, explained: Subject, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        _no_photos("confusion", photos)
        predictions, answers = _known(explained)
        known = answers.labels >= 0
        matrix = np.zeros((len(predictions.classes),) * 2, np.int64)
        np.add.at(matrix, (answers.labels[known], answers.predicted[known]), 1)
        shown, left = most_mistaken(matrix, _CLASSES)
        support = matrix.sum(axis=1, keepdims=True)
        shares = matrix / np.maximum(support, 1)
        right = int(np.diag(matrix).sum()) / int(known.sum())
        title = f"{predictions.path.name}: {right:.1%} of {int(known.sum()):,} right"
        if left:
            title += f"; the {len(shown)} of {len(shown) + left} classes with the most mistakes"
        pick = np.ix_(shown, shown)
        figure = _matrix(
            matrix[pick], shares[pick], [predictions.classes[i] for i in shown], title,
            percent=self.normalize,
        )  # fmt: skip
        about = {"Right": f"{right:.4f}", "Items": str(int(known.sum()))}
        yield Picture(name="confusion", image=_image(figure), about=about)


class Histograms(Visualizer):
    """Items by label, by prediction (both with a logarithmic axis), and by probability."""

    def draw(self, explained: Subject, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        from matplotlib.figure import Figure  # slow to import

        _no_photos("histograms", photos)
        predictions = _file(explained)
        answers = answers_of(predictions)
        count = len(predictions.classes)
        known = answers.labels >= 0
        predicted = np.bincount(answers.predicted, minlength=count)
        order = np.argsort(-predicted, kind="stable")[:_CLASSES]
        names = [predictions.classes[i] for i in order]
        wide = max(7.0, 2 + 0.3 * len(order))
        figure = Figure(figsize=(wide + 6, 5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(wide, 6))
        places = np.arange(len(order))
        if known.any():
            labelled = np.bincount(answers.labels[known], minlength=count)
            left.bar(places - 0.2, labelled[order], 0.4, color=_BLUE, label="labelled")
            left.bar(places + 0.2, predicted[order], 0.4, color=_VERMILION, label="predicted")
        else:
            left.bar(places, predicted[order], 0.7, color=_VERMILION, label="predicted")
        left.set_yscale("log")
        left.set_ylim(bottom=0.7)  # a bar of one item has a height
        left.yaxis.set_major_formatter("{x:,.0f}")
        left.set_ylabel("items (log scale)")
        _names(left, names)
        more = f", the {len(order)} most predicted of {count}" if len(order) < count else ""
        left.set_title(f"{predictions.path.name}: classes{more}", loc="left", parse_math=False)
        left.legend(fontsize="small")
        _confidence(right, answers)
        yield Picture(name="histograms", image=_image(figure))


class Embedding(Visualizer):
    """Photographs on a map on which those that the network takes for alike lie side by side.

    The places are of t-SNE (van der Maaten & Hinton 2008) where scikit-learn is installed, else the
    first two principal components. Of over 2,000 rows so many are drawn at random.

    Args:
        seed: of the draw and of the layout.
        pictures: lay photographs on the map where there is room, in frames of their class's colour.
    """

    def __init__(self, seed: int = 0, pictures: bool = True) -> None:
        self.seed = seed
        self.pictures = pictures

    def draw(self, explained: Subject, photos: Sequence[Photo]) -> Iterator[Picture]:
        """See :class:`fashionbatch.Visualizer`."""
        from matplotlib.figure import Figure  # slow to import

        _no_photos("embedding", photos)
        predictions = _file(explained)
        if len(predictions) < 3:
            raise UsageError(f"{predictions.path} has {len(predictions)} rows: too few for a map")
        features = predictions.features(predictions.layers[0] if predictions.layers else None)
        found = embed(features, np.arange(len(predictions)), self.seed)
        answers = answers_of(predictions)
        known = bool((answers.labels >= 0).any())
        classes = (answers.labels if known else answers.predicted)[found.rows]
        colours = _colours(len(predictions.classes))
        figure = Figure(figsize=(14, 10), layout="constrained")
        axes = figure.add_subplot()
        for number in sorted(set(classes.tolist())):
            mine = found.places[classes == number]
            name = "not known" if number < 0 else legible(predictions.classes[number], _NAME)
            colour = _GREY if number < 0 else colours[number]
            axes.scatter(mine[:, 0], mine[:, 1], 14, color=colour, label=name, linewidths=0)
        axes.set(xticks=[], yticks=[], xlim=(-0.03, 1.03), ylim=(1.03, -0.03))
        axes.legend(
            loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", markerscale=2,
            ncols=1 + len(set(classes.tolist())) // 40,
        )  # fmt: skip
        of = "labels" if known else "predictions"
        some = f" (a draw of {POINTS:,})" if len(predictions) > POINTS else ""
        axes.set_title(
            f"{predictions.path.name}: {found.method} of {found.rows.size:,} items{some}, "
            f"colours are {of}",
            loc="left", parse_math=False,
        )  # fmt: skip
        if self.pictures and explained.catalogue is not None:
            _photographs(axes, explained, found.rows, found.places, classes, colours)
        yield Picture(name="embedding", image=_image(figure), about={"Method": found.method})


def _file(explained: Subject) -> Predictions:
    predictions = explained.predictions
    assert predictions is not None  # the specs say that it is needed
    if not predictions.classes:
        raise UsageError(f"{predictions.path} is of a model that learnt no category")
    return predictions


def _known(explained: Subject) -> tuple[Predictions, Answers]:
    predictions = _file(explained)
    answers = answers_of(predictions)
    if not (answers.labels >= 0).any():
        raise UsageError(f"{predictions.path}: of no item the class is known")
    return predictions, answers


def _matrix(
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    names: Sequence[str],
    title: str,
    *,
    percent: bool,
) -> Figure:
    from matplotlib.figure import Figure  # slow to import

    side = max(6.0, 2.5 + 0.38 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                share = shares[row, column]
                text = f"{100 * share:.0f}" if percent else f"{count:,}"
                colour = "white" if share > 0.55 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    _names(axes, names)
    axes.set_yticks(range(len(names)), [legible(n, _NAME) for n in names], parse_math=False)
    axes.tick_params("y", labelsize=9 if len(names) <= _NUMBERED else 6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled" + (" (percent of the label)" if percent else ""))
    axes.set_title(title, loc="left", fontsize="medium", parse_math=False)
    return figure


def _confidence(axes: Axes, answers: Answers) -> None:
    known = answers.labels >= 0
    parts: list[tuple[str, str, npt.NDArray[np.bool_]]] = [
        ("right", _GREEN, known & ~answers.wrong),
        ("wrong", _VERMILION, answers.wrong),
        ("class not known", _GREY, ~known),
    ]
    shown = [part for part in parts if part[2].any()]
    axes.hist(
        [answers.confidence[chosen] for _, _, chosen in shown],
        bins=np.linspace(0, 1, 21).tolist(), stacked=True,
        color=[colour for _, colour, _ in shown], label=[name for name, _, _ in shown],
    )  # fmt: skip
    axes.set_xlabel("probability of the predicted class")
    axes.set_title("how sure the model is", loc="left")
    axes.legend(fontsize="small", loc="upper left")


def _no_photos(name: str, photos: Sequence[Photo]) -> None:
    if photos:
        raise UsageError(f"{name} is of a run or a prediction file: name no images")


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Class names below an axis."""
    axes.set_xticks(range(len(names)), [legible(n, _NAME) for n in names], parse_math=False)
    axes.tick_params("x", rotation=90, labelsize=9 if len(names) <= _NUMBERED else 6)


def _colours(count: int) -> list[Any]:
    """One for each class; neighbours in the list are far apart in hue."""
    import matplotlib  # slow to import

    wheel = matplotlib.colormaps["hsv"]
    return [wheel((i * 0.618034) % 1.0, alpha=1) for i in range(count)]


def _photographs(
    axes: Axes,
    explained: Subject,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    colours: Sequence[Any],
) -> None:
    """As many as fit without lying on each other."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    assert explained.catalogue is not None
    room = np.array([0.04, 0.055])
    taken = np.empty((0, 2))
    for row, place, number in zip(rows.tolist(), places, classes.tolist(), strict=True):
        if (np.abs(taken - place) < room).all(axis=1).any():
            continue
        taken = np.vstack([taken, place])
        small = cell(explained.catalogue.read(row), 64)
        if isinstance(small, str):
            continue
        box = AnnotationBbox(
            OffsetImage(np.asarray(small), zoom=0.5), place.tolist(), pad=0.12,
            bboxprops={"edgecolor": _GREY if number < 0 else colours[number], "linewidth": 1.5},
        )  # fmt: skip
        axes.add_artist(box)


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return Image.open(buffer).convert("RGB")
