"""A classifier: normalization, a backbone from a plugin, and a head."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fashionbatch import files, registry
from fashionbatch.errors import ModelError, PluginError, UnknownNameError, UsageError
from fashionbatch.models.truncate import truncate
from fashionbatch.parse import parse_bottleneck
from fashionbatch.registry import Component
from fashionbatch.specs import BackboneSpec, HeadSpec, Preprocessing

#: torchvision's and torch.hub's file names end with the first digits of their SHA-256
_HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$")


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: float ``[N, classes]``, of the category.
        attributes: float ``[N, A]``, of each attribute on its own.
        bottleneck: float ``[N, D]``, what the head gets.
        dense: the output of each dense layer of the head, ReLU applied; of the last one, logits and
            attributes together.
    """

    logits: Tensor
    attributes: Tensor
    bottleneck: Tensor
    dense: tuple[Tensor, ...]


class Head(nn.Module):
    """Dense layers with ReLU, dropout, and a last dense layer to the classes and attributes.

    Args:
        inputs: width ``D`` of the bottleneck.
        classes: how many; 0 where only attributes are learnt.
        spec: widths and dropout.
        attributes: how many.
    """

    def __init__(self, inputs: int, classes: int, spec: HeadSpec, attributes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.outputs = classes + attributes
        widths = (inputs, *spec.hidden, self.outputs)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = nn.Dropout(spec.dropout)

    @property
    def kernels(self) -> list[Tensor]:
        """The weight matrix of each dense layer, biases left out."""
        return [layer.weight for layer in self.dense]  # type: ignore[misc]  # all are nn.Linear

    def forward(self, bottleneck: Tensor) -> Outputs:
        """``[N, D]`` → :class:`Outputs`."""
        outputs = []
        values = bottleneck
        for layer in self.dense[:-1]:
            values = torch.relu(layer(values))
            outputs.append(values)
        last = self.dense[-1](self.dropout(values))
        # a slice of all columns is not free: its gradient is a copy
        logits = last if self.classes == self.outputs else last[:, : self.classes]
        attributes = last[:, self.classes :]
        return Outputs(logits, attributes, bottleneck, (*outputs, last))


class Classifier(nn.Module):
    """Takes pixels as they are, so that no one can normalize twice or otherwise.

    Args:
        backbone: float32 ``[N, 3, H, W]``, normalized → float ``[N, D]``.
        head: of the same ``D``.
        preprocessing: mean and std; the caller fits images to its size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: Head, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preprocessing, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 or float ``[N, 3, H, W]`` on the scale 0..255 → float32, for the backbone."""
        return normalized(images, self.mean, self.std)

    def bottleneck(self, images: Tensor) -> Tensor:
        """uint8 or float ``[N, 3, H, W]`` on the scale 0..255 → float ``[N, D]``."""
        features: Tensor = self.backbone(self.normalized(images))
        return features

    def forward(self, images: Tensor) -> Outputs:
        """uint8 or float ``[N, 3, H, W]`` on the scale 0..255 → :class:`Outputs`."""
        outputs: Outputs = self.head(self.bottleneck(images))
        return outputs


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 or float ``[N, 3, H, W]`` on the scale 0..255 → float32, for a backbone.

    Args:
        images: the pixels.
        mean: ``[1, 3, 1, 1]``, on the scale 0..1.
        std: likewise.
    """
    return (images.float() / 255 - mean) / std


def hash_of(state: Mapping[str, Tensor]) -> str:
    """Stands for weights by name, 64 hexadecimal digits."""
    return files.fingerprint(
        {
            name: hashlib.sha256(
                np.ascontiguousarray(v.detach().cpu().numpy()).tobytes()
            ).hexdigest()
            for name, v in state.items()
        }
    )


def find_backbone(name: str) -> tuple[Component, BackboneSpec]:
    """The installed backbone of a name.

    Raises:
        UnknownNameError: there is none; names the nearest.
    """
    component = registry.find("backbone", name)
    assert isinstance(component.spec, BackboneSpec)
    return component, component.spec


def build(
    component: Component,
    preprocessing: Preprocessing,
    head: HeadSpec,
    classes: int,
    attributes: int = 0,
    bottleneck: str | None = None,
) -> Classifier:
    """A classifier with random weights, in evaluation mode.

    Args:
        component: the backbone.
        preprocessing: its input.
        head: on top of it.
        classes: how many.
        attributes: how many.
        bottleneck: layer that the backbone is to end with, ``NAME[:avg|flatten]``.

    Raises:
        UsageError: the backbone cannot take images of that size, or end with that layer.
        PluginError: the backbone does not keep its contract.
    """
    backbone: nn.Module = registry.create(component).eval()
    name = component.spec.name
    side = preprocessing.size
    if bottleneck is not None:
        backbone = truncate(backbone, name, *parse_bottleneck(bottleneck))
    try:
        with torch.inference_mode():
            features = backbone(torch.zeros(1, 3, side, side))
    except Exception as error:  # whatever a network raises on a size it was not made for
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"backbone {name!r} cannot take {side} x {side} images "
            f"({reason[0] if reason else type(error).__name__}): choose another --img-size"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = list(getattr(features, "shape", []))
        if bottleneck is not None:
            raise UsageError(
                f"--bottleneck {bottleneck}: this layer gives {shape}, which no head can take: "
                "choose another one, or add :flatten"
            )
        raise PluginError(
            f"backbone {name!r} of {component.provider} gives {shape}, not [N, D]: tell its author"
        )
    backbone = backbone.to(memory_format=torch.channels_last)
    made = Head(features.shape[1], classes, head, attributes)
    return Classifier(backbone, made, preprocessing).eval()


def default_weights(spec: BackboneSpec) -> str:
    """The weight set that a backbone begins with where the user names none: its first.

    Raises:
        UsageError: it has none.
    """
    if not spec.weights:
        raise UsageError(
            f"{spec.name!r} comes without weights: begin with random ones, --weights none, "
            "or name a file"
        )
    return next(iter(spec.weights))


def load_weights(backbone: nn.Module, spec: BackboneSpec, weights: str) -> str:
    """Fills a backbone.

    Args:
        backbone: as the spec's factory made it.
        spec: names the weight sets there are.
        weights: ``none``, one of the spec's weight sets, or a file: safetensors, or a
            ``state_dict`` saved by torch (read without running code). A run's folder stands for
            its model.

    Returns:
        what was loaded, for the model's lineage.

    Raises:
        UsageError: no such weight set or file.
        ModelError: the file is damaged, or of another network.
    """
    if weights == "none":
        return "none"
    if weights in spec.weights:
        state = registry.resolve(spec.weights[weights], requires=spec.requires)()
        origin = weights
    else:
        path = Path(weights)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            if path.suffix or path.parent != Path():
                raise UsageError(f"--weights {weights}: there is no such file")
            default_weights(spec)  # says so where there are none
            raise UnknownNameError(
                f"weight set of {spec.name!r}", weights, ["none", *spec.weights], "or name a file"
            )
        state = _read_weights(path)
        origin = f"{path.name} (SHA-256 {files.sha256(path)})"
    _fill(backbone, state, f"{weights!r}", spec.name)
    return origin


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    found = _HASHED_NAME.search(path.name)
    if found and not files.sha256(path).startswith(found.group(1)):
        raise ModelError(
            f"{path} is damaged (its SHA-256 is not the one in its name): fetch it again"
        )
    try:
        if path.suffix == ".safetensors":
            state: Mapping[str, Tensor] = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types on foreign bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ModelError(
            f"{path} is not a file of weights ({reason}): pass safetensors or a saved state_dict"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state_dict: pass safetensors or a saved state_dict")
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return own or state


def _fill(backbone: nn.Module, state: Mapping[str, Tensor], origin: str, name: str) -> None:
    expected = backbone.state_dict()
    # num_batches_tracked is younger than many published files and unused at our momentum
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"weights {origin} are not of {name!r}: {len(missing)} of {len(expected)} tensors are "
            f"missing, {missing[0]!r} first"
        )
    kept = {k: v for k, v in state.items() if k in expected}  # the classifier's are left out
    wrong = [k for k, v in kept.items() if v.shape != expected[k].shape]
    if wrong:
        raise ModelError(
            f"weights {origin} are not of {name!r}: {wrong[0]!r} is {list(kept[wrong[0]].shape)}, "
            f"not {list(expected[wrong[0]].shape)}"
        )
    backbone.load_state_dict(kept, strict=False)
