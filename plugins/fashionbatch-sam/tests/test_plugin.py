"""What the plugin hands over, without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import fashionbatch

from fashionbatch_sam import plugin


def test_lists_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_sam import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_regularizers()))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sam", "asam"]


def test_import_strings_lead_to_what_they_name() -> None:
    for spec in plugin.fashionbatch_regularizers():
        assert isinstance(spec.factory, str)
        module, _, attribute = spec.factory.partition(":")
        assert issubclass(getattr(import_module(module), attribute), fashionbatch.Regularizer)
