"""``fashionbatch shard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, warn_of_broken_plugins
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import ShardConfig


class _Teller(Teller):
    def on_scan(self, values: dict[str, Any]) -> None:
        if self.bar is None:
            self.start_bar(None, "reading the catalogue")
        assert self.bar is not None
        self.bar.advance(values["items"] - self.bar.done)

    def on_scanned(self, values: dict[str, Any]) -> None:
        self.close()

    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])

    def on_progress(self, values: dict[str, Any]) -> None:
        assert self.bar is not None
        self.bar.advance(values["items"], failed=values["failed"])


def shard(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, table, or tar files.")],
    json: Json = False,
    options: Any = None,
) -> None:
    """Pack a catalogue into WebDataset shards with an index."""
    warn_of_broken_plugins()
    with _Teller("shard") as tell:
        result = api.shard(source, tell=tell, **options)
    if json:
        show_json(result)
    failed = f"; {result['failed']} files are not in it, see the failures file there"
    say(
        f"{result['items']} images in {result['shards']} shards: {result['output']}"
        + (failed if result["failed"] else "")
    )
    if result["failed"]:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch shard photos/ -o shards/photos"
    app.command("shard")(with_options(ShardConfig, shard, example))
