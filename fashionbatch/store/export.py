"""A prediction file → CSV, Parquet or NPZ, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.config import ExportConfig
from fashionbatch.errors import OutputExistsError, UsageError
from fashionbatch.store import csv_table, npz_arrays, parquet_table
from fashionbatch.store.reader import open_predictions
from fashionbatch.store.table import Table

Tell = Callable[[str, dict[str, Any]], None]


def export(
    path: Path, config: ExportConfig, tell: Tell = lambda event, values: None
) -> dict[str, Any]:
    """Exports a prediction file; the same file and options make the same bytes.

    Args:
        path: of the prediction file.
        config: of the job.
        tell: gets ``("start", {"items"})``, and for tables ``("progress", {"items"})``.

    Returns:
        ``{"output", "format", "predicted", "failed"}``; items that failed are counted, whether or
        not they are exported.

    Raises:
        OutputExistsError: something is at the output.
        UsageError: the file does not hold what is asked for, or pyarrow is missing.
        StoreError: it is damaged.
    """
    output = config.output or path.with_suffix(f".{config.format}")
    refuse_existing(output, [path], replace=config.exist_ok)
    with open_predictions(path) as predictions:
        table = Table(predictions, config, lambda rows: tell("progress", {"items": rows}))
        output.parent.mkdir(parents=True, exist_ok=True)
        tell("start", {"items": len(table)})
        with files.atomic(output) as temporary:
            if config.format == "csv":
                csv_table.write(temporary, table, bom=config.bom)
            elif config.format == "parquet":
                parquet_table.write(temporary, table)
            else:
                npz_arrays.write(temporary, predictions, config)
        return {
            "output": str(output),
            "format": config.format,
            "predicted": len(predictions),
            "failed": len(predictions.failures),
        }


def refuse_existing(output: Path, inputs: list[Path], *, replace: bool) -> None:
    """Refuses an output that is there, unless it may be replaced; an input never may be.

    Raises:
        UsageError: it is an input.
        OutputExistsError: it is there.
    """
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder: name a file with -o")
    if not output.exists():
        return
    if any(path.exists() and output.samefile(path) for path in inputs):
        raise UsageError(f"{output} is an input: name another file with -o")
    if not replace:
        raise OutputExistsError(f"{output} exists: name another file with -o, or add --exist-ok")
