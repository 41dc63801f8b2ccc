"""What a plugin hands over: frozen descriptions of components, never the components themselves.

A spec is a name, a factory and what its kind needs. The factory is a callable or, better, an
import string ``"package.module:attribute"`` that is resolved when the component is used: listing
every installed component imports none of them. Nothing here imports torch.

A field that is added later has a default, so that specs of older plugins stay as they are; each
says since which version it is there.

Signatures of the factories:

==================  ============================================================================
kind                ``factory(...)`` returns
==================  ============================================================================
backbone            ``factory()`` → ``torch.nn.Module`` with random weights, no classifier:
                    float32 ``[N, 3, H, W]`` (normalized) → float ``[N, D]``, the bottleneck
optimizer           ``factory(params, lr=..., **options)`` → ``torch.optim.Optimizer``
regularizer         ``factory(**options)`` → :class:`fashionbatch.Regularizer`
schedule            ``factory(epochs, **options)`` → ``f(epoch: float) -> float``, the factor on
                    the learning rate; ``epoch`` counts from 0 and has fractions within an epoch
                    (or a :class:`fashionbatch.Schedule`, where it looks at how training goes)
visualizer          ``factory(**options)`` → :class:`fashionbatch.Visualizer`
logger              ``factory(folder, **options)`` → :class:`fashionbatch.Logger`
source              ``factory(path, **options)`` → :class:`fashionbatch.Source`
engine              ``factory(job, **options)`` → :class:`fashionbatch.Engine`
==================  ============================================================================
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Factory: TypeAlias = str | Callable[..., Any]
CropMode: TypeAlias = Literal["center", "squash", "letterbox"]
Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
MapLayout: TypeAlias = Literal["NCHW", "NHWC", "tokens"]

#: of a data set; a split's number is its position here
SPLITS: tuple[str, ...] = ("train", "val", "test")
CROP_MODES: tuple[str, ...] = ("center", "squash", "letterbox")
INTERPOLATIONS: tuple[str, ...] = ("bilinear", "bicubic", "nearest")
MAP_LAYOUTS: tuple[str, ...] = ("NCHW", "NHWC", "tokens")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes a network's input.

    Attributes:
        size: height and width of the input, in pixels.

            .. versionadded:: 0.1
        resize: length of the shorter side before the centre crop, in pixels (``center`` only).

            .. versionadded:: 0.1
        crop_mode: ``center`` keeps the aspect and cuts a centred square; ``squash`` stretches;
            ``letterbox`` keeps all of it, on black.

            .. versionadded:: 0.1
        interpolation: filter of the resize; antialiased.

            .. versionadded:: 0.1
        mean: per channel, on the scale 0..1.

            .. versionadded:: 0.1
        std: per channel, on the scale 0..1.

            .. versionadded:: 0.1
    """

    size: int = 224
    resize: int = 256
    crop_mode: CropMode = "letterbox"
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize < 1:
            raise ValueError(f"size and resize are at least 1, not {self.size} and {self.resize}")
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode is one of {', '.join(CROP_MODES)}, not {self.crop_mode!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}"
            )

    def with_size(self, size: int) -> Preprocessing:
        """The same at another input size; the ratio of resize to size is kept."""
        return dataclasses.replace(self, size=size, resize=round(self.resize * size / self.size))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; :meth:`from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From :meth:`to_json`'s values."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The classifier on top of the bottleneck: dense layers with ReLU, dropout, then the classes.

    Attributes:
        hidden: width of each dense layer before the last; empty for a linear head.

            .. versionadded:: 0.1
        dropout: probability, in front of the last layer.

            .. versionadded:: 0.1
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths are at least 1, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every component has.

    Attributes:
        name: lower case letters, digits, ``.``, ``_`` and ``-``; what the user types.

            .. versionadded:: 0.1
        factory: a callable or ``"package.module:attribute"``; see the module's table.

            .. versionadded:: 0.1
        summary: one line for ``fashionbatch plugins show``.

            .. versionadded:: 0.1
        requires: what to install when the factory cannot be imported, such as
            ``"pip install fashionbatch-timm"``.

            .. versionadded:: 0.1
    """

    name: str
    factory: Factory
    summary: str
    requires: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{type(self).__name__}.name is lower case letters, digits, '.', '_' and '-', "
                f"not {self.name!r}"
            )
        if isinstance(self.factory, str):
            module, colon, attribute = self.factory.partition(":")
            if not (module and colon and attribute):
                raise ValueError(
                    f"{type(self).__name__}({self.name!r}).factory is a callable or "
                    f"'package.module:attribute', not {self.factory!r}"
                )
        elif not callable(self.factory):
            raise ValueError(f"{type(self).__name__}({self.name!r}).factory is not callable")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A network without its classifier.

    Attributes:
        preprocessing: what its weights were trained with.

            .. versionadded:: 0.1
        blocks: patterns of module names from input to output, such as ``("layer1.*",)``; ``*`` and
            ``?`` match within one dotted segment. Each matched module that has parameters is one
            block of ``--unfreeze blocks:N``, counted from the output.

            .. versionadded:: 0.1
        cam_layer: the module whose output is the last spatial map that the answer depends on
            (Grad-CAM). Behind a transformer's last block only the class token may count: name a
            layer in front of its attention then.

            .. versionadded:: 0.1
        cam_layout: how that output lies: ``NCHW`` is ``[N, C, h, w]``; ``NHWC`` is
            ``[N, h, w, C]``, as in Swin; ``tokens`` is ``[N, T, C]``, as in ViT, those of the
            square map last, row by row, behind a class token or others.

            .. versionadded:: 0.1
        head: the head it gets unless the user asks for another.

            .. versionadded:: 0.1
        weights: from the name of a weight set (``"imagenet"``) to ``"package.module:attribute"``
            or a callable, which returns a ``state_dict`` for the factory's module or raises
            ``fashionbatch.errors.ModelError`` naming the file to fetch. The first is the default.

            .. versionadded:: 0.1
        inputs: by the name of a weight set, what it was trained with where that is not
            ``preprocessing``.

            .. versionadded:: 0.1
        parameters: how many, in millions, as published; 0 where it is not stated.

            .. versionadded:: 0.1
        shown_layers: names of modules that ``explain activations`` shows unless the user names
            others; without any, four of the blocks and ``cam_layer``.

            .. versionadded:: 0.1
    """

    preprocessing: Preprocessing
    blocks: tuple[str, ...]
    cam_layer: str
    cam_layout: MapLayout = "NCHW"
    head: HeadSpec = HeadSpec()
    weights: Mapping[str, Factory] = field(default_factory=dict)
    inputs: Mapping[str, Preprocessing] = field(default_factory=dict)
    parameters: float = 0.0
    shown_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks:
            raise ValueError(f"BackboneSpec({self.name!r}).blocks is empty: name at least one")
        if self.cam_layout not in MAP_LAYOUTS:
            raise ValueError(
                f"BackboneSpec({self.name!r}).cam_layout is one of {', '.join(MAP_LAYOUTS)}, "
                f"not {self.cam_layout!r}"
            )
        unknown = [name for name in self.inputs if name not in self.weights]
        if unknown:
            raise ValueError(
                f"BackboneSpec({self.name!r}).inputs names {unknown[0]!r}, which is none of its "
                "weights"
            )

    def input_of(self, weights: str) -> Preprocessing:
        """What a weight set was trained with; for ``none`` and files, ``preprocessing``."""
        return self.inputs.get(weights, self.preprocessing)


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """An optimizer.

    One that has ``train()`` and ``eval()``, as schedule-free ones do, is told when to put the
    weights to be validated and saved into the parameters.

    Attributes:
        options: which of the common options ``momentum`` and ``weight_decay`` the factory takes;
            others are passed as the user gives them with ``--opt-kwargs``.

            .. versionadded:: 0.1
    """

    options: tuple[str, ...] = ("weight_decay",)


@dataclass(frozen=True, kw_only=True)
class RegularizerSpec(Spec):
    """Something that tempers training; see :class:`fashionbatch.Regularizer` for its methods.

    Attributes:
        needs_landmarks: whether the targets of training must have the images' landmarks, see
            :attr:`fashionbatch.Targets.landmarks`; they are read where one needs them only.

            .. versionadded:: 0.1
    """

    needs_landmarks: bool = False


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(Spec):
    """A learning-rate schedule."""


@dataclass(frozen=True, kw_only=True)
class LoggerSpec(Spec):
    """Something that is told how a training goes; see :class:`fashionbatch.Logger`."""


@dataclass(frozen=True, kw_only=True)
class VisualizerSpec(Spec):
    """Pictures that show why; see :class:`fashionbatch.Visualizer` for its methods.

    Attributes:
        needs_images: whether images must be named; one that does not is called with none of them
            where the user names none.

            .. versionadded:: 0.1
        needs_predictions: whether a prediction file must be named, see
            :attr:`fashionbatch.Explained.predictions`.

            .. versionadded:: 0.1
        needs_model: whether it runs the model; one that does not gets a
            :class:`fashionbatch.Subject`, and draws a prediction file whose model is elsewhere.

            .. versionadded:: 0.1
    """

    needs_images: bool = True
    needs_predictions: bool = False
    needs_model: bool = True


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Spec):
    """Something that runs a network fast; see :class:`fashionbatch.Engine`.

    Attributes:
        devices: types of torch devices that it runs on.

            .. versionadded:: 0.1
        missing: a callable or import string, ``missing(device: str) -> str | None``: why the engine
            cannot run on this machine, in a few words, or ``None``. Must be quick.

            .. versionadded:: 0.1
        preparation: seconds that it takes before the first batch, as a rule: what ``--engine auto``
            weighs against the time that the engine saves.

            .. versionadded:: 0.1
        automatic: whether ``--engine auto`` may take it; one that is not is taken by its name only.

            .. versionadded:: 0.1
    """

    devices: tuple[str, ...] = ("cpu", "cuda")
    missing: Factory | None = None
    preparation: float = 0.0
    automatic: bool = True


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec(Spec):
    """Something that has workers do the work; see :class:`fashionbatch.Executor`."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Spec):
    """A kind of catalogue.

    Attributes:
        detect: a callable or import string, ``detect(path: pathlib.Path) -> bool``: can this
            source read what lies at the path? Asked without ``--source``; must be quick.

            .. versionadded:: 0.1
        generic: it reads anything of this shape, and gives way to sources that recognize more.

            .. versionadded:: 0.1
        addresses: it reads what lies on object stores and web servers too: ``detect`` and the
            source get a path, or an address, whose text is its ``url``.

            .. versionadded:: 0.1
    """

    detect: Factory
    generic: bool = False
    addresses: bool = False
