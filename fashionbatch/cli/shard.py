"""``fashionbatch shard``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fashionbatch import api
from fashionbatch.cli.console import Teller, say, show_json, warn_of_plugins
from fashionbatch.cli.options import Json, with_options
from fashionbatch.config import ShardConfig
from fashionbatch.errors import counted


class _Teller(Teller):
    done: dict[str, Any] | None = None

    def on_scan(self, values: dict[str, Any]) -> None:
        if self.bar is None:
            self.start_bar(None, "reading the catalogue")
        assert self.bar is not None
        self.bar.advance(values["items"] - self.bar.done)

    def on_scanned(self, values: dict[str, Any]) -> None:
        self.close()

    def on_start(self, values: dict[str, Any]) -> None:
        self.start_bar(values["items"])

    def on_done(self, values: dict[str, Any]) -> None:
        self.done = values

    def on_nothing(self, values: dict[str, Any]) -> None:
        say("nothing is new")

    def on_progress(self, values: dict[str, Any]) -> None:
        assert self.bar is not None
        self.bar.advance(values["items"], failed=values["failed"])


def shard(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder, table, or tar files; or URL of a folder or table."
        ),
    ],
    json: Json = False,
    options: Any = None,
) -> None:
    """Pack a catalogue into WebDataset shards with an index."""
    warn_of_plugins()
    tell = _Teller("shard")
    with tell:
        result = api.shard(source, tell=tell, **options)
    if json:
        show_json(result)
    images = counted(result["items"], "image")
    say(f"{images} in {counted(result['shards'], 'shard')}: {result['output']}")
    if tell.done is not None:
        _say_more(tell.done, result)
    if result["failed"]:
        raise typer.Exit(3)


def _say_more(done: dict[str, Any], result: dict[str, Any]) -> None:
    splits = ", ".join(f"{name} {count:,}" for name, count in done["splits"].items())
    classes = counted(done["classes"], "class", "classes") if done["classes"] else "no labels"
    say(f"  {splits}; {classes}")
    if done["added"] != result["items"]:
        say(f"  {counted(done['added'], 'image')} of these were added now")
    if done["resumed"]:
        say(f"  {counted(done['resumed'], 'shard')} had been finished by an interrupted run")
    if result["failed"]:
        failed = counted(result["failed"], "entry is", "entries are")
        say(f"  {failed} not in it: {done['failures']} says why")


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    example = "fashionbatch shard photos/ -o shards/photos"
    app.command("shard")(with_options(ShardConfig, shard, example))
