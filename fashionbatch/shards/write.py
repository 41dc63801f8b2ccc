"""Packs a source into a data set: shards first, each whole or not there, the manifest last.

Everything is made in a hidden folder beside the output, which is only touched when all shards are
finished. What an interrupted run has finished stays in that folder, and the next run of the same
source, options and seed goes on from there, to the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.errors import OutputExistsError, SourceError, StoppedError, UsageError, counted
from fashionbatch.execution.executor import Executor
from fashionbatch.execution.lending import Lending
from fashionbatch.execution.local import Local
from fashionbatch.execution.worker import StoppedHere
from fashionbatch.interrupt import interrupts
from fashionbatch.shards import plan as plans
from fashionbatch.shards.catalogue import Catalogue, FailureLog, collect, to_line
from fashionbatch.shards.growth import lacking, open_growing, state_of
from fashionbatch.shards.index import Index
from fashionbatch.shards.manifest import FileRecord, Manifest, is_ours
from fashionbatch.shards.pack import Packed, Packer, Prepare
from fashionbatch.shards.read import ShardSet, open_shards
from fashionbatch.shards.select import Selection
from fashionbatch.shards.twins import drop_twins, find_twins, torn_groups
from fashionbatch.shards.workers import Recipe, Shelf
from fashionbatch.shards.workplace import Workplace, has_our_name, workplace
from fashionbatch.sources import Source
from fashionbatch.sources.base import to_text

_SPOOL = "items.spool"
_INDEX = "index.h5"
_FAILURES = "failures.jsonl"

#: gets (event, values)
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to pack, and how.

    Attributes:
        source: to read.
        output: folder to make, or to add to.
        prepare: looks at each image, in the worker processes.
        selection: what of the source to pack.
        split: shares of the splits, in place of the source's own; else ``default_split`` for
            labelled items whose source has none.
        group_by: metadata, or ``"folder"``, that keeps items in one split.
        exclude_label: labels whose items are left out.
        allow_missing_classes, allow_new_classes: see :func:`fashionbatch.shards.plan.make`.
        drop_duplicates: of items with the same bytes only the first is packed.
        samples_per_shard: most items of a shard.
        workers: processes.
        replace: a data set at ``output`` is replaced.
        append: items that a data set at ``output`` lacks are added to it.
        about: recorded in the manifest.
        settings: of ``prepare``; shards that were written with others are written again.
        sample: marks a data set that comes with fashionbatch.
    """

    source: Source
    output: Path
    prepare: Prepare
    selection: Selection = Selection()
    split: Mapping[str, float] | None = None
    default_split: Mapping[str, float] = field(default_factory=dict)
    group_by: str | None = None
    exclude_label: tuple[str, ...] = ()
    allow_missing_classes: bool = False
    allow_new_classes: bool = False
    drop_duplicates: bool = False
    samples_per_shard: int = 1000
    workers: int = 1
    replace: bool = False
    append: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: bool = False


def write(
    job: Job, tell: Tell = lambda event, values: None, executor: Executor | None = None
) -> Manifest:
    """Packs a source.

    Args:
        job: what and how.
        tell: gets ``("scan", {"items"})`` while the source is read, ``("start", {"items",
            "shards", "classes"})``, ``("progress", {"items", "failed"})`` and ``("warn",
            {"text"})``.
        executor: has workers pack; by default on this machine.

    Returns:
        the manifest, as written.

    Raises:
        OutputExistsError: something is at the output that may not be replaced.
        SourceError: nothing can be packed, or nothing can be written.
        StoppedError: a signal asked for it; finished shards are kept.
    """
    _refuse(job)
    with workplace(job.output) as place:
        before = _refuse(job)  # again: another process may have finished in between
        if before is not None:
            job = _like(job, before.manifest)
        log = FailureLog(place.work / _FAILURES)
        catalogue = _collect(job, place, log, before, tell)
        with closing(catalogue.spool):
            plan = plans.make(
                catalogue,
                selection=job.selection,
                split=job.split,
                default_split=job.default_split,
                by_group=job.group_by is not None,
                allow_missing_classes=job.allow_missing_classes,
                samples_per_shard=job.samples_per_shard,
                before=state_of(before) if before else None,
                allow_new_classes=job.allow_new_classes,
                distinct=lambda chosen: (
                    drop_twins(chosen, job.source, log, before) if job.drop_duplicates else chosen
                ),
            )
        if before is not None and not plan.items:
            place.sweep(before.manifest)
            tell("nothing", {"items": len(before)})
            return before.manifest
        for text in plan.warnings:
            tell("warn", {"text": text})
        packed = _pack(job, plan, place, before, executor or Local(), tell)
        log.close()
        manifest = _finish(job, plan, packed, place, log, before)
        if before is None:
            manifest.save(place.data)
            place.take_name()
        else:
            place.add_to(manifest)
    assert manifest.failures is not None
    tell(
        "done",
        {
            "splits": manifest.splits,
            "classes": len(manifest.classes),
            "added": manifest.items - (len(before) if before else 0),
            "resumed": sum(p.kept for p in packed),
            "failures": str(job.output / manifest.failures.file),
        },
    )
    for text in _advice(open_shards(job.output)):
        tell("warn", {"text": text})
    return manifest


def _advice(shards: ShardSet) -> Iterator[str]:
    """What makes a test look better than it is."""
    twins = find_twins(shards.index.sha256, shards.splits, shards.labels)
    if twins.images:
        across = f", {twins.across:,} of them in another split" if twins.across else ""
        conflicts = f", {twins.conflicts:,} with another label" if twins.conflicts else ""
        images = counted(twins.images, "image has", "images have")
        yield (
            f"{images} the same bytes as an earlier one{across}{conflicts}: --drop-duplicates "
            "leaves out all but the first"
        )
    torn = torn_groups(shards.index.group, shards.splits)
    if torn:
        products = counted(torn, "product has", "products have")
        yield (
            f"{products} photographs in several splits: --split with --group-by keeps each in one"
        )


def _refuse(job: Job) -> ShardSet | None:
    """Checks what is at the output.

    Returns:
        the data set to add to.
    """
    output = job.output
    if job.append:
        return open_growing(output, job.about.get("pixels"), job.source.attributes)
    if not output.exists():
        return None
    if not output.is_dir():
        raise OutputExistsError(f"{output} is a file: choose another output with -o")
    if any(output.iterdir()):
        if not is_ours(output):
            raise OutputExistsError(
                f"{output} holds something else than a data set: choose another output with -o"
            )
        if not job.replace:
            raise OutputExistsError(
                f"{output} exists: choose another output with -o, add to it with --append, or "
                "replace it with --exist-ok"
            )
        others = [p.name for p in sorted(output.iterdir()) if not has_our_name(p)]
        if others:
            raise OutputExistsError(
                f"{output} holds other things beside its data set ({others[0]!r}), which would be "
                "lost: move them away, or choose another output with -o"
            )
    return None


def _like(job: Job, made: Manifest) -> Job:
    """The job with what decides about splits as it was when the data set was made.

    Raises:
        UsageError: another column for groups.
    """
    group_by = made.source.get("group_by")
    if job.group_by not in (None, group_by):
        was = f"--group-by {group_by}" if group_by else "no --group-by"
        raise UsageError(f"--append: {job.output} was made with {was}, not {job.group_by}")
    return replace(
        job,
        group_by=group_by,
        exclude_label=job.exclude_label or tuple(made.source.get("exclude_label", ())),
        default_split=made.source.get("split") or job.default_split,
    )


def _collect(
    job: Job, place: Workplace, log: FailureLog, before: ShardSet | None, tell: Tell
) -> Catalogue:
    catalogue = collect(
        job.source,
        place.work / _SPOOL,
        log,
        seed=job.selection.seed,
        group_by=job.group_by,
        exclude_label=job.exclude_label,
        warn=lambda text: tell("warn", {"text": text}),
        progress=lambda count: tell("scan", {"items": count}),
    )
    if before is not None:
        catalogue = lacking(catalogue, before, job.selection.seed)
    tell("scanned", {"items": len(catalogue), "failed": log.count})
    return catalogue


def _pack(
    job: Job,
    plan: plans.Plan,
    place: Workplace,
    before: ShardSet | None,
    executor: Executor,
    tell: Tell,
) -> list[Packed]:
    known = before.manifest.attributes if before and not job.source.attributes else ()
    packer = Packer(
        source=job.source,
        prepare=job.prepare,
        spool=place.work / _SPOOL,
        classes=plan.classes,
        data=place.data,
        work=place.work,
        added=job.output if job.append else None,
        unknown=tuple(range(len(known))),
        settings=job.settings,
    )
    count = min(executor.workers() or job.workers, len(plan.tasks))
    synced: list[Future[None]] = []
    with ThreadPoolExecutor(2) as syncing, interrupts() as asked:

        def put(packed: Packed) -> None:
            path = place.data / packed.record.file
            if path.exists():  # synced while the next ones are packed
                synced.append(syncing.submit(files.sync, path))
            failed = len(packed.failures)
            tell("progress", {"items": packed.record.items + failed, "failed": failed})

        tell(
            "start",
            {"items": plan.items, "shards": len(plan.tasks), "classes": len(plan.classes)},
        )
        shelf = Shelf(plan.tasks, put, tell)
        recipe = Recipe(packer=packer, tasks=plan.tasks)
        lending = Lending(
            range(len(plan.tasks)),
            stage=shelf,
            worker=recipe,
            asked=asked,
            places=[""] * count,
            most=1,
            here=recipe(""),
            forks=True,
        )
        try:
            executor.run(lending)
        except StoppedHere:
            raise StoppedError(
                f"stopped: finished shards are kept beside {job.output}; the same command goes on "
                "from there",
                asked.signal,
            ) from None
        for future in synced:
            future.result()
    return shelf.shards


def _finish(
    job: Job,
    plan: plans.Plan,
    packed: list[Packed],
    place: Workplace,
    log: FailureLog,
    before: ShardSet | None,
) -> Manifest:
    """Writes index and failures; shards that hold no item are left out."""
    old = before.manifest if before else None
    filled = [p for p in packed if p.record.items]
    if not filled and before is None:
        first = next(f for p in packed for f in p.failures)
        for empty in packed:  # nothing to go on from
            empty.part.unlink()
        raise SourceError(
            f"none of the {plan.items} files is an image that can be used "
            f"({first.name!r}: {first.reason}): nothing was written"
        )
    parts = [p.index(number) for number, p in enumerate(filled, len(old.shards) if old else 0)]
    index = Index.joined([before.index, *parts] if before else parts)
    # new names when a data set grows: until its manifest is replaced, it is the old one
    names = (f"index-{old.keys}.h5", f"failures-{old.keys}.jsonl") if old else (_INDEX, _FAILURES)
    index.save(place.data / names[0])
    failed = _write_failures(place.data / names[1], log, packed, before, index)
    records = [FileRecord(file=n, sha256=files.sha256(place.data / n)) for n in names]
    place.keep({*names, *(p.record.file for p in filled)})
    return Manifest(
        name=to_text(job.output.name),
        classes=plan.classes,
        class_types=plan.class_types,
        attributes=tuple(job.source.attributes) or (old.attributes if old else ()),
        items=len(index),
        failed=failed,
        keys=(old.keys if old else 0) + plan.items,
        shards=(*(old.shards if old else ()), *(p.record for p in filled)),
        index=records[0],
        failures=records[1],
        source=old.source
        if old
        else {
            **job.about,
            "split": plan.shares,
            "group_by": job.group_by,
            "exclude_label": list(job.exclude_label),
        },
        sample=job.sample,
    )


def _write_failures(
    path: Path, log: FailureLog, packed: list[Packed], before: ShardSet | None, index: Index
) -> int:
    """All failures in one file; of a data set that grows, the older ones that still hold too.

    Returns:
        how many.
    """
    count = log.count
    with files.atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        if before is not None:
            assert before.manifest.failures is not None
            gone = {index.name[row] for row in range(len(before), len(index))}
            gone |= {f.name for p in packed for f in p.failures} | log.names()
            older = before.folder / before.manifest.failures.file
            with older.open(encoding="utf-8") as lines:
                for line in lines:
                    if json.loads(line)["name"] not in gone:
                        count += 1
                        file.write(line)
        with log.path.open(encoding="utf-8") as lines:
            shutil.copyfileobj(lines, file)
        for shard in packed:
            for failure in shard.failures:
                count += 1
                file.write(to_line(failure))
    return count
