"""How well an audit finds labels that are known to be wrong.

    uv run python tests/benchmarks/audit.py PREDICTIONS [--share S] [--draws N] [--json FILE]

PREDICTIONS is a prediction file with features of items whose class is known. A share of the labels,
drawn at random, is replaced by other classes, each as often; the audit gets the file with these
labels. Its list is read from the top until half of the replaced labels are found: what share of
what was read had been replaced? (Labels that were wrong before count as mistakes of the audit.)
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np

import fashionbatch


def main() -> None:
    """Prints a line for each draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for number in range(given.draws):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "flipped.h5"
            shutil.copy(given.predictions, path)
            flipped = flip(path, given.share, np.random.default_rng(1000 + number))
            told = fashionbatch.audit(path, output=Path(name) / "audit", sheets=False, seed=number)
        hits = np.array([suspect["name"] in flipped for suspect in told["suspects"]])
        half = -(-len(flipped) // 2)
        reached = np.flatnonzero(np.cumsum(hits) >= half)
        found.append(
            {
                "flipped": len(flipped),
                "suspects": len(hits),
                "recall_of_all": round(float(hits.sum() / len(flipped)), 4),
                "precision_at_half": round(half / (int(reached[0]) + 1), 4)
                if len(reached)
                else None,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")


def flip(path: Path, share: float, draw: np.random.Generator) -> set[str]:
    """Replaces labels in a file; the names of the items."""
    with h5py.File(path, "r+") as file:
        labels, names = file["items/label"][()], file["items/name"].asstr()[()]
        classes = len(file["classes/name"])
        known = np.flatnonzero(labels >= 0)
        chosen = draw.permutation(known)[: round(share * len(known))]
        labels[chosen] = (labels[chosen] + draw.integers(1, classes, len(chosen))) % classes
        file["items/label"][...] = labels
        return set(names[chosen].tolist())


if __name__ == "__main__":
    main()
