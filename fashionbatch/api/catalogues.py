"""From catalogues to data sets, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fashionbatch import config as configs
from fashionbatch import folders
from fashionbatch.address import Address, Location, located, name_of
from fashionbatch.api.executing import executor_of
from fashionbatch.api.telling import Tell, silent
from fashionbatch.config import InspectConfig, ShardConfig
from fashionbatch.errors import UsageError
from fashionbatch.fields import make
from fashionbatch.parse import parse_names, parse_split


def shard(source: str | Location, *, tell: Tell = silent, **options: Any) -> dict[str, Any]:
    """Packs a catalogue into WebDataset shards with an index.

    Args:
        source: a folder of photographs, a table of them, DeepFashion, IDX files, tar files; or the
            address of a table, or of a folder of photographs on an object store.
        tell: gets the events of :func:`fashionbatch.shards.write.write`.
        options: the fields of :class:`fashionbatch.config.ShardConfig`, such as ``output``.

    Returns:
        ``{"output", "items", "shards", "failed"}``; what failed is listed in the data set's
        ``failures.jsonl``.

    Raises:
        FashionbatchError: one line that says what cannot be packed and what to do.

    Example:
        >>> fashionbatch.shard("photos/", output="shards/photos")  # doctest: +SKIP
        {'output': 'shards/photos', 'items': 3409, 'shards': 5, 'failed': 0}
    """
    config = make(ShardConfig, options)
    path = located(source)
    from fashionbatch import registry
    from fashionbatch.pipeline.ingest import Ingest
    from fashionbatch.shards import write
    from fashionbatch.shards.select import Selection
    from fashionbatch.sources import find_source
    from fashionbatch.sources.table import is_table

    ingest = Ingest(
        check=config.check,
        resize=config.resize,
        side=config.resize_side,
        quality=config.quality,
    )
    source_name, source_options = config.source()
    name = _name(path)
    is_file = is_table(path) or (isinstance(path, Path) and path.is_file())
    output = config.output or folders.SHARDS / (Path(name).stem if is_file else name)
    if output.name in ("", ".."):
        raise UsageError(f"-o {output}: name a folder to make")
    if isinstance(path, Path) and path.resolve() in output.resolve().parents:
        raise UsageError(
            f"{output} lies inside {path}, and would be packed too the next time: choose an output "
            "outside with -o"
        )
    component = find_source(path, source_name)
    job = write.Job(
        source=registry.create(component, path, **source_options),
        output=output.resolve() if output.is_symlink() else output,
        prepare=ingest,
        selection=Selection(**config.selection()),
        split=parse_split(config.split) if config.split else None,
        default_split=parse_split(configs.DEFAULT_SPLIT),
        group_by=config.group_by,
        exclude_label=parse_names(config.exclude_label),
        allow_missing_classes=config.allow_missing_classes,
        allow_new_classes=config.allow_new_classes,
        drop_duplicates=config.drop_duplicates,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers or os.cpu_count() or 1,
        replace=config.exist_ok,
        append=config.append,
        about={
            "name": name,
            "component": component.provenance,
            "options": config.chosen(),
            "pixels": ingest.pixels,
        },
        settings={**ingest.settings, "source": [source_name, repr(source_options)]},
    )
    with executor_of(config) as executor:
        manifest = write.write(job, tell, executor)
    return {
        "output": str(output),
        "items": manifest.items,
        "shards": len(manifest.shards),
        "failed": manifest.failed,
    }


def _name(path: Location) -> str:
    """What a catalogue is called."""
    from fashionbatch.sources.base import to_text

    if isinstance(path, Address):
        return path.name
    return to_text(path.resolve().name) or "catalogue"


def verify(
    path: str | Location, *, workers: int | None = None, tell: Tell = silent
) -> dict[str, Any]:
    """Checks every byte of a data set, or of tar files made elsewhere.

    Args:
        path: a folder made by ``shard``, or of tar files; or a tar file; or an address of these.
        workers: shards that are read at the same time; as many as cores by default.
        tell: gets ``("start", {"bytes"})``, then ``("progress", {"bytes"})`` after each shard.

    Returns:
        ``{"path", "items", "shards", "bytes", "ok", "findings"}``; ``ok`` where nothing is damaged,
        a finding has the fields of :class:`fashionbatch.shards.verification.findings.Finding`.

    Raises:
        FashionbatchError: one line that says why there is nothing to check.

    Example:
        >>> fashionbatch.verify("shards/photos")["ok"]  # doctest: +SKIP
        True
    """
    from fashionbatch.shards.verification import verify as verifying

    report = verifying.verify(path, workers=workers or os.cpu_count() or 1, tell=tell)
    return report.to_json()


def inspect(data: str | Location, **options: Any) -> dict[str, Any]:
    """Counts what a data set holds and draws pictures of it.

    Args:
        data: a data set, or tar files; or their address.
        options: the fields of :class:`fashionbatch.config.InspectConfig`, such as ``split``.

    Returns:
        see :func:`fashionbatch.inspection.run.inspect`.

    Raises:
        FashionbatchError: one line that says what cannot be inspected and what to do.

    Example:
        >>> fashionbatch.inspect("shards/photos")["imbalance"]["ratio"]  # doctest: +SKIP
        5.219
    """
    config = make(InspectConfig, options)
    path = located(data)
    from fashionbatch.inspection import run as inspecting

    output = config.output or folders.INSPECTION / name_of(path)
    return inspecting.inspect(path, config, output)
