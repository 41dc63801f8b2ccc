"""A computation as its folder has it: what is there of it, what is missing, who holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashionbatch import files
from fashionbatch.models.cut import Crossing
from fashionbatch.training.activations import kept
from fashionbatch.training.activations import part as parts
from fashionbatch.training.activations.kept import Hold
from fashionbatch.training.activations.part import Collected, Part, Stored

#: the entry of ``about`` that says what computed it
ENGINE = "engine"


@dataclass(kw_only=True)
class Begun:
    """Some or all parts of a computation.

    Attributes:
        path: of its folder.
        about: all that its numbers depend on, as JSON values.
        wanted: the parts that it consists of.
        stored: those that are on the disk, by number.
        hold: on the folder, as soon as there is one.
    """

    path: Path
    about: Mapping[str, Any]
    wanted: Sequence[Part]
    stored: dict[int, Stored] = field(default_factory=dict)
    hold: Hold | None = None

    @property
    def key(self) -> str:
        """Stands for ``about``."""
        return files.fingerprint(self.about)

    @property
    def missing(self) -> list[Part]:
        """The parts that are not on the disk."""
        return [part for part in self.wanted if part.number not in self.stored]

    @property
    def images(self) -> int:
        """Views of images that are on the disk."""
        return sum(len(part.rows) for part in self.wanted if part.number in self.stored)

    def start(self) -> None:
        """Makes the folder, and says in it what it is of.

        Raises:
            OSError: it cannot be written.
        """
        self.hold = self.hold or Hold(self.path)
        files.write_json(self.path / kept.ABOUT, self.about)

    def commit(self, collected: Collected) -> None:
        """Writes a part.

        Raises:
            TrainingError: it cannot be written.
        """
        self.stored[collected.part.number] = collected.commit(self.path, self.key)


def new(folder: Path, about: Mapping[str, Any], wanted: Sequence[Part]) -> Begun:
    """A computation of which nothing is there.

    Args:
        folder: of all computations.
        about: all that its numbers depend on.
        wanted: its parts.
    """
    path = folder / kept.name_of(files.fingerprint(about))
    return Begun(path=path, about=about, wanted=wanted)


def find(
    folder: Path,
    about: Mapping[str, Any],
    fits: Callable[[Mapping[str, Any]], bool],
    wanted: Sequence[Part],
    crossing: Sequence[Crossing],
) -> Begun | None:
    """What an earlier run has computed of the same; the fullest where several engines began it.

    Args:
        folder: of all computations.
        about: all that the numbers depend on, but for the engine.
        fits: whether what an engine has begun may be used.
        wanted: the parts.
        crossing: what is kept of each image.
    """
    best: Begun | None = None
    for path, said in kept.abouts(folder):
        engine = said.get(ENGINE)
        rest = {name: value for name, value in said.items() if name != ENGINE}
        same = files.fingerprint(rest) == files.fingerprint(about)
        if not same or not isinstance(engine, dict) or not fits(engine):
            continue
        each = Begun(path=path, about=said, wanted=wanted, hold=Hold(path))
        for part in wanted:
            stored = parts.read(path, each.key, part, crossing)
            if stored is not None:
                each.stored[part.number] = stored
        if best is None or len(each.stored) > len(best.stored):
            best = each
        if not best.missing:
            break
    return best
