"""Classify whole catalogues of fashion photographs: shards in, predictions and features out.

>>> import fashionbatch  # doctest: +SKIP
>>> fashionbatch.shard("photos/", output="shards/photos")  # doctest: +SKIP
>>> fashionbatch.train(data="shards/photos", backbone="resnet50")  # doctest: +SKIP
>>> fashionbatch.predict("catalog/")  # doctest: +SKIP

Every name below is public and is imported when it is first used, so that importing fashionbatch
stays quick. Plugins use these names only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "BackboneSpec": "fashionbatch.specs",
    "EngineSpec": "fashionbatch.specs",
    "ExecutorSpec": "fashionbatch.specs",
    "HeadSpec": "fashionbatch.specs",
    "LoggerSpec": "fashionbatch.specs",
    "OptimizerSpec": "fashionbatch.specs",
    "Preprocessing": "fashionbatch.specs",
    "RegularizerSpec": "fashionbatch.specs",
    "ScheduleSpec": "fashionbatch.specs",
    "SourceSpec": "fashionbatch.specs",
    "VisualizerSpec": "fashionbatch.specs",
    "hookimpl": "fashionbatch.hookspecs",
    "Attribute": "fashionbatch.sources.base",
    "Failure": "fashionbatch.sources.base",
    "Item": "fashionbatch.sources.base",
    "Source": "fashionbatch.sources.base",
    "Engine": "fashionbatch.models.engine",
    "EngineJob": "fashionbatch.models.engine",
    "Executor": "fashionbatch.execution.executor",
    "Worker": "fashionbatch.execution.worker",
    "WorkerProcess": "fashionbatch.execution.process",
    "StoppedHere": "fashionbatch.execution.worker",
    "Lease": "fashionbatch.execution.lease",
    "Lending": "fashionbatch.execution.lending",
    "Logger": "fashionbatch.training.logger",
    "Regularizer": "fashionbatch.training.regularizer",
    "Schedule": "fashionbatch.training.schedule",
    "Targets": "fashionbatch.training.targets",
    "Visualizer": "fashionbatch.explanation.base",
    "Picture": "fashionbatch.explanation.base",
    "Answer": "fashionbatch.explanation.base",
    "Explained": "fashionbatch.explanation.base",
    "Subject": "fashionbatch.explanation.base",
    "Photo": "fashionbatch.explanation.base",
    "Heat": "fashionbatch.explanation.heated",
    "HeatVisualizer": "fashionbatch.explanation.heated",
    "audit": "fashionbatch.api",
    "doctor": "fashionbatch.api",
    "evaluate": "fashionbatch.api",
    "explain": "fashionbatch.api",
    "export": "fashionbatch.api",
    "inspect": "fashionbatch.api",
    "merge": "fashionbatch.api",
    "open_predictions": "fashionbatch.store.reader",
    "open_shards": "fashionbatch.shards.read",
    "predict": "fashionbatch.api",
    "report": "fashionbatch.api",
    "search": "fashionbatch.api",
    "shard": "fashionbatch.api",
    "train": "fashionbatch.api",
    "verify": "fashionbatch.api",
}

__all__ = [
    "Answer",
    "Attribute",
    "BackboneSpec",
    "Engine",
    "EngineJob",
    "EngineSpec",
    "Executor",
    "ExecutorSpec",
    "Explained",
    "Failure",
    "HeadSpec",
    "Heat",
    "HeatVisualizer",
    "Item",
    "Lease",
    "Lending",
    "Logger",
    "LoggerSpec",
    "OptimizerSpec",
    "Photo",
    "Picture",
    "Preprocessing",
    "Regularizer",
    "RegularizerSpec",
    "Schedule",
    "ScheduleSpec",
    "Source",
    "SourceSpec",
    "StoppedHere",
    "Subject",
    "Targets",
    "Visualizer",
    "VisualizerSpec",
    "Worker",
    "WorkerProcess",
    "__version__",
    "audit",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "hookimpl",
    "inspect",
    "merge",
    "open_predictions",
    "open_shards",
    "predict",
    "report",
    "search",
    "shard",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from fashionbatch.api import (
        audit,
        doctor,
        evaluate,
        explain,
        export,
        inspect,
        merge,
        predict,
        report,
        search,
        shard,
        train,
        verify,
    )
    from fashionbatch.execution.executor import Executor
    from fashionbatch.execution.lease import Lease
    from fashionbatch.execution.lending import Lending
    from fashionbatch.execution.process import WorkerProcess
    from fashionbatch.execution.worker import StoppedHere, Worker
    from fashionbatch.explanation.base import Answer, Explained, Photo, Picture, Subject, Visualizer
    from fashionbatch.explanation.heated import Heat, HeatVisualizer
    from fashionbatch.hookspecs import hookimpl
    from fashionbatch.models.engine import Engine, EngineJob
    from fashionbatch.shards.read import open_shards
    from fashionbatch.sources.base import Attribute, Failure, Item, Source
    from fashionbatch.specs import (
        BackboneSpec,
        EngineSpec,
        ExecutorSpec,
        HeadSpec,
        LoggerSpec,
        OptimizerSpec,
        Preprocessing,
        RegularizerSpec,
        ScheduleSpec,
        SourceSpec,
        VisualizerSpec,
    )
    from fashionbatch.store.reader import open_predictions
    from fashionbatch.training.logger import Logger
    from fashionbatch.training.regularizer import Regularizer
    from fashionbatch.training.schedule import Schedule
    from fashionbatch.training.targets import Targets


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fashionbatch' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
