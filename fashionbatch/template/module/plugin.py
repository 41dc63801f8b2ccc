"""What this package offers to fashionbatch: the entry point in pyproject.toml names this module.

fashionbatch imports it at every start, so it must be quick: nothing here imports torch. Each hook
yields specs, and each spec names its factory as a string, which is imported when somebody asks for
the component.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fashionbatch

_COMPONENTS = "fashionbatch_hello.components"


@fashionbatch.hookimpl
def fashionbatch_backbones() -> Iterator[fashionbatch.BackboneSpec]:
    """For ``--backbone hello-net``."""
    yield fashionbatch.BackboneSpec(
        name="hello-net",
        factory=f"{_COMPONENTS}:HelloNet",
        summary="two convolutions",
        # how a photograph is made to fit
        preprocessing=fashionbatch.Preprocessing(
            size=28, resize=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        # names of modules, from input to output: what --unfreeze blocks:N counts from the end
        blocks=("first", "second"),
        # the last one whose output is still a map of the image: where Grad-CAM looks
        cam_layer="second",
    )


@fashionbatch.hookimpl
def fashionbatch_optimizers() -> Iterator[fashionbatch.OptimizerSpec]:
    """For ``--opt hello-signs``."""
    yield fashionbatch.OptimizerSpec(
        name="hello-signs",
        factory=f"{_COMPONENTS}:HelloSigns",
        summary="steps by the gradient's sign",
        # of --momentum and --weight-decay, what it takes; others come by --opt-kwargs
        options=(),
    )


@fashionbatch.hookimpl
def fashionbatch_regularizers() -> Iterator[fashionbatch.RegularizerSpec]:
    """For ``--regularizer hello-noise:spread=2``."""
    yield fashionbatch.RegularizerSpec(
        name="hello-noise",
        factory=f"{_COMPONENTS}:HelloNoise",
        summary="noise on the pixels",
    )


@fashionbatch.hookimpl
def fashionbatch_schedules() -> Iterator[fashionbatch.ScheduleSpec]:
    """For ``--sched hello-halves``."""
    yield fashionbatch.ScheduleSpec(
        name="hello-halves",
        factory=f"{_COMPONENTS}:hello_halves",
        summary="half the rate in the second half",
    )


@fashionbatch.hookimpl
def fashionbatch_loggers() -> Iterator[fashionbatch.LoggerSpec]:
    """For ``--logger hello-lines``."""
    yield fashionbatch.LoggerSpec(
        name="hello-lines",
        factory=f"{_COMPONENTS}:HelloLines",
        summary="a line for each epoch, in the run's hello.txt",
    )


@fashionbatch.hookimpl
def fashionbatch_visualizers() -> Iterator[fashionbatch.VisualizerSpec]:
    """For ``fashionbatch explain hello-negative``."""
    yield fashionbatch.VisualizerSpec(
        name="hello-negative",
        factory=f"{_COMPONENTS}:HelloNegative",
        summary="the photograph's negative, with the model's answer",
    )


@fashionbatch.hookimpl
def fashionbatch_sources() -> Iterator[fashionbatch.SourceSpec]:
    """For ``fashionbatch shard catalogue.hello``."""
    yield fashionbatch.SourceSpec(
        name="hello-list",
        factory=f"{_COMPONENTS}:HelloList",
        summary="a .hello file: a class and a file's name in each line",
        detect="fashionbatch_hello.plugin:is_list",
    )


def is_list(path: Path) -> bool:
    """Whether the source can read it; asked of every catalogue, so it lives beside the hooks."""
    return path.suffix == ".hello" and path.is_file()


@fashionbatch.hookimpl
def fashionbatch_engines() -> Iterator[fashionbatch.EngineSpec]:
    """For ``--engine hello-engine``."""
    yield fashionbatch.EngineSpec(
        name="hello-engine",
        factory=f"{_COMPONENTS}:HelloEngine",
        summary="PyTorch as it is",
        devices=("cpu", "cuda"),
        # --engine auto times those that may be quicker than PyTorch; this one never is
        automatic=False,
    )


@fashionbatch.hookimpl
def fashionbatch_executors() -> Iterator[fashionbatch.ExecutorSpec]:
    """For ``--executor hello-alone``."""
    yield fashionbatch.ExecutorSpec(
        name="hello-alone",
        factory=f"{_COMPONENTS}:HelloAlone",
        summary="one process, which does one lease after the other",
    )
