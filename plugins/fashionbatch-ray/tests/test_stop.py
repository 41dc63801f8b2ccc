"""Ctrl-C and SIGTERM, real ones, in the middle of a run on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fashionbatch
import pytest
from ray.cluster_utils import Cluster

#: what the actors and their workers are called
NAMES = ("ray::Actor", "multiprocessing")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Two, with one CPU each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, photograph: Any) -> Path:
    """600 photographs: enough for a run to be stopped in its middle."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(600):
        (folder / f"{number:03}.jpg").write_bytes(photograph(number % 9))
    return folder


def at_work(nodes: Cluster) -> list[str]:
    """What runs on the nodes for somebody."""
    lives: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lives[int(folder.name)] = ppid, (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    known = {p.process.pid for n in nodes.list_all_nodes() for p in n.all_processes["raylet"]}
    while more := {pid for pid, (ppid, _) in lives.items() if ppid in known} - known:
        known |= more
    lines = (lives[pid][1] for pid in known if pid in lives)
    return [line for line in lines if any(name in line for name in NAMES)]


def stopped(command: list[Any], begun: Any, kind: int, *, group: bool) -> str:
    """What a command writes to standard error that gets a signal when it has begun."""
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # a shell that runs us in its background has interrupts ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not begun() and driver.poll() is None:
        time.sleep(0.01)
    if driver.poll() is None:
        (os.killpg if group else os.kill)(driver.pid, kind)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 128 + kind, said
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "stopped" in line] == said.splitlines()[-1:]
    return said.splitlines()[-1]


@pytest.mark.slow(seconds=60)
def test_predictions_are_gone_on_with_here(
    nodes: Cluster, many: Path, trained: Path, tmp_path: Path
) -> None:
    """One line, nothing left behind, and the local executor makes of it what it would have made."""
    fashionbatch.shard(many, output=tmp_path / "set", samples_per_shard=3)
    command = [
        sys.executable, "-m", "fashionbatch", "predict", tmp_path / "set", "--model", trained,
        "--engine", "eager", "--device", "cpu", "--workers", "1", "--batch-size", "4", "-o",
    ]  # fmt: skip
    output, parts, kept = tmp_path / "out.h5", tmp_path / "out.h5.parts", 0
    for kind, group in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        most = kept + 2
        said = stopped(
            [*command, output, "--executor", "ray", "--address", nodes.address],
            lambda most=most: len(list(parts.glob("part-*.h5"))) > most,
            kind, group=group,
        )  # fmt: skip
        left = [path.name for path in parts.iterdir()]
        kept = sum(name.startswith("part-") for name in left)
        assert said.startswith(f"Error: stopped: {3 * kept} of 600 items are finished and kept; ")
        assert len(left) == kept + 1  # nothing half-written beside them and about.json
        assert not at_work(nodes)
    done = subprocess.run([*command, output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{3 * kept} of 600 items were finished by an earlier run" in done.stderr
    subprocess.run([*command, tmp_path / "whole.h5"], check=True, capture_output=True)
    assert output.read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.slow(seconds=30)
def test_packing_is_gone_on_with_here(nodes: Cluster, many: Path, tmp_path: Path) -> None:
    """Likewise."""
    command = [
        sys.executable, "-m", "fashionbatch", "shard", many, "--samples-per-shard", "3", "-o",
    ]  # fmt: skip
    place = tmp_path / ".set.partial"
    said = stopped(
        [*command, tmp_path / "set", "--executor", "ray", "--address", nodes.address],
        lambda: len(list(place.glob("work/*.part"))) > 2,
        signal.SIGINT, group=False,
    )  # fmt: skip
    assert said.startswith("Error: stopped: finished shards are kept beside ")
    assert not at_work(nodes)
    assert place.exists()
    assert not list(place.rglob("*.tmp"))
    done = subprocess.run([*command, tmp_path / "set"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([*command, tmp_path / "whole" / "set"], check=True, capture_output=True)
    mine, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("set", "whole/set")
    )
    assert mine == whole
