"""Every error that a user can cause, in one tree.

::

    FashionbatchError            exit code 1: the work could not be done
    ├── UsageError               exit code 2: it was asked for in a way that cannot work
    │   ├── UnknownNameError     no component, class, layer, ... of that name; suggests the nearest
    │   └── OutputExistsError    something is already where the result should go
    ├── SourceError              the catalogue cannot be packed as it is
    ├── ShardError               a shard, its index or its manifest is missing or damaged
    ├── ImageError               one image cannot be used (recorded; never ends a run)
    ├── PluginError              a component's package is broken or missing
    ├── ModelError               a saved model or a weights file cannot be used
    ├── TrainingError            training cannot go on
    ├── RemoteError              a host or bucket cannot be reached, refuses, or is not what it was
    ├── ExecutionError           the workers of an executor cannot be had, or do not fit
    ├── StoppedError             exit code 128 + signal: it was asked to stop; its work is saved
    └── StoreError               a prediction file is damaged, foreign or incomplete

The message of each is one line: what, where, what to do. The command line prints it and exits;
any other exception is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FashionbatchError(Exception):
    """Base of all errors a user can cause; ``str(error)`` is one line for them to read."""

    exit_code = 1


class UsageError(FashionbatchError):
    """A request that cannot work: a wrong option, a missing input, an unknown name."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nothing answers to.

    Args:
        kind: what was looked for, such as ``"backbone"``.
        name: the name asked for.
        known: the names there are; the nearest are suggested.
        hint: what to do, appended to the message; by default the names there are.
        of: how many names there are, where ``known`` holds only those that may have been meant.

    Example:
        >>> str(UnknownNameError("backbone", "resnet5O", ["resnet50", "vgg16"]))
        "no backbone is called 'resnet5O': did you mean 'resnet50'?"
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], hint: str = "", of: int | None = None
    ) -> None:
        names = list(known)
        near = names
        if of is None:
            near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
        if near:
            advice = "did you mean " + " or ".join(repr(n) for n in near) + "?"
        elif of is None and len(names) <= 12:
            listed = ", ".join(names) or "none"
            advice = f"there are {listed}" if len(names) > 1 else f"there is only {listed}"
            if not names:
                advice = "there are none"
        else:
            advice = f"there are {of or len(names):,}"
        super().__init__(f"no {kind} is called {name!r}: {advice}" + (f" ({hint})" if hint else ""))


class OutputExistsError(UsageError):
    """The output is already there and replacing it was not asked for."""


class SourceError(FashionbatchError):
    """A catalogue that cannot be packed: empty, ambiguous, or inconsistent between splits."""


class ShardError(FashionbatchError):
    """A shard, index or manifest that is missing, damaged, or not what its record says."""


class ImageError(FashionbatchError):
    """One image that cannot be used.

    Args:
        stage: where it failed: ``"read"``, ``"decode"``, ``"transform"``, ``"resize"``,
            ``"shard"``, ``"model"``, ``"write"``.
        reason: why, in a few words.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.stage, self.reason)


class PluginError(FashionbatchError):
    """A component whose package is broken, missing, or breaks the plugin contract."""


class ModelError(FashionbatchError):
    """A saved model or a weights file that cannot be used."""


class TrainingError(FashionbatchError):
    """Training that cannot go on, such as a loss that is not finite."""


class RemoteError(FashionbatchError):
    """A host or bucket that cannot be reached, refuses, or gives other bytes than it said."""


class ExecutionError(FashionbatchError):
    """Workers that cannot be had, that die, or that are of another version."""


class StoppedError(FashionbatchError):
    """Work that a signal ended, and that can be gone on with.

    Args:
        message: what is kept, and how to go on.
        signal: number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal  # as shells have it


class StoreError(FashionbatchError):
    """A prediction file or part that is damaged, foreign, or of another run."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun, for messages.

    Example:
        >>> counted(1, "image"), counted(5500, "image"), counted(2, "class", "classes")
        ('1 image', '5,500 images', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
