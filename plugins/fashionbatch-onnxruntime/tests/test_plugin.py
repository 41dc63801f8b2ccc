"""What the plugin hands over, without torch or ONNX Runtime."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import fashionbatch
import pytest

from fashionbatch_onnxruntime import plugin


def test_lists_and_looks_for_what_is_missing_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from fashionbatch_onnxruntime import plugin\n"
        "print(*(spec.name for spec in plugin.fashionbatch_engines()))\n"
        "plugin.missing('cpu'), plugin.missing('cuda')\n"
        "assert not {'torch', 'numpy', 'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["onnxruntime"]


def test_import_strings_lead_somewhere() -> None:
    (spec,) = plugin.fashionbatch_engines()
    for factory in (spec.factory, spec.missing):
        assert isinstance(factory, str)
        module, _, attribute = factory.partition(":")
        assert callable(getattr(import_module(module), attribute))
    assert issubclass(import_module("fashionbatch_onnxruntime.engine").OnnxRuntime,
                      fashionbatch.Engine)  # fmt: skip


def test_nothing_is_missing_here() -> None:
    assert plugin.missing("cpu") is None


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert plugin.missing("cpu") == f"the package {package} is not installed"


def test_cuda_takes_a_build_with_its_provider(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.machinery.ModuleSpec("onnxruntime", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert "onnxruntime-gpu" in str(plugin.missing("cuda"))
    assert plugin.missing("cpu") is None
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    assert plugin.missing("cuda") is None
