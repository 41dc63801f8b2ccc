"""CPU seconds of ``fashionbatch --help`` beside ``python -c pass``; medians of interleaved runs.

uv run python tests/benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "fashionbatch --help": [sys.executable, "-m", "fashionbatch", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one run of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints a table and a line of JSON."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for command in COMMANDS.values():
        cpu_seconds(command)  # warms the file cache
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(command))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:28} {seconds:.3f} s")
    print(json.dumps({"runs": runs, "median_cpu_seconds": medians}))


if __name__ == "__main__":
    main()
