"""What a network says of a batch → columns of the store, and which rows must not be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashionbatch.config import PredictConfig
from fashionbatch.errors import ImageError
from fashionbatch.models.card import ModelCard
from fashionbatch.models.features import NONE
from fashionbatch.models.threads import pieces
from fashionbatch.store.merge import ATTRIBUTE_DTYPE, ATTRIBUTE_PROBABILITY

_FLOAT16_MOST = float(np.finfo(np.float16).max)

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Turns the tensors of :class:`fashionbatch.models.features.FeatureTap` into columns.

    Attributes:
        config: says what is stored.
        card: of the model.
        feature_shape: of one image; ``None`` where no features are stored.
    """

    config: PredictConfig
    card: ModelCard
    feature_shape: tuple[int, ...] | None

    @property
    def layout(self) -> Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]:
        """From a column's name to the shape of a row and its type."""
        config, classes = self.config, len(self.card.classes)
        best = min(config.topk, classes)
        columns: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "predictions/topk_index": ((best,), np.int32),
            "predictions/topk_probability": ((best,), np.float32),
        }
        if config.probabilities:
            columns["predictions/probability"] = ((classes,), np.float32)
        if self.card.attributes:
            columns[ATTRIBUTE_PROBABILITY] = ((len(self.card.attributes),), ATTRIBUTE_DTYPE)
        if self.feature_shape is not None:
            columns[self.features] = (self.feature_shape, config.feature_dtype)
        return columns

    @property
    def features(self) -> str:
        """Name of the features' column."""
        return f"features/{self.config.features}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's numbers on the disk."""
        return sum(
            int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            for shape, dtype in self.layout.values()
        )

    def columns(self, answers: tuple[Tensor, ...]) -> tuple[Columns, dict[int, ImageError]]:
        """Computes a batch's columns.

        Args:
            answers: logits ``[B, classes]``, attributes ``[B, A]`` and, where they are stored,
                features ``[B, ...]``; float32, on any device.

        Returns:
            the columns, of ``B`` rows each; and the places that must not be stored: NaN would read
            as class 0, an overflow as infinity.
        """
        config = self.config
        with torch.inference_mode():
            logits, attributes, *kept = answers
            finite = logits.isfinite().all(dim=1) & attributes.isfinite().all(dim=1)
            probability = (logits / self.card.temperature).softmax(dim=1)
            # stable: ties go to the lower class number, on every machine
            best, order = probability.sort(dim=1, descending=True, stable=True)
            most = min(config.topk, logits.shape[1])
            tensors = {
                "predictions/topk_index": order[:, :most].to(torch.int32),
                "predictions/topk_probability": best[:, :most],
            }
            if config.probabilities:
                tensors["predictions/probability"] = probability
            if self.card.attributes:
                tensors[ATTRIBUTE_PROBABILITY] = attributes.sigmoid().to(torch.float16)
            fits = torch.ones_like(finite)
            if config.features != NONE:
                features = kept[0]
                flat = pieces(features.flatten(1))
                finite &= torch.cat([each.isfinite().all(dim=1) for each in flat])
                if config.feature_dtype == "float16":
                    largest = torch.cat([each.abs().amax(dim=1) for each in flat])
                    fits = largest <= _FLOAT16_MOST
            columns = {name: _array(tensor) for name, tensor in tensors.items()}
            if config.features != NONE:
                dtype = getattr(torch, config.feature_dtype)
                columns[self.features] = np.concatenate(
                    [_array(each.to(dtype)) for each in pieces(features)]
                )
            reasons = _reasons(finite.cpu().numpy(), fits.cpu().numpy())
        return columns, reasons


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.contiguous().cpu().numpy()
    return array


def _reasons(finite: npt.NDArray[np.bool_], fits: npt.NDArray[np.bool_]) -> dict[int, ImageError]:
    reasons = {
        int(place): ImageError(
            "write", "a feature is too large for float16: use --feature-dtype float32"
        )
        for place in np.flatnonzero(~fits)
    }
    for place in np.flatnonzero(~finite):
        reasons[int(place)] = ImageError("model", "the network gave values that are not finite")
    return reasons
