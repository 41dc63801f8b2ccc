"""What users write in options, read: choices with options, shares, limits, lists, widths."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any

from fashionbatch.errors import UnknownNameError, UsageError
from fashionbatch.specs import SPLITS

#: how a layer's output becomes a vector; the first is the default
POOLS = ("avg", "flatten")


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """Reads ``NAME[:k=v,...]``; numbers and booleans become such.

    Example:
        >>> parse_choice("step:drop=0.5,epochs_drop=10")
        ('step', {'drop': 0.5, 'epochs_drop': 10})
    """
    found = re.fullmatch(r"((?:[^:=,]+:)?[^:=,]+?)(?::([^:]*=.*))?", text.strip())
    if not found:
        raise UsageError(f"{text!r} cannot be read: write NAME or NAME:option=value,option=value")
    name, options = found.groups()
    return name, parse_options((options or "").split(","), text)


def parse_options(pairs: list[str] | tuple[str, ...], where: str) -> dict[str, Any]:
    """Reads ``["k=v", ...]``; empty strings are passed over."""
    options: dict[str, Any] = {}
    for pair in filter(None, (p.strip() for p in pairs)):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{where!r}: {pair!r} is not option=value")
        options[name.strip().replace("-", "_")] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    if "," in text:
        return tuple(_value(part.strip()) for part in text.split(","))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def parse_split(text: str) -> dict[str, float]:
    """Reads ``train=0.8,val=0.1,test=0.1``.

    Returns:
        the share of each split, in the order written. With ``train`` they add up to 1; without it
        they are to be taken out of the source's own train split, and are below 1.
    """
    where = f"--split {text}"
    shares = parse_options(text.split(","), where)
    for name, share in shares.items():
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise UsageError(
                f"{where}: the share of {name} is {share!r}, not a number above 0 and at most 1; "
                "write it like train=0.8,val=0.1,test=0.1"
            )
    total = sum(shares.values())
    if "train" in shares and abs(total - 1) > 1e-6:
        raise UsageError(f"{where}: the shares add up to {total:g}, not to 1")
    if not shares or ("train" not in shares and total >= 1):
        raise UsageError(f"{where}: nothing is left for train")
    return {name: float(share) for name, share in shares.items()}


def parse_names(values: Sequence[str]) -> tuple[str, ...]:
    """Reads ``["a,b", "c"]``; a name with a comma is put in double quotes.

    Raises:
        UsageError: a value holds a line break.

    Example:
        >>> parse_names(["Not sure,Skip", '"coat, long"'])
        ('Not sure', 'Skip', 'coat, long')
    """
    try:
        rows = list(csv.reader(values, skipinitialspace=True))
    except csv.Error as error:
        raise UsageError(
            f"{','.join(values)!r:.200} cannot be read as names ({error}): write a,b,c in one line"
        ) from error
    return tuple(dict.fromkeys(name.strip() for row in rows for name in row if name.strip()))


def parse_limits(text: str) -> dict[str, int]:
    """Reads ``test=10000,val=10000``.

    Returns:
        the most images of each split named.
    """
    limits = parse_options(text.split(","), f"--limit-per-split {text}")
    for name, limit in limits.items():
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise UsageError(f"--limit-per-split {text}: the limit of {name} is at least 1")
    return limits


def parse_most(text: str) -> tuple[float, bool]:
    """Reads ``N`` or ``P%``.

    Returns:
        the number, and whether it is a percentage.

    Example:
        >>> parse_most("100"), parse_most("0.5%")
        ((100.0, False), (0.5, True))
    """
    number, percent, rest = text.partition("%")
    found = re.fullmatch(r"\d+(\.\d+)?" if percent else r"\d+", number.strip())
    if not found or rest or (percent and float(number) > 100):
        raise UsageError(
            f"--max-failures {text}: write a number such as 100, or a share such as 1%"
        )
    return float(number), bool(percent)


def parse_unfreeze(text: str) -> int | None:
    """Reads ``blocks:N``, ``all`` or ``none``.

    Returns:
        how many blocks to train, counted from the output; ``None`` for the whole base.
    """
    if text == "all":
        return None
    if text == "none":
        return 0
    found = re.fullmatch(r"blocks:(\d+)", text)
    if not found:
        raise UsageError(f"--unfreeze {text}: write blocks:N (such as blocks:3), all or none")
    return int(found.group(1))


def parse_bottleneck(text: str) -> tuple[str, str]:
    """Reads ``NAME[:avg|flatten]``.

    Returns:
        the layer, and how its output becomes a vector.

    Example:
        >>> parse_bottleneck("layer3"), parse_bottleneck("features.30:flatten")
        (('layer3', 'avg'), ('features.30', 'flatten'))
    """
    layer, _, pool = text.partition(":")
    if not layer or pool not in ("", *POOLS) or text.endswith(":"):
        raise UsageError(f"--bottleneck {text}: write LAYER, LAYER:avg or LAYER:flatten")
    return layer, pool or POOLS[0]


def parse_hidden(text: str) -> tuple[int, ...]:
    """Reads ``1024``, ``256,256`` or ``none``."""
    if text == "none":
        return ()
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"--head-hidden {text}: widths such as 1024 or 256,256, or none")
    return tuple(int(width) for width in text.split(","))
