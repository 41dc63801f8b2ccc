"""Workers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fashionbatch.execution.lease import Lease
from fashionbatch.execution.process import WorkerProcess
from fashionbatch.execution.trial import pack, squares


def test_death_before_it_is_ready_is_seen():
    """While the worker is made."""
    process = WorkerProcess(_dies)
    with pytest.raises(EOFError):
        list(process.events())
    assert process.end() == "exit code 3"


def _dies(place):
    os._exit(3)


PARENT = """
import sys, time
from fashionbatch.execution.process import WorkerProcess
from fashionbatch.execution.trial import squares
if __name__ == "__main__":
    process = WorkerProcess(squares)
    print(dict(process.events())["process"]["pid"], flush=True)
    time.sleep(100)
"""


def test_ends_with_the_process_that_started_it(tmp_path):
    """However that ends: nothing is left that holds a GPU."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if is_zombie(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it lives on")


def is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_lease_is_done_and_told():
    """Event by event, until it is ready for the next."""
    process = WorkerProcess(squares)
    assert [event for event, _ in process.events()] == ["process"]
    process.lend(Lease([2, 5], pack))
    told = [(values["is"], values["sent"]) for _, values in process.events()]
    assert told == [(4, 2), (25, 5)]
    assert process.end().startswith("exit code")
