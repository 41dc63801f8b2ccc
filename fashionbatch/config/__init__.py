"""One frozen dataclass per job: the only place where an option's name, type and default stand.

The command line makes its options from these fields, the Python functions take them as keyword
arguments, and the resolved values are saved as TOML with every result. A value that cannot work
raises :class:`fashionbatch.errors.UsageError` on construction, so no job starts with one.
"""

from __future__ import annotations

from fashionbatch.config.pictures import ExplainConfig, InspectConfig
from fashionbatch.config.predict import PredictConfig
from fashionbatch.config.results import (
    AuditConfig,
    EvaluateConfig,
    ExportConfig,
    LabelledConfig,
    MergeConfig,
    ReportConfig,
    SearchConfig,
)
from fashionbatch.config.shard import DEFAULT_SPLIT, ShardConfig
from fashionbatch.config.train import TrainConfig

__all__ = [
    "DEFAULT_SPLIT",
    "AuditConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "InspectConfig",
    "LabelledConfig",
    "MergeConfig",
    "PredictConfig",
    "ReportConfig",
    "SearchConfig",
    "ShardConfig",
    "TrainConfig",
]
