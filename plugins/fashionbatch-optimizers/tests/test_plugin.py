"""What the plugin hands over, without torch or pytorch_optimizer."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

from fashionbatch_optimizers import plugin


def test_lists_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_optimizers import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_optimizers()))\n"
        "assert not {'torch', 'numpy', 'pytorch_optimizer'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "lion", "prodigy", "adan", "muon", "schedule-free-adamw", "schedule-free-sgd", "lamb",
        "adabelief", "adopt", "stable-adamw",
    ]  # fmt: skip


def test_import_strings_lead_to_what_takes_the_options() -> None:
    for spec in plugin.fashionbatch_optimizers():
        assert isinstance(spec.factory, str)
        module, _, attribute = spec.factory.partition(":")
        parameters = inspect.signature(getattr(import_module(module), attribute)).parameters
        assert {"params", "lr", *spec.options} <= set(parameters)
        # a misspelled option would be ignored without a word
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
