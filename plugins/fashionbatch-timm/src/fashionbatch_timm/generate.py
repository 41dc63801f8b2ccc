"""Makes ``table.json`` from the installed timm: what there is, read off each network.

uv run python -m fashionbatch_timm.generate [--processes N]

Takes about 10 minutes with two processes; prints which networks are left out, and why.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import timm
from fashionbatch.specs import INTERPOLATIONS
from timm.data.config import resolve_data_config
from timm.models import PretrainedCfg

from fashionbatch_timm import structure
from fashionbatch_timm.structure import Unfit

TABLE = Path(__file__).with_name("table.json")


def row(name: str) -> list[Any]:
    """A network's row of the table.

    Returns:
        timm's module, D of its features ``[N, D]``, parameters in millions (without a classifier),
        patterns of blocks, the layer of its last map, how that lies, its input, and for each tag
        the input of its weights, timm's default first. Inputs are as of :func:`preprocessing`.

    Raises:
        Unfit: it cannot be a backbone.
    """
    own = preprocessing(_config(name))
    found = structure.read(name, own[0])
    return [
        timm.model_entrypoint(name).__module__.rpartition(".")[2],
        found.features,
        round(found.parameters / 1e6, 1),
        found.patterns,
        found.cam_layer,
        found.cam_layout,
        own,
        _tags(name),
    ]


def _tags(name: str) -> dict[str, list[Any]]:
    tags = {}
    published = [each.split(".", 1) for each in timm.list_pretrained(f"{name}.*")]
    default = _config(name).tag
    for _, tag in sorted(published, key=lambda each: each[1] != default):
        try:
            tags[tag] = preprocessing(_config(f"{name}.{tag}"))
        except Unfit:
            continue  # of another input than a backbone's
    return tags


def _config(name: str) -> PretrainedCfg:
    """What timm says of a network's weights; of the default ones, where the name has no tag."""
    found = timm.get_pretrained_cfg(name)
    assert found is not None
    return found


def preprocessing(config: PretrainedCfg) -> list[Any]:
    """The input of a weight set: size, resize, crop mode, interpolation, mean, std.

    timm's ``create_transform``: ``center`` resizes the shorter side to ``size / crop_pct`` (rounded
    down) and cuts; ``squash`` stretches to that; ``border`` fits all of the image in, as
    ``letterbox`` does.

    Raises:
        Unfit: no backbone's input is like that.
    """
    given = resolve_data_config(pretrained_cfg=vars(config))  # type: ignore[no-untyped-call]  # timm's
    channels, height, width = given["input_size"]
    if channels != 3 or height != width:
        raise Unfit(f"takes images of {height} x {width}, {channels} channels")
    if given["interpolation"] not in INTERPOLATIONS:
        raise Unfit(f"wants images resized by {given['interpolation']}")
    resize = math.floor(height / given["crop_pct"])
    mode = {"center": "center", "squash": "squash", "border": "letterbox"}[given["crop_mode"]]
    return [height, resize, mode, given["interpolation"], list(given["mean"]), list(given["std"])]


def lines(rows: Mapping[str, list[Any]]) -> str:
    """The table as JSON, a network a line; each input is there once, and rows have its number."""
    inputs: dict[str, int] = {}

    def number(given: list[Any]) -> int:
        return inputs.setdefault(json.dumps(given), len(inputs))

    networks = []
    for name, (*about, own, tags) in sorted(rows.items()):
        numbers = {tag: number(given) for tag, given in tags.items()}
        networks.append(f"{json.dumps(name)}: {json.dumps([*about, number(own), numbers])}")
    return (
        f'{{"timm": {json.dumps(timm.__version__)},\n"inputs": [\n'
        + ",\n".join(inputs)
        + '\n],\n"networks": {\n'
        + ",\n".join(networks)
        + "\n}}\n"
    )


def attempt(name: str) -> list[Any] | str:
    """A network's row, or why there is none."""
    warnings.simplefilter("ignore")  # timm's own, of layers that are to be renamed
    try:
        return row(name)
    except Unfit as reason:
        return str(reason)


def main() -> None:
    """Writes the table and prints what is not in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    names = timm.list_models()
    with ProcessPoolExecutor(given.processes) as pool:
        found = dict(zip(names, pool.map(attempt, names, chunksize=4), strict=True))
    rows = {name: each for name, each in found.items() if not isinstance(each, str)}
    TABLE.write_text(lines(rows), encoding="utf-8")
    for name, each in found.items():
        if isinstance(each, str):
            print(f"{name} {each}")
    sets = sum(len(each[-1]) for each in rows.values())
    print(f"{len(rows)} of {len(names)} networks, {sets} weight sets, timm {timm.__version__}")


if __name__ == "__main__":
    main()
