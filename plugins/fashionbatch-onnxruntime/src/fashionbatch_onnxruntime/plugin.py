"""What this package offers to fashionbatch: the engine ``onnxruntime``.

Nothing here imports torch or ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import fashionbatch

_PACKAGES = ("onnxruntime", "onnx", "onnxscript")


@fashionbatch.hookimpl
def fashionbatch_engines() -> Iterator[fashionbatch.EngineSpec]:
    """One engine, for CPUs and, where the build has CUDA, NVIDIA's GPUs."""
    yield fashionbatch.EngineSpec(
        name="onnxruntime",
        factory="fashionbatch_onnxruntime.engine:OnnxRuntime",
        summary="ONNX Runtime: fast on CPUs; exports the network once",
        requires="pip install fashionbatch-onnxruntime",
        devices=("cpu", "cuda"),
        missing="fashionbatch_onnxruntime.plugin:missing",
        preparation=20.0,
    )


def missing(device: str) -> str | None:
    """Why the engine cannot run here.

    Args:
        device: type of a torch device, such as ``"cpu"``.

    Returns:
        a few words, or ``None`` if nothing is missing. Files are looked for; nothing is imported.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    if device == "cuda" and not _built_with_cuda():
        return "the installed onnxruntime has no CUDA (the package onnxruntime-gpu has)"
    return None


def _built_with_cuda() -> bool:
    # asking ONNX Runtime itself would take its import
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    return any(
        any(Path(folder, "capi").glob("*onnxruntime_providers_cuda.*")) for folder in folders or ()
    )
