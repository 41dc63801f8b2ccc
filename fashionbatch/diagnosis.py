"""Whether this machine and this installation can do the work, found out by doing a little of it."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from fashionbatch import files, plugins, registry

#: what the work needs, by the name it is imported by
_PACKAGES = ("torch", "torchvision", "numpy", "PIL", "simplejpeg", "h5py", "webdataset",
             "safetensors", "torchmetrics", "matplotlib")  # fmt: skip
#: what extras bring, and what is not there without them
_EXTRAS = {
    "pyarrow": ("parquet", "tables and exports in Parquet"),
    "tensorboard": ("tensorboard", "--logger tensorboard"),
    "sklearn": ("map", "t-SNE in report and explain embedding"),
}
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
_FEW_BYTES = 5 << 30

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what it is, such as ``"device"``.
        state: ``broken`` where the work cannot be done, ``note`` where something is worth knowing.
        text: what was found, and what to do, in one line.
    """

    about: str
    state: State
    text: str


def diagnose(folder: Path) -> list[dict[str, str]]:
    """Looks at packages, devices, decoding, engines, plugins and a disk.

    Args:
        folder: where results are going to be written.

    Returns:
        ``{"about", "state", "text"}`` of each thing, see :class:`Finding`.

    Example:
        >>> [f["text"] for f in diagnose(Path()) if f["state"] == "broken"]  # doctest: +SKIP
        []
    """
    found: list[Finding] = []
    for about, look in (
        ("installation", _installation),
        ("packages", _packages),
        ("devices", _devices),
        ("decoding", _decoding),
        ("engines", _engines),
        ("plugins", _plugins),
        ("extras", _extras),
        ("disk", lambda: _disk(folder)),
    ):
        found.extend(_looked(about, look))
    return [asdict(finding) for finding in found]


def _looked(about: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a look finds; one that ends in an error is a finding, too."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except Exception as error:  # whatever is wrong with this machine, the rest is worth knowing
        found.append(Finding(about=about, state="broken", text=_line(error)))
    return found


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _version(name: str) -> str:
    return metadata.version(_DISTRIBUTIONS.get(name, name))


def _installation() -> Iterator[Finding]:
    text = (
        f"fashionbatch {metadata.version('fashionbatch')}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, in {sys.prefix}"
    )
    yield Finding(about="installation", state="ok", text=text)


def _packages() -> Iterator[Finding]:
    fine = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
            fine.append(f"{_DISTRIBUTIONS.get(name, name)} {_version(name)}")
        except Exception as error:  # of two torch builds that do not fit, RuntimeError
            advice = "install fashionbatch again, torch and torchvision from the same place"
            yield Finding(about=name, state="broken", text=f"{_line(error)}: {advice}")
    yield Finding(about="packages", state="ok", text=", ".join(fine))


def _devices() -> Iterator[Finding]:
    import torch

    from fashionbatch.models import device as devices

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{cores} CPU cores for this process (torch takes {torch.get_num_threads()})"
    yield Finding(about="devices", state="ok", text=text)
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        torch.ones(2, device=f"cuda:{number}").sum().item()
        text = f"cuda:{number}: {about.name}, {about.total_memory / (1 << 30):.0f} GiB"
        yield Finding(about="devices", state="ok", text=text)
    chosen = devices.choose("auto")
    if chosen.type == "cpu" and torch.version.cuda is not None:
        text = f"no GPU is seen, though this torch is built for CUDA {torch.version.cuda}"
        yield Finding(about="devices", state="note", text=f"{text}: the CPU is used")


def _decoding() -> Iterator[Finding]:
    import numpy as np
    from PIL import Image

    from fashionbatch.pipeline.decode import FORMATS
    from fashionbatch.pipeline.pool import Limits, Pool
    from fashionbatch.specs import Preprocessing

    photographs = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (200, 30, 30)).save(buffer, kind)
        photographs.append(buffer.getvalue())
    with Pool(
        _Photographs(photographs),
        Preprocessing(size=32, resize=32),
        batch_size=len(photographs),
        workers=1,
        limits=Limits(),
    ) as pool:
        kinds = list(FORMATS)
        for batch in pool.batches(iter([np.arange(len(kinds))])):
            failed = [f"{kinds[place]}: {why}" for place, why in batch.failures.items()]
            batch.release()
    if failed:
        yield Finding(about="decoding", state="broken", text="; ".join(failed))
        return
    text = f"{', '.join(FORMATS)}, in a process of its own"
    yield Finding(about="decoding", state="ok", text=text)


class _Photographs:
    def __init__(self, photographs: list[bytes]) -> None:
        self.photographs = photographs

    def read(self, row: int) -> bytes:
        """The bytes of one."""
        return self.photographs[row]


def _engines() -> Iterator[Finding]:
    from fashionbatch.models import choice
    from fashionbatch.models import device as devices

    device = devices.choose("auto")
    runs, others = [], []
    for component in registry.components("engine"):
        reason = choice.missing(component, device)
        name = component.spec.name
        others.append(f"{name}: {reason}") if reason else runs.append(name)
    state: State = "ok" if runs else "broken"
    yield Finding(about="engines", state=state, text=f"on {device}: {', '.join(runs) or 'none'}")
    for text in others:
        yield Finding(about="engines", state="note", text=f"not {text}")


def _plugins() -> Iterator[Finding]:
    found = plugins.discover()
    fine = [plugin.label for plugin in found if plugin.status == "ok"]
    yield Finding(about="plugins", state="ok", text=", ".join(dict.fromkeys(fine)))
    for plugin in found:
        if plugin.status == "broken":
            text = f"{plugin.name} ({plugin.label}): {plugin.error}"
            yield Finding(about="plugins", state="broken", text=text)
        elif plugin.status == "disabled":
            text = f"{plugin.name} ({plugin.label}): {plugin.disabled}"
            yield Finding(about="plugins", state="note", text=text)


def _extras() -> Iterator[Finding]:
    for module, (extra, brings) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            text = f"not there: {brings}; pip install 'fashionbatch[{extra}]'"
            yield Finding(about=extra, state="note", text=text)
        else:
            text = f"{_DISTRIBUTIONS.get(module, module)} {_version(module)}"
            yield Finding(about=extra, state="ok", text=text)


def _disk(folder: Path) -> Iterator[Finding]:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    with tempfile.TemporaryDirectory(dir=there, prefix=".fashionbatch-") as scratch:
        for text in ("a", "b"):  # the second time over the first
            files.write(Path(scratch) / "written", text)
    usage = shutil.disk_usage(there)
    state: State = "ok" if usage.free >= _FEW_BYTES else "note"
    text = f"{there.resolve()}: can be written, {usage.free / (1 << 30):,.1f} GiB are free"
    yield Finding(about="disk", state=state, text=text)
