"""A saved model: ``model.safetensors`` and its card ``model.json``, which carries all the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from fashionbatch import __version__, files, plugins
from fashionbatch.errors import ModelError, UnknownNameError
from fashionbatch.models.build import Classifier, build, find_backbone
from fashionbatch.sources import Attribute
from fashionbatch.specs import HeadSpec, Preprocessing

WEIGHTS = "model.safetensors"
CARD = "model.json"
FORMAT = "fashionbatch-model"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model must carry so that it can be used without asking anyone.

    Attributes:
        backbone: name, provider and version.
        head: widths and dropout.
        bottleneck: layer that the backbone ends with, or ``None`` for its own end.
        temperature: what divides the category's logits, so that probabilities mean what they say;
            1 until ``evaluate --calibrate`` has fitted one.
        classes: the vocabulary; logit ``i`` is ``classes[i]``. Empty where no category is learnt.
        attributes: names and types, in the order of the attributes' logits. Empty likewise.
        tasks: what it has learnt: ``"category"``, ``"attributes"``, or both.
        preprocessing: what fits and normalizes its input.
        metrics: of the best epoch, per split.
        lineage: data, weights, recipe and code that it was made from.
        sha256: of the weights' file.
    """

    backbone: Mapping[str, str]
    head: HeadSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    attributes: tuple[Attribute, ...] = ()
    tasks: tuple[str, ...] = ("category",)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    bottleneck: str | None = None
    temperature: float = 1.0
    sha256: str = ""

    def __post_init__(self) -> None:
        answers = {"category": self.classes, "attributes": self.attributes}
        if set(self.tasks) != {task for task, names in answers.items() if names}:
            raise ValueError(
                f"{len(self.classes)} classes and {len(self.attributes)} attributes are not of "
                f"the tasks {', '.join(self.tasks)}"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"format": FORMAT, "format_version": VERSION, **asdict(self)}


def save(folder: Path, model: Classifier, card: ModelCard) -> ModelCard:
    """Writes weights, then card, each atomically.

    Returns:
        the card with the weights' hash in it.
    """
    weights = folder / WEIGHTS
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with files.atomic(weights) as temporary:
        safetensors.torch.save_file(state, temporary)
    card = ModelCard(**{**vars(card), "sha256": files.sha256(weights)})
    files.write_json(folder / CARD, card.to_json())
    return card


def calibrate(folder: Path, temperature: float) -> None:
    """Stores a temperature with a saved model.

    Raises:
        ModelError: there is no model, or it is damaged.
    """
    card = replace(load_card(folder), temperature=temperature)
    files.write_json(folder / CARD, card.to_json())


def load_card(folder: Path) -> ModelCard:
    """Reads ``model.json``.

    Raises:
        ModelError: it is missing, damaged or of another format.
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no trained model ({CARD} is missing): name a finished run"
        )
    try:
        values = json.loads(path.read_bytes())
        if values.pop("format") != FORMAT or values.pop("format_version") != VERSION:
            raise ModelError(f"{path} is of another version of {FORMAT}; this one reads {VERSION}")
        head = values.pop("head")
        return ModelCard(
            **{
                **values,
                "head": HeadSpec(hidden=tuple(head["hidden"]), dropout=head["dropout"]),
                "classes": tuple(values["classes"]),
                "attributes": tuple(Attribute(**a) for a in values["attributes"]),
                "tasks": tuple(values["tasks"]),
                "preprocessing": Preprocessing.from_json(values["preprocessing"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({error}): train the model again") from error


def load(folder: Path) -> tuple[Classifier, ModelCard]:
    """A trained model in evaluation mode, and its card.

    Raises:
        ModelError: it is damaged, or the package of its backbone is not installed.
    """
    card = load_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or files.sha256(weights) != card.sha256:
        raise ModelError(
            f"{weights} is not the file that {CARD} was written for (SHA-256): "
            "restore it or train the model again"
        )
    name, provider = card.backbone["name"], card.backbone["provider"]
    needs = f"{folder} needs backbone {name!r} of the package {provider} {card.backbone['version']}"
    installed = [p for p in plugins.discover() if p.distribution == provider]
    if not installed:
        raise ModelError(f"{needs}: pip install {provider}")
    if not any(p.status == "ok" for p in installed):
        causes = (f"plugin {p.name} is {p.status}: {p.error or p.disabled}" for p in installed)
        raise ModelError(f"{needs} ({'; '.join(causes)})")
    try:
        component, _ = find_backbone(f"{provider}:{name}")
    except UnknownNameError as error:
        raise ModelError(f"{folder} needs backbone {name!r} of {provider}: {error}") from error
    model = build(
        component,
        card.preprocessing,
        card.head,
        len(card.classes),
        len(card.attributes),
        card.bottleneck,
    )
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except Exception as error:  # the hash fits, so the backbone's code is not what it was
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(
            f"{folder} does not fit backbone {name!r} of the installed {provider} "
            f"({reason.strip()}): install version {card.backbone['version']}"
        ) from error
    return model.eval(), card


def code_version() -> dict[str, str]:
    """Versions that a result depends on: fashionbatch's and torch's."""
    import torch

    return {"fashionbatch": __version__, "torch": torch.__version__}
