"""``fashionbatch verify``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Bar, Teller, safe, show_json, show_table
from fashionbatch.cli.options import Json

_LISTED = 20
_MB = 10**6


class _Teller(Teller):
    def on_start(self, values: dict[str, Any]) -> None:
        self.bytes = 0
        self.bar = Bar(self.title, values["bytes"] // _MB, unit="MB").__enter__()

    def on_progress(self, values: dict[str, Any]) -> None:
        assert self.bar is not None
        self.bytes += values["bytes"]
        self.bar.advance(self.bytes // _MB - self.bar.done)


def verify(
    shards: Annotated[
        str, typer.Argument(metavar="SHARDS", help="Data set, or tar files; path or address.")
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-j",
            metavar="N",
            min=1,
            help="Shards read at the same time. [default: the cores]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check every byte of a data set and say what is damaged.

    Exit codes: 0 whole, 1 damaged, 3 whole but for samples that are left out.

    Example: fashionbatch verify shards/photos
    """
    with _Teller("verify") as tell:
        report = api.verify(shards, workers=workers, tell=tell)
    if json:
        show_json(report)
    else:
        _show(report)
    if not report["ok"]:
        raise typer.Exit(1)
    if _of(report, "skipped"):
        raise typer.Exit(3)


def _show(report: dict[str, Any]) -> None:
    findings = report["findings"]
    if findings:
        show_table(
            _count(len(findings), "finding"),
            ["shard", "item", "severity", "what"],
            [
                [
                    f["shard"],
                    " ".join(filter(None, (f["key"], f["name"]))),
                    f["severity"],
                    f["reason"],
                ]
                for f in findings[:_LISTED]
            ],
        )
    if len(findings) > _LISTED:
        typer.echo(f"and {len(findings) - _LISTED:,} more (--json lists all)")
    what = f"{_count(report['items'], 'item')} in {_count(report['shards'], 'shard')}"
    typer.echo(safe(f"{what}: {_verdict(report)}"))


def _verdict(report: dict[str, Any]) -> str:
    damaged = {f["shard"] for f in (*_of(report, "refused"), *_of(report, "damaged"))}
    tars = {name for name in damaged if name.endswith(".tar")}
    said = [f"{name} damaged" for name in sorted(damaged - tars)]
    if tars:
        said.append(f"{_count(len(tars), 'shard')} damaged")
    skipped = _of(report, "skipped")
    if skipped:
        said.append(f"{_count(len(skipped), 'sample')} skipped")
    return ", ".join(said) or "whole"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _of(report: dict[str, Any], severity: str) -> list[dict[str, Any]]:
    return [f for f in report["findings"] if f["severity"] == severity]


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command("verify")(verify)
