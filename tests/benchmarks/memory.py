"""How much memory commands take to read a folder of parts (``--no-merge``), by its rows.

    uv run python -m tests.benchmarks.memory FOLDER [--rows 100000,1000000] [--width 64]
        [--json FILE]

FOLDER is for what is made (about 0.5 GB for a million rows); it is kept, and used again. Sets of
made-up predictions of 50 classes are written by the store's own writers, in parts of 1,000 rows,
with WIDTH features in float16 (0 for none), 5 % of the labels wrong. Every command is a process of
its own; the peaks of their memory are told, and how many bytes each further row takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.test_long_sets import make

CLASSES, PART = 50, 1000
#: does one thing, and says what its process took at most, in KiB
PEAK = """
import json, pathlib, re, sys
import fashionbatch
name, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
getattr(fashionbatch, name)([path] if name == "merge" else path, **options)
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]))
"""


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    out = given.folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        "evaluate": ("evaluate", {}),
        "report": ("report", {"output": out / "report.html"}),
        "export csv": ("export", {"output": out / "x.csv", "exist_ok": True}),
        "merge": ("merge", {"output": out / "x.h5", "exist_ok": True}),
    }
    if given.width:
        jobs |= {
            "audit": ("audit", {"output": out / "audit", "sheets": False}),
            "search": ("search", {"images": "000000007.jpg", "sheet": False}),
            "export npz": (
                "export",
                {"output": out / "x.npz", "exist_ok": True, "features": True},
            ),
            "export parquet": (
                "export",
                {"output": out / "x.parquet", "exist_ok": True, "features": True},
            ),
        }
    sizes = [int(rows) for rows in given.rows.split(",")]
    print(f"{'MiB':16}" + "".join(f"{rows:>14,}" for rows in sizes) + f"{'bytes a row':>14}")
    found: dict[str, dict[int, float]] = {}
    for name, (command, options) in jobs.items():
        found[name] = {}
        for rows in sizes:
            path = given.folder / f"{rows}-{given.width}" / "set"
            if not path.exists():
                make(path, rows, CLASSES, given.width, PART)
            found[name][rows] = peak(command, path, options)
        peaks = found[name]
        each = (peaks[sizes[-1]] - peaks[sizes[0]]) * 2**20 / max(1, sizes[-1] - sizes[0])
        told = "".join(f"{peaks[rows]:14.0f}" for rows in sizes)
        print(f"{name:16}{told}{each:14.0f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found) + "\n")


def peak(command: str, path: Path, options: dict[str, Any]) -> float:
    """MiB that a command took at most, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, command, str(path), json.dumps(options, default=str)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1]) / 1024


if __name__ == "__main__":
    main()
