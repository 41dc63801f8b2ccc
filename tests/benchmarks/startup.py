"""Seconds of ``fashionbatch --help`` without and with 20 small plugins installed.

Wall and CPU time beside ``python -c pass``; medians of interleaved runs. What is installed here
stays out: the plugins of this environment are switched off.

uv run python tests/benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

COUNT = 20
PLUGIN = """
import fashionbatch

@fashionbatch.hookimpl
def fashionbatch_optimizers():
    yield fashionbatch.OptimizerSpec(name="small-{number}", factory="torch.optim:SGD", summary="")
"""
HELP = [sys.executable, "-m", "fashionbatch", "--help"]
LIST = [sys.executable, "-m", "fashionbatch", "plugins", "list"]


class Seconds(NamedTuple):
    """Of one run."""

    wall: float
    cpu: float


def install(site: Path, count: int = COUNT) -> None:
    """Small distributions ``small-0``, ..., each with a plugin and a command."""
    for number in range(count):
        (site / f"small_{number}.py").write_text(PLUGIN.format(number=number))
        info = site / f"small_{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: small-{number}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(
            f"[fashionbatch]\nsmall-{number} = small_{number}\n"
            f"[fashionbatch.commands]\nsmall-{number} = small_{number}:command\n"
        )


def timed(command: list[str], environment: dict[str, str]) -> Seconds:
    """One run of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(wall, cpu)


def main() -> None:
    """Prints a table and a line of JSON."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        install(site)
        names = ",".join(f"small-{number}" for number in range(COUNT))
        # with compiled modules, as they are behind an installation
        own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        paths = [folder, *filter(None, [own.get("PYTHONPATH")])]
        without = {**own, "FASHIONBATCH_PLUGINS": ""}
        loaded = {
            **own, "FASHIONBATCH_PLUGINS": names, "PYTHONPATH": os.pathsep.join(paths)
        }  # fmt: skip
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], without),
            "python -c 'import torch'": ([sys.executable, "-c", "import torch"], without),
            "fashionbatch --help, 0 plugins": (HELP, without),
            f"fashionbatch --help, {COUNT} plugins": (HELP, loaded),
            "fashionbatch plugins list, 0 plugins": (LIST, without),
            f"fashionbatch plugins list, {COUNT} plugins": (LIST, loaded),
        }
        for command in commands.values():
            timed(*command)  # warms the file cache, and compiles
        times: dict[str, list[Seconds]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(timed(*command))
    medians = {
        name: {
            "wall": round(statistics.median(s.wall for s in seconds), 3),
            "cpu": round(statistics.median(s.cpu for s in seconds), 3),
        }
        for name, seconds in times.items()
    }
    print(f"{'median seconds':40} wall   CPU")
    for name, each in medians.items():
        print(f"{name:40} {each['wall']:.3f}  {each['cpu']:.3f}")
    print(json.dumps({"runs": runs, "median_seconds": medians}))


if __name__ == "__main__":
    main()
