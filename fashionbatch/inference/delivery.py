"""An output on an object store: made on this disk, and put there part by part.

What lies there counts; what this disk has of it is a copy that saves fetching it again. Everything
is asked for and written by its name, because listings may be late. Nothing is renamed there, each
part is one request, and what says that all is there comes last. Who puts something there has
claimed the output, see :mod:`fashionbatch.remote.claim`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fashionbatch.address import Address
from fashionbatch.errors import FashionbatchError, OutputExistsError, RemoteError, UsageError
from fashionbatch.inference import output as outputs
from fashionbatch.remote import cache as caches
from fashionbatch.remote import client
from fashionbatch.remote.claim import Claim
from fashionbatch.remote.stores import Object
from fashionbatch.remote.trouble import MissingError
from fashionbatch.store import part as parts
from fashionbatch.store import parts_set
from fashionbatch.store.part import Part

#: bytes that one request may put
_MOST = 5 << 30


class Delivery:
    """Where an output goes.

    Args:
        address: of the output: a file, or a prefix of parts with ``no_merge``.
        no_merge: the parts stay.

    Attributes:
        output: the same on this disk.
        claim: on the output.

    Raises:
        UsageError: nothing can be written there.
        RemoteError: the cache cannot be written to.
    """

    def __init__(self, address: Address, *, no_merge: bool) -> None:
        if not address.has_bucket or address.is_pattern or not address.key.strip("/"):
            raise UsageError(
                f"-o {address}: nothing is written there: name a path, or a file in a bucket, such "
                "as s3://BUCKET/out.h5"
            )
        self.address, self.no_merge = address, no_merge
        self._dispatch: Dispatch | None = None
        try:
            folder = caches.of_user().hold(caches.key_of("output", address.url))
        except OSError as error:
            raise RemoteError(
                f"the cache cannot be written ({error.strerror}): name another folder with "
                "FASHIONBATCH_CACHE"
            ) from error
        name = re.sub(r"[^\w.+-]", "_", address.key.rstrip("/").rpartition("/")[2])
        self.output = folder / f"_{name}" if name.startswith(".") else folder / name
        self._folder = outputs.parts_folder(self.output)
        self._parts = address if no_merge else Address(f"{address.url.rstrip('/')}.parts")
        self.claim = Claim(address, self._parts)

    @contextmanager
    def only_run(self, tell: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
        """Refuses to put what another run is putting there, from this machine or another.

        Args:
            tell: gets ``("warn", {"text"})`` where that run has died.

        Raises:
            OutputExistsError: another run is.
            RemoteError: nothing can be written there.
        """
        with self.claim.held(self.output.parent, tell):
            yield

    def fetch(self, count: int, *, restart: bool) -> None:
        """Makes this disk's copy what lies there; with ``restart``, discards what is begun there.

        Args:
            count: of the parts that the output has.
            restart: the run begins anew.

        Raises:
            RemoteError: it cannot be had, or not be discarded.
        """
        self._names = [_name(number) for number in range(count)]
        begun = [*self._names, parts.ABOUT, outputs.REPLACING]
        if restart:
            self.claim.confirm()
            # the manifest first: without it the parts are nobody's
            client.remove([self._parts / name for name in (parts_set.MANIFEST, *begun)])
        whole = _there([self.address / parts_set.MANIFEST] if self.no_merge else [self.address])
        if self.no_merge:
            self._settle(self.output if whole else self._folder)
            self._take(self.output if whole else self._folder, [*begun, parts_set.MANIFEST])
            return
        self._take(self._folder, begun)
        self.output.unlink(missing_ok=True)
        for found in whole:
            client.fetch(found, self.output)

    def refuse_update(self) -> None:
        """Refuses to change parts that somebody may be reading.

        Raises:
            OutputExistsError: predictions are there.
        """
        if self.no_merge and self.output.exists():
            raise OutputExistsError(
                f"{self.address} holds predictions, which cannot be replaced part by part while "
                "they are read: name another prefix with -o, or discard them with --restart"
            )

    def refresh(self, numbers: Sequence[int]) -> None:
        """Makes this disk's copy of some parts what lies there.

        Workers elsewhere put theirs only there, and one of this machine that died may not have put
        what it had written here.

        Args:
            numbers: of the parts.

        Raises:
            RemoteError: they cannot be had.
        """
        self._take(self._folder, [_name(number) for number in numbers])

    def there(self, count: int) -> list[int]:
        """Which of so many parts lie there, whole or not.

        Raises:
            RemoteError: it cannot be asked.
        """
        found = {one.address for one in _there([self._parts / _name(n) for n in range(count)])}
        return [number for number in range(count) if self._parts / _name(number) in found]

    def commit(self, part: Part) -> None:
        """Puts a part that this disk has.

        Raises:
            RemoteError: it cannot be written.
        """
        if self._dispatch is None:
            self._dispatch = self.dispatch()
        self._dispatch.put(part.shard, (self._folder / _name(part.shard)).read_bytes())

    def dispatch(self) -> Dispatch:
        """What a worker elsewhere puts parts with."""
        said = (self._folder / name for name in (parts.ABOUT, outputs.REPLACING))
        about = {file.name: file.read_bytes() for file in said if file.is_file()}
        return Dispatch(self._parts, about, self.claim)

    def finish(self) -> None:
        """Puts what says that all is there.

        Raises:
            LostError: another run has claimed the output.
            RemoteError: it cannot be written.
        """
        made = self.output / parts_set.MANIFEST if self.no_merge else self.output
        if made.stat().st_size > _MOST:
            raise RemoteError(
                f"{self.address} would have over {_MOST >> 30} GiB, more than one request may put: "
                "the parts are there; run the command with --no-merge and another -o"
            )
        to = self.address / parts_set.MANIFEST if self.no_merge else self.address
        data = made.read_bytes()
        self.claim.confirm()
        client.put(to, data)

    def tidy(self, *, keep_parts: bool) -> None:
        """Removes the parts of an output that was merged, unless they are to be kept.

        Raises:
            RemoteError: they cannot be removed.
        """
        names = [outputs.REPLACING]
        if not (self.no_merge or keep_parts):
            names += [parts.ABOUT, *self._names]
        client.remove([found.address for found in _there([self._parts / n for n in names])])

    def _settle(self, folder: Path) -> None:
        """Has the parts of this disk lie where they are looked for."""
        other = self._folder if folder == self.output else self.output
        if other.is_dir() and not folder.exists():
            other.rename(folder)
        shutil.rmtree(other, ignore_errors=True)

    def _take(self, folder: Path, names: list[str]) -> None:
        there = {one.address: one for one in _there([self._parts / name for name in names])}
        for name in names:
            file, found = folder / name, there.get(self._parts / name)
            if found is None:
                file.unlink(missing_ok=True)
            elif not self._is_same(file, found):
                folder.mkdir(parents=True, exist_ok=True)
                client.fetch(found, file)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _is_same(self, file: Path, found: Object) -> bool:
        """Whether a part of this disk is the one that lies there: it begins with its SHA-256."""
        if not parts.is_whole(file) or file.stat().st_size != found.size:
            return False
        with file.open("rb") as opened:
            seal = opened.read(parts.SEAL)
        return client.read([client.Range(found, 0, parts.SEAL)]) == [seal]


class Dispatch:
    """Puts parts from any machine, with nothing of them on its disk; travels there.

    Args:
        to: the prefix of the parts.
        about: what the parts are of, for messages: names of files and their bytes.
        claim: of the run on its output.
    """

    def __init__(self, to: Address, about: Mapping[str, bytes], claim: Claim) -> None:
        self.to, self._about, self._claim = to, dict(about), claim

    def commit(self, part: Part) -> None:
        """Puts a part.

        Raises:
            RemoteError: it cannot be written.
        """
        self.put(part.shard, parts.to_bytes(part))

    def put(self, number: int, data: bytes) -> None:
        """Puts the bytes of a part, the first time behind what says what it is of.

        Raises:
            LostError: another run has claimed the output.
            RemoteError: it cannot be written.
        """
        self._claim.confirm()
        while self._about:
            name, said = next(iter(self._about.items()))
            client.put(self.to / name, said)
            del self._about[name]
        client.put(self.to / _name(number), data)


@contextmanager
def called(delivery: Delivery | None) -> Iterator[None]:
    """Errors name the output where it is to lie, in place of the copy on this disk."""
    try:
        yield
    except FashionbatchError as error:
        if delivery is not None:
            text = str(error).replace(str(delivery.output), str(delivery.address).rstrip("/"))
            error.args = (text, *error.args[1:])
        raise


def _name(number: int) -> str:
    return parts.path_of(Path(), number).name


def _there(addresses: list[Address]) -> list[Object]:
    found = []
    for one in client.look_at(addresses):
        if isinstance(one, FashionbatchError):
            if not isinstance(one, MissingError):
                raise one
        else:
            found.append(one)
    return found
