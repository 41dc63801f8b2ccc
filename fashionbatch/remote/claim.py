"""A claim on an output at an address: one run writes there, others are refused.

The claim is a small object beside the parts of the output. It is made by the store's own condition
that nothing may lie there yet, and each change of it by the condition that nobody else has changed
it: of several runs that try, one succeeds. A store that knows no conditions is asked afterwards
whose claim lies there, and then two runs that begin in the same moment may both work until the next
part is put.

Whoever has the claim renews it. One that was not renewed for a while is of a run that died, and is
taken over. How long that is, the store says, by its own clock at both ends: those of two machines
may differ, and watching the claim stand still would make every run wait. A run that died on this
machine is known by the lock of a file that it held, which the system gives back whatever ended the
process: numbers of processes are used again, and containers are often called the same.

Before anything is put, the store is asked whether the claim still stands. So a run that was taken
over, because its machine slept or was cut off, puts nothing more, and neither do its workers.
What was on its way in that moment may still arrive: parts of the same run are the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fashionbatch import files
from fashionbatch.address import Address
from fashionbatch.errors import FashionbatchError, OutputExistsError, RemoteError
from fashionbatch.interrupt import Interrupt
from fashionbatch.remote import client
from fashionbatch.remote.trouble import ChangedError, MissingError

#: what the object is called
NAME = "claim.json"
#: seconds between two renewals, and those without one behind which the claim is free
RENEWED, FREE = 20.0, 120.0
#: times that others may be quicker
_TRIES = 5

#: claims of this process: it does not see its own locks
_own: set[str] = set()
#: held while a claim is renewed: a process must not be forked in the middle of a request
_renewing = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_renewing.acquire,
        after_in_parent=_renewing.release,
        after_in_child=_renewing.release,
    )


class LostError(RemoteError):
    """Another run has the claim."""


class Claim:
    """A run's claim; travels to its workers, who only ask whether it stands.

    Args:
        output: that is claimed.
        folder: of its parts, where the claim lies.

    Example:
        >>> with Claim(address, folder).held(locks, tell) as claim:  # doctest: +SKIP
        ...     claim.confirm()
        ...     client.put(address, data)
    """

    def __init__(self, output: Address, folder: Address) -> None:
        self.output, self.address = output, folder / NAME
        self.token = secrets.token_hex(16)
        self.lost: LostError | None = None
        self._tag, self._renewals = "", 0
        self._asked: Interrupt | None = None
        self._since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")

    @contextmanager
    def held(self, folder: Path, tell: Callable[[str, dict[str, Any]], None]) -> Iterator[Claim]:
        """Has the claim within the block, and renews it.

        Args:
            folder: of this disk, the same for all runs here that write to this output.
            tell: gets ``("warn", {"text"})`` where the claim of a run that died is taken over.

        Raises:
            OutputExistsError: another run has it.
            RemoteError: nothing can be written there.
            OSError: nor in the folder.
        """
        lock = folder / f"{self.token}.lock"
        _own.add(self.token)
        try:
            with files.locked(lock):
                ended = threading.Event()
                renewing = threading.Thread(target=self._keep, args=(ended,), daemon=True)
                try:
                    self._take(folder, tell)
                    renewing.start()
                    yield self
                finally:
                    ended.set()
                    if renewing.ident is not None:
                        renewing.join()
                    # the lock of a claim that stays says to this machine that its run is over
                    if not self._tag or self._given_back():
                        lock.unlink(missing_ok=True)
        finally:
            _own.discard(self.token)

    def confirm(self) -> None:
        """Makes sure that the claim stands, before something is put.

        Raises:
            LostError: another run has it, or somebody has removed it.
            RemoteError: the store cannot be asked.
        """
        found = _found(self.address)
        if found is None or found.token != self.token:
            self.lost = self._lost_to(found)
            raise self.lost

    def check(self) -> None:
        """The same as far as it is known, without asking.

        Raises:
            LostError: another run has it.
        """
        if self.lost is not None:
            raise self.lost

    def ends(self, asked: Interrupt) -> None:
        """Asks for an end as soon as the claim is known to be lost."""
        self._asked = asked
        if self.lost is not None:
            asked.ask(signal.SIGTERM, None)

    def _take(self, folder: Path, tell: Callable[[str, dict[str, Any]], None]) -> None:
        died = ""
        for _ in range(_TRIES):
            found = _found(self.address)
            if found is not None and found.token == self.token:
                self._tag = found.tag
                if died:
                    tell("warn", {"text": f"{self.output} is taken over from {died}"})
                return
            died = "" if found is None else self._how_it_died(found, folder)
            # where somebody was quicker, what lies there then says so
            with contextlib.suppress(ChangedError, MissingError):
                self._write("" if found is None else found.tag)
        raise OutputExistsError(
            f"several runs try to write {self.output} just now: wait for the others, or name "
            "another output with -o"
        )

    def _how_it_died(self, found: _Found, folder: Path) -> str:
        """In words.

        Raises:
            OutputExistsError: it lives.
        """
        if found.host == socket.gethostname() and found.token not in _own:
            lock = folder / f"{found.token}.lock"
            if lock.exists():
                with files.locked(lock) as free:
                    if free:
                        lock.unlink(missing_ok=True)
                        return f"a run that died here ({found.who})"
        if found.age >= FREE:
            return f"a run without a sign of life for {found.age:.0f} s ({found.who})"
        raise OutputExistsError(
            f"{self.output} is being written by another run ({found.who}): wait for it, or name "
            f"another output with -o; if it has died, the same command takes over in "
            f"{FREE - found.age:.0f} s"
        )

    def _write(self, tag: str) -> None:
        self._renewals += 1
        about = {
            "token": self.token,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": self._since,
            # a version of its own for each renewal: who wants to take over sees that it lives
            "renewals": self._renewals,
        }
        self._tag = client.replace(self.address, json.dumps(about).encode(), tag)

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(RENEWED):
            try:
                with _renewing:
                    self._renew()
            except LostError as error:
                self.lost = error
                if self._asked is not None:
                    self._asked.ask(signal.SIGTERM, None)
                return
            except FashionbatchError:
                continue  # who puts something is told; and as long as nobody does, it may pass

    def _renew(self) -> None:
        try:
            self._write(self._tag)
        except (ChangedError, MissingError):
            found = _found(self.address)
            if found is None or found.token != self.token:
                raise self._lost_to(found) from None
            self._tag = found.tag  # of a renewal whose answer was lost

    def _given_back(self) -> bool:
        """Removes the claim; whether it is not there any more."""
        try:
            found = _found(self.address)
            if found is None or found.token != self.token:
                return True
            if found.age > FREE / 2:
                return False  # it may be another run's by the time that it is removed
            client.remove([self.address])
        except FashionbatchError:
            return False
        return True

    def _lost_to(self, found: _Found | None) -> LostError:
        if found is None:
            return LostError(
                f"{self.output} is not claimed by this run any more: another one has taken it over "
                f"and is done, or somebody has removed {self.address}; what is finished is kept, "
                "and the same command goes on"
            )
        return LostError(
            f"{self.output} was taken over by another run ({found.who}), because this one gave no "
            f"sign of life for {FREE:.0f} s: it puts nothing more there; wait for the other run, "
            "or name another output with -o"
        )


class _Found(NamedTuple):
    """A claim as it lies there."""

    token: str
    host: str
    process: int
    since: str
    tag: str
    age: float

    @property
    def who(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


def _found(address: Address) -> _Found | None:
    try:
        data, tag, age = client.aged(address)
    except MissingError:
        return None
    try:
        about = json.loads(data)
        token, host, since = (str(about[name]) for name in ("token", "host", "since"))
        # the token names a file
        if bytes.fromhex(token).hex() == token:
            return _Found(token, host, int(about["process"]), since, tag, max(0.0, age))
    except (ValueError, KeyError, TypeError):
        pass
    raise OutputExistsError(f"{address} is no claim of a run: name another output with -o")
