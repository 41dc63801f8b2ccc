"""The executor keeps the contract that fashionbatch holds executors to."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from fashionbatch import testing

from fashionbatch_ray import plugin


def test_lists_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_ray import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_executors()))\n"
        "assert not {'torch', 'numpy', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ray"]


@pytest.mark.slow(seconds=30)
def test_contract(cluster: Any) -> None:
    (spec,) = plugin.fashionbatch_executors()
    testing.check_executor(spec, address=cluster(2).address)
