"""A model that lies elsewhere, fetched to this disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fashionbatch.address import Address, Location
from fashionbatch.errors import ModelError, UsageError
from fashionbatch.models.card import CARD, WEIGHTS, load_card
from fashionbatch.remote.mirror import Mirror
from fashionbatch.remote.trouble import ChangedError, MissingError


def here(model: Location, beside: Sequence[str] = ()) -> Path:
    """Where a model lies on this disk: the folder itself, or the copy of what lies at an address.

    Args:
        model: folder of a run; the address may also name the card or the weights in it.
        beside: as of :func:`fetch`.

    Raises:
        UsageError: there is none at an address.
        ModelError: what lies there is damaged, or changed.
        RemoteError: a host cannot be reached, or refuses.

    Example:
        >>> here(located("s3://bucket/runs/mine"))  # doctest: +SKIP
        PosixPath('/home/me/.cache/fashionbatch/remote/folders/5f0c.../mine')
    """
    if isinstance(model, Path):
        return model
    try:
        return fetch(model, beside)
    except MissingError as error:
        raise UsageError(f"--model {model}: there is no such run ({error})") from None


def fetch(model: Address, beside: Sequence[str] = ()) -> Path:
    """The copy on this disk of the model at an address.

    Args:
        model: of a run, or of the card or the weights in it.
        beside: names of other files that are wanted, where they are there.

    Raises:
        MissingError: there is none.
        ModelError: what lies there is damaged, or changed.
        RemoteError: a host cannot be reached, or refuses.
    """
    folder = model.parent if model.path.endswith((f"/{CARD}", f"/{WEIGHTS}")) else model
    mirror = Mirror(folder, CARD)
    try:
        mirror.file(WEIGHTS, load_card(mirror.folder).sha256)
    except (ModelError, ChangedError, MissingError) as error:
        # what is said of the copy is meant of what it was copied from
        raise ModelError(str(error).replace(str(mirror.folder), str(folder))) from None
    for name in beside:
        mirror.loose(name)
    return mirror.folder
