"""The plugin contract: one hook per kind of component.

A plugin is a module (or object) registered in the entry-point group ``fashionbatch``. It implements
any of these hooks with ``@fashionbatch.hookimpl`` and yields frozen specs. Hooks take no arguments,
are called once per process, and must not import torch: name the factory by string instead.

Each hook says since which version it is there. One that is going to be removed keeps working for at
least one minor version, marked with what to do instead::

    @hookspec(warn_on_impl=DeprecationWarning("fashionbatch_x() is removed in 0.3: implement ..."))

Whoever implements it is told, once, with the name and version of the package.

Example, a whole plugin::

    import fashionbatch

    @fashionbatch.hookimpl
    def fashionbatch_optimizers():
        yield fashionbatch.OptimizerSpec(
            name="signum", factory="my_package:Signum", summary="signs (Bernstein et al. 2018)"
        )
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from fashionbatch.specs import (
    BackboneSpec,
    EngineSpec,
    ExecutorSpec,
    LoggerSpec,
    OptimizerSpec,
    RegularizerSpec,
    ScheduleSpec,
    SourceSpec,
    VisualizerSpec,
)

PROJECT = "fashionbatch"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def fashionbatch_backbones() -> Iterable[BackboneSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Networks without their classifier, for ``--backbone``.

    .. versionadded:: 0.1

    Example::

        yield BackboneSpec(
            name="tiny", factory="my_package.tiny:Tiny", summary="three convolutions",
            preprocessing=Preprocessing(size=32, resize=32), blocks=("stages.*",),
            cam_layer="stages",
        )
    """


@hookspec
def fashionbatch_optimizers() -> Iterable[OptimizerSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Optimizers, for ``--opt``.

    .. versionadded:: 0.1

    Example::

        yield OptimizerSpec(name="adam", factory="torch.optim:Adam", summary="Adam")
    """


@hookspec
def fashionbatch_regularizers() -> Iterable[RegularizerSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Regularizers, for ``--regularizer NAME[:k=v,...]``.

    .. versionadded:: 0.1

    Example::

        yield RegularizerSpec(name="l1", factory="my_package:L1", summary="λ·Σ|w| of the head")
    """


@hookspec
def fashionbatch_schedules() -> Iterable[ScheduleSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Learning-rate schedules, for ``--sched NAME[:k=v,...]``.

    .. versionadded:: 0.1

    Example::

        yield ScheduleSpec(name="linear", factory="my_package:linear", summary="down to zero")
    """


@hookspec
def fashionbatch_loggers() -> Iterable[LoggerSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Loggers, for ``--logger NAME[:k=v,...]``.

    .. versionadded:: 0.1

    Example::

        yield LoggerSpec(name="lines", factory="my_package:Lines", summary="a line an epoch")
    """


@hookspec
def fashionbatch_visualizers() -> Iterable[VisualizerSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Visualizers, for ``fashionbatch explain NAME``.

    .. versionadded:: 0.1

    Example::

        yield VisualizerSpec(name="saliency", factory="my_package:Saliency", summary="|∂y/∂x|")
    """


@hookspec
def fashionbatch_sources() -> Iterable[SourceSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Kinds of catalogues, for ``fashionbatch shard``.

    .. versionadded:: 0.1

    Example::

        yield SourceSpec(
            name="zip", factory="my_package:ZipSource", summary="a ZIP archive of photographs",
            detect="my_package:is_zip",
        )
    """


@hookspec
def fashionbatch_engines() -> Iterable[EngineSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Engines that run a network, for ``--engine NAME[:k=v,...]``.

    .. versionadded:: 0.1

    Example::

        yield EngineSpec(
            name="openvino", factory="my_package:OpenVino", summary="OpenVINO, for Intel CPUs",
            devices=("cpu",), missing="my_package:missing", preparation=5.0,
        )
    """


@hookspec
def fashionbatch_executors() -> Iterable[ExecutorSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """Executors that have workers do the work, for ``--executor NAME``.

    .. versionadded:: 0.1

    Example::

        yield ExecutorSpec(name="dask", factory="my_package:Dask", summary="workers of Dask")
    """
