"""The built-in engines give the module's answers, whatever else is in the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fashionbatch import EngineJob, registry
from fashionbatch.builtin.engines import Compiled, Eager, compiler_missing
from fashionbatch.errors import UsageError
from fashionbatch.models.build import build, find_backbone
from fashionbatch.models.engine import Engine
from fashionbatch.models.features import FeatureTap
from fashionbatch.specs import HeadSpec

SIZE = 28


def tap(layer: str = "pooled", backbone: str = "small-resnet", size: int = SIZE) -> FeatureTap:
    """A network of three classes with random weights and statistics unlike the initial ones."""
    torch.manual_seed(0)
    component, spec = find_backbone(backbone)
    model = build(component, spec.preprocessing.with_size(size), HeadSpec(), 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return FeatureTap(model, layer).eval()


def photographs(batch: int = 4, size: int = SIZE) -> Tensor:
    """uint8, channels last as the pipeline gives them."""
    random = torch.Generator().manual_seed(0)
    areas = torch.rand(batch, 3, 5, 5, generator=random) * 255
    images = nn.functional.interpolate(areas, (size, size), mode="bilinear")
    return images.to(torch.uint8).to(memory_format=torch.channels_last)


def job_of(module: nn.Module, cache: Path, batch: int = 4, size: int = SIZE) -> EngineJob:
    """For batches on the CPU, one thread."""
    return EngineJob(
        module=module, shape=(batch, 3, size, size), device=torch.device("cpu"), cache=cache
    )


def assert_images_stand_alone(engine: Engine, images: Tensor) -> None:
    """Each answer is the same bit for bit in another place and in other company."""
    answers = engine.run(images)
    turned = engine.run(images.roll(3, 0).contiguous(memory_format=torch.channels_last))
    alone = torch.zeros_like(images)
    alone[-1] = images[-1]
    for answer, moved, single in zip(answers, turned, engine.run(alone), strict=True):
        assert torch.equal(answer, moved.roll(-3, 0))
        assert torch.equal(answer[-1], single[-1])


class TestEager:
    """PyTorch as it is."""

    @pytest.mark.parametrize("layer", ["pooled", "none", "blocks.1"])
    def test_gives_the_modules_answers_and_leaves_it_alone(
        self, layer: str, tmp_path: Path
    ) -> None:
        """Forward hooks belong to the copy, too."""
        module = tap(layer)
        with torch.inference_mode():
            expected = module(photographs())
        engine = Eager(job_of(module, tmp_path))
        module.model.backbone.get_parameter("blocks.0.conv1.weight").data.zero_()
        answers = engine.run(photographs())
        assert len(answers) == len(expected)
        for answer, known in zip(answers, expected, strict=True):
            assert answer.dtype == torch.float32
            torch.testing.assert_close(answer, known)

    def test_images_stand_alone(self, tmp_path: Path) -> None:
        """A resumed run puts them into other batches."""
        assert_images_stand_alone(Eager(job_of(tap(), tmp_path)), photographs())

    @pytest.mark.slow
    @pytest.mark.parametrize(("backbone", "size"), [("resnet18", 64), ("efficientnet-lite0", 224)])
    def test_images_stand_alone_in_larger_networks(
        self, backbone: str, size: int, tmp_path: Path
    ) -> None:
        """Other convolutions take other kernels."""
        job = job_of(tap("pooled", backbone, size), tmp_path, 8, size)
        assert_images_stand_alone(Eager(job), photographs(8, size))

    def test_precision_is_that_of_the_layers(self, tmp_path: Path) -> None:
        """The answers are float32 in any case."""
        job = job_of(tap(), tmp_path)
        half = EngineJob(module=job.module, shape=job.shape, device=job.device,
                         precision="bfloat16", cache=tmp_path)  # fmt: skip
        exact, rough = Eager(job).run(photographs())[2], Eager(half).run(photographs())[2]
        assert rough.dtype == torch.float32
        assert torch.equal(rough, rough.bfloat16().float())
        assert not torch.equal(exact, rough)
        torch.testing.assert_close(exact, rough, rtol=0.05, atol=0.05)

    def test_keeps_as_many_threads_busy_as_the_job_says(self, tmp_path: Path) -> None:
        """And gives the process its number back."""
        seen = []

        class Counting(nn.Module):
            def forward(self, images: Tensor) -> tuple[Tensor, ...]:
                seen.append(torch.get_num_threads())
                return (images.float().mean(dim=(1, 2, 3)),)

        before = torch.get_num_threads()
        job = job_of(Counting(), tmp_path)
        wanted = before + 1
        Eager(EngineJob(module=job.module, shape=job.shape, device=job.device, threads=wanted)).run(
            photographs()
        )
        assert seen == [wanted] and torch.get_num_threads() == before

    def test_close_frees_the_copy(self, tmp_path: Path) -> None:
        """Halved batches make a new engine while the memory is short."""
        engine = Eager(job_of(tap(), tmp_path))
        copied = weakref.ref(engine._module)
        engine.close()
        import gc

        gc.collect()  # a tap and its hook refer to each other
        assert copied() is None


class TestCompilerMissing:
    """What inductor would fail for is said before."""

    def test_nothing_is_missing_where_there_is_a_compiler(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Arguments behind the compiler's name do not count."""
        (tmp_path / "mine").write_text("#!/bin/sh\n")
        (tmp_path / "mine").chmod(0o755)
        (tmp_path / "Python.h").touch()
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("CXX", "mine -O2")
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        assert compiler_missing("cpu") is None

    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Another C++ compiler than the one that inductor calls is none."""
        (tmp_path / "c++").write_text("#!/bin/sh\n")
        (tmp_path / "c++").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert "no C++ compiler" in str(compiler_missing("cpu"))
        monkeypatch.setenv("CXX", "elsewhere")
        assert compiler_missing("cpu") == "there is no C++ compiler (elsewhere)"

    def test_no_headers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Inductor's kernels are extension modules."""
        monkeypatch.setenv("CXX", sys.executable)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        assert "Python.h" in str(compiler_missing("cpu"))


class Scaled(nn.Module):
    """Small enough to be compiled in a second or two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.norm(self.conv(images.float() / 255)).mean(dim=(2, 3)),)


class Refusing(nn.Module):
    """Says why, in our own words."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise UsageError("--features spare: no")


#: a program that compiles in a process of its own, whose environment is given
COMPILES = """
import json, os, sys
from pathlib import Path
import torch
from torch import nn
from fashionbatch import EngineJob
from fashionbatch.builtin.engines import Compiled

class Net(nn.Module):
    def forward(self, images):
        return (images.float().mean(dim=(1, 2, 3)).sigmoid(),)

job = EngineJob(
    module=Net().eval(), shape=(2, 3, 8, 8), device=torch.device("cpu"), cache=Path(sys.argv[1])
)
try:
    Compiled(job)
    error = None
except ValueError as caught:
    error = str(caught)
print(json.dumps({"error": error, "set": os.environ.get("TORCHINDUCTOR_CACHE_DIR")}))
"""


def compile_elsewhere(cache: Path, environment: dict[str, str]) -> dict[str, object]:
    """What :data:`COMPILES` says."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILES, str(cache)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.slow
@pytest.mark.skipif(compiler_missing("cpu") is not None, reason="nothing can be compiled here")
class TestCompiled:
    """torch.compile with frozen weights."""

    @pytest.mark.parametrize("layer", ["pooled", "none", "blocks.1"])
    def test_gives_the_modules_answers(
        self, layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Hooks included; frozen; and compiled once, for batches as they come."""
        from torch._dynamo.utils import counters

        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        module = tap(layer)
        with torch.inference_mode():
            expected = module(photographs())
        counters.clear()
        engine = Compiled(job_of(module, tmp_path))
        assert counters["inductor"]["binary_folding_conv"] > 0, "no normalization was folded"
        assert counters["stats"]["unique_graphs"] == 1, "a hook broke the graph"
        module.model.backbone.get_parameter("blocks.0.conv1.weight").data.zero_()
        answers = engine.run(photographs())
        assert counters["stats"]["unique_graphs"] == 1, "compiled anew for the first real batch"
        for answer, known in zip(answers, expected, strict=True):
            torch.testing.assert_close(answer, known, rtol=1e-4, atol=1e-4)
        assert_images_stand_alone(engine, photographs())

    @pytest.mark.parametrize(("backbone", "size"), [("resnet18", 64), ("efficientnet-lite0", 224)])
    def test_images_stand_alone_in_larger_networks(
        self, backbone: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other convolutions take other kernels."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        job = job_of(tap("pooled", backbone, size), tmp_path, 8, size)
        assert_images_stand_alone(Compiled(job), photographs(8, size))

    def test_many_engines_in_one_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Dynamo compiles one code object at most eight times."""
        from torch._dynamo.utils import counters

        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        counters.clear()
        for number in range(1, 11):
            engine = Compiled(job_of(Scaled().eval(), tmp_path, number + 1))
            assert counters["stats"]["unique_graphs"] == number
            engine.run(photographs(number + 1))
            assert counters["stats"]["unique_graphs"] == number
            engine.close()

    def test_keeps_its_files_in_the_jobs_cache(self, tmp_path: Path) -> None:
        """And leaves the environment as it was; the second run compiles nothing."""
        environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
        said = compile_elsewhere(tmp_path, environment)
        assert said["error"] is None and str(tmp_path) not in str(said["set"])
        libraries = {p: p.stat().st_mtime_ns for p in tmp_path.glob("inductor/**/*.so")}
        assert libraries
        assert compile_elsewhere(tmp_path, environment) == said
        assert libraries == {p: p.stat().st_mtime_ns for p in tmp_path.glob("inductor/**/*.so")}

    def test_users_own_setting_comes_first(self, tmp_path: Path) -> None:
        """Of where inductor keeps its files."""
        own = tmp_path / "own"
        (tmp_path / "cache").mkdir()
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(own)}
        said = compile_elsewhere(tmp_path / "cache", environment)
        assert said == {"error": None, "set": str(own)}
        assert list(own.glob("**/*.so")) and not list((tmp_path / "cache").iterdir())

    def test_failing_compiler_is_one_line(self, tmp_path: Path) -> None:
        """Not a traceback through torch."""
        said = compile_elsewhere(tmp_path, {**os.environ, "PATH": "/nonexistent", "CXX": "nothing"})
        assert str(said["error"]).startswith("torch.compile cannot compile it (")
        assert "\n" not in str(said["error"])

    def test_our_own_errors_stay_as_they_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the module refuses is not the compiler's fault."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        with pytest.raises(UsageError, match="--features spare"):
            Compiled(job_of(Refusing(), tmp_path))


@pytest.mark.parametrize("name", ["eager", "compile"])
def test_is_installed(name: str) -> None:
    """Under its name, from a spec that leads somewhere."""
    spec = registry.find("engine", name).spec
    assert issubclass(registry.resolve(spec.factory), Engine)
