"""Two runs, one output on an object store: one writes it, and dead ones are in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.address import Address
from fashionbatch.errors import OutputExistsError, StoppedError
from fashionbatch.remote import claim as claims
from fashionbatch.remote import client
from fashionbatch.remote.claim import Claim, LostError
from fashionbatch.remote.trouble import ChangedError, Kind, MissingError, of_error
from tests.remote.conftest import BUCKET
from tests.remote.hosts import Gate, Host
from tests.remote.test_outputs import OUT, SET, content, keys, options

__all__ = ["options"]

LIES = "preds/out.h5.parts/claim.json"
ABOUT = {"token": "ab" * 16, "host": "elsewhere", "process": 4711, "since": "today"}
X = Address(f"s3://{BUCKET}/x")


def silent(event: str, values: dict[str, Any]) -> None:
    """Hears nothing."""


@pytest.fixture
def claimed(tmp_path: Path) -> Callable[[str], Any]:
    """``with claimed("disk") as claim`` claims ``X`` as a process with that disk would."""

    @contextmanager
    def go(disk: str, tell: Any = silent) -> Iterator[Claim]:
        folder = tmp_path / disk
        folder.mkdir(exist_ok=True)
        with Claim(X, X).held(folder, tell) as claim:
            yield claim

    return go


def test_conditions(bucket: Any) -> None:
    """What is written on a condition: nothing is there, or just this version."""
    first = client.replace(X, b"one", "")
    with pytest.raises(ChangedError):
        client.replace(X, b"two", "")
    second = client.replace(X, b"two", first)
    with pytest.raises(ChangedError):
        client.replace(X, b"three", first)
    data, tag, age = client.aged(X)
    assert (data, tag) == (b"two", second) and 0 <= age < 60
    client.remove([X])
    with pytest.raises(MissingError):
        client.replace(X, b"three", second)
    with pytest.raises(MissingError):
        client.aged(X)


def test_stores_that_know_no_conditions(gate: Gate, claimed: Any, bucket: Any) -> None:
    """They say so, or that another request is in the way; what lies there then says who has it."""

    def refuse(method: str, path: str, headers: Any) -> int | None:
        if method == "PUT" and ("If-Match" in headers or "If-None-Match" in headers):
            return 409 if len(gate.passed) < 2 else 501
        return None

    gate.refuse = refuse
    with claimed("one") as claim:
        assert json.loads(content(bucket, "x/claim.json"))["token"] == claim.token
        assert [one.status for one in gate.passed] == [404, 409, 501, 200, 200]
        with pytest.raises(OutputExistsError), claimed("two"):
            pass
    assert keys(bucket) == []


def test_google_says_so_in_its_own_way() -> None:
    """What gcsfs raises for 403 and 412 is nothing that passes."""
    assert of_error(OSError("Forbidden: b/o\nno")).kind is Kind.FORBIDDEN
    assert of_error(FileExistsError("b/o")).kind is Kind.CHANGED
    assert of_error(OSError("broken")).kind is Kind.PASSING


def test_one_of_many(gate: Gate, bucket: Any, claimed: Any) -> None:
    """All begin in the same moment, with nothing there, and with what a dead run has left."""
    gate.ages[b"elsewhere"] = 130
    for lies in (None, ABOUT):
        if lies:
            bucket.put_object(Bucket=BUCKET, Key="x/claim.json", Body=json.dumps(lies))
        together = threading.Barrier(8)

        def run(number: int, together: Any = together) -> str:
            together.wait()
            with ExitStack() as stack:
                said = ""
                try:
                    # moto looks and writes in two steps: that two believe in it is possible there
                    claim = stack.enter_context(claimed(f"disk-{number}"))
                except OutputExistsError as error:
                    said = str(error)
                together.wait()
                if not said:
                    try:
                        claim.confirm()
                    except LostError as error:
                        said = str(error)
                together.wait()
                return said

        with ThreadPoolExecutor(8) as threads:
            said = list(threads.map(run, range(8)))
        assert sorted("by another run" in one for one in said) == [False, *[True] * 7]
        assert keys(bucket) == []


DRIVER = """
import sys, time
from pathlib import Path
from fashionbatch.address import Address
from fashionbatch.remote.claim import Claim

x = Address(sys.argv[1])
with Claim(x, x).held(Path(sys.argv[2]), print):
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_killed(gate: Gate, claimed: Any, tmp_path: Path) -> None:
    """The same machine knows at once; another one of the same name waits for a sign of life."""
    (tmp_path / "one").mkdir()
    command = [sys.executable, "-c", DRIVER, X.url, str(tmp_path / "one")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = process.pid
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        for disk in ("one", "two"):
            with pytest.raises(OutputExistsError) as caught, claimed(disk):
                pass
            said = str(caught.value)
            assert said.startswith(f"{X} is being written by another run (process {pid} on ")
            assert "takes over in 1" in said and "\n" not in said
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(OutputExistsError, match=f"process {pid} on"), claimed("two"):
        pass
    told: list[str] = []
    with claimed("one", lambda event, values: told.append(values["text"])) as claim:
        claim.confirm()
        assert told == [t for t in told if f"from a run that died here (process {pid} on" in t]
        assert len(told) == 1
        with pytest.raises(OutputExistsError), claimed("one"):  # of this very process, too
            pass
    assert list((tmp_path / "one").iterdir()) == []


def test_not_given_back(gate: Gate, bucket: Any, claimed: Any, tmp_path: Path) -> None:
    """Where it may not be removed it stays, and this machine knows that its run is over."""
    with claimed("one"):
        gate.refuse = lambda method, path, headers: 403 if method == "DELETE" else None
    assert keys(bucket) == ["x/claim.json"]
    told: list[str] = []
    with claimed("one", lambda event, values: told.append(values["text"])):
        gate.refuse = lambda *request: None
    assert "died here" in told[0] and keys(bucket) == []
    assert list((tmp_path / "one").iterdir()) == []


@pytest.mark.slow
def test_renewed(gate: Gate, claimed: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the answer to a renewal was lost; a store that is out of reach is borne."""
    monkeypatch.setattr(claims, "RENEWED", 0.02)
    with claimed("one") as claim:

        def until_renewed() -> None:
            before = json.loads(content(bucket, "x/claim.json"))["renewals"]
            until = time.monotonic() + 30
            while json.loads(content(bucket, "x/claim.json"))["renewals"] < before + 2:
                assert time.monotonic() < until
                time.sleep(0.02)

        until_renewed()
        mine = json.loads(content(bucket, "x/claim.json"))
        bucket.put_object(Bucket=BUCKET, Key="x/claim.json", Body=json.dumps(mine | {"x": 1}))
        monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "0.5")
        until_renewed()  # with the patience of before
        gate.refuse = lambda *request: 503
        time.sleep(1)
        monkeypatch.setenv("FASHIONBATCH_REMOTE_SECONDS", "20")
        gate.refuse = lambda *request: None
        until_renewed()
        claim.check()
        claim.confirm()


def test_what_is_no_claim(bucket: Any, claimed: Any) -> None:
    """It is left alone, whatever it says."""
    for about in (b"[]", b"no", json.dumps(ABOUT | {"token": "../../x"}).encode()):
        bucket.put_object(Bucket=BUCKET, Key="x/claim.json", Body=about)
        with pytest.raises(OutputExistsError, match=r"x/claim\.json is no claim"), claimed("one"):
            pass
    assert content(bucket, "x/claim.json") == about


@pytest.mark.parametrize("output", [pytest.param(OUT, marks=pytest.mark.slow), SET])
def test_refused_before_any_work(
    output: str, gate: Gate, bucket: Any, data_set: Path, options: dict[str, Any]
) -> None:
    """In one line; when the other gives no sign of life any more, the output is made."""
    given = {**options, "no_merge": output == SET}
    lies = f"{output.removeprefix(f's3://{BUCKET}/')}{'' if output == SET else '.parts'}/claim.json"
    bucket.put_object(Bucket=BUCKET, Key=lies, Body=json.dumps(ABOUT))
    gate.ages[b"elsewhere"] = 23
    told: list[str] = []
    with pytest.raises(OutputExistsError) as caught:
        fashionbatch.predict(data_set, output=output, **given, tell=lambda e, v: told.append(e))
    assert str(caught.value) == (
        f"{output} is being written by another run (process 4711 on elsewhere, since today): "
        "wait for it, or name another output with -o; if it has died, the same command takes over "
        "in 97 s"
    )
    assert told == [] and keys(bucket) == [lies]
    fashionbatch.predict(data_set, output=output, **given, dry_run=True)
    gate.ages[b"elsewhere"] = 123
    warned: list[str] = []

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "warn":
            warned.append(values["text"])
        if event == "progress":
            assert json.loads(content(bucket, lies))["process"] == os.getpid()

    made = fashionbatch.predict(data_set, output=output, **given, tell=tell)
    assert made["predicted"] == 24 and lies not in keys(bucket)
    assert warned == [
        f"{output} is taken over from a run without a sign of life for 123 s (process 4711 on "
        "elsewhere, since today)"
    ]


def test_given_back_on_an_end(bucket: Any, data_set: Path, options: dict[str, Any]) -> None:
    """By Ctrl-C."""

    def stop(event: str, values: dict[str, Any]) -> None:
        if event == "progress" and LIES in keys(bucket):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StoppedError):
        fashionbatch.predict(data_set, output=OUT, **options, tell=stop)
    assert LIES not in keys(bucket)


@pytest.mark.parametrize(
    "how",
    [
        "at the first part",
        "at the last part",
        pytest.param("removed", marks=pytest.mark.slow),
        "noticed by the renewal",
    ],
)
def test_lost_in_the_middle(
    how: str,
    bucket: Any,
    data_set: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stops in one line and puts nothing more; what the other has claimed stays."""
    put = client.put

    def then_lose(address: Address, data: bytes) -> None:
        put(address, data)
        if ("part-000005" if how == "at the last part" else "part-") not in address.key:
            return
        if how == "removed":
            bucket.delete_object(Bucket=BUCKET, Key=LIES)
        else:
            bucket.put_object(Bucket=BUCKET, Key=LIES, Body=json.dumps(ABOUT))
        if how == "noticed by the renewal" and "part-000000" in address.key:
            time.sleep(0.5)  # three parts wait to be written then, and nobody predicts

    monkeypatch.setattr(client, "put", then_lose)
    if how == "noticed by the renewal":
        monkeypatch.setattr(claims, "RENEWED", 0.02)
        monkeypatch.setattr(Claim, "confirm", lambda claim: None)
    with pytest.raises(LostError) as caught:
        fashionbatch.predict(data_set, output=OUT, **options)
    said = str(caught.value)
    if how == "removed":
        assert said.startswith(f"{OUT} is not claimed by this run any more: another one has ")
    else:
        assert said.startswith(f"{OUT} was taken over by another run (process 4711 on elsewhere")
        assert json.loads(content(bucket, LIES)) == ABOUT
    assert "\n" not in said
    left = {*keys(bucket)} - {LIES}
    parts = [key for key in left if "part-" in key]
    assert left == {"preds/out.h5.parts/about.json", *parts}
    if how == "noticed by the renewal":
        assert len(parts) < 6
    else:
        assert len(parts) == (6 if how == "at the last part" else 1)


def drive(source: str, output: str, trained: Path, *more: str) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    command = [sys.executable, "-m", "fashionbatch", "predict", source, "-o", output, "--model"]
    flags = [str(trained), "-b", "4", "-j", "1", "--engine", "eager", "--device", "cpu", *more]
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def held_up(host: Host, data_set: Path, bucket: Any) -> Callable[[subprocess.Popen[str]], None]:
    """Waits until a driver has put two parts; the third shard of ``host``'s does not come."""
    shutil.copytree(data_set, host.root / "photos")
    host.trouble = lambda path, before: 503 if before and "train-000002" in path else None

    def wait(driver: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 60
        while len([key for key in keys(bucket) if "part-" in key]) < 2:
            assert driver.poll() is None and time.monotonic() < until
            time.sleep(0.05)

    return wait


@pytest.mark.slow
def test_two_machines(
    held_up: Any, host: Host, machines: Any, bucket: Any, trained: Path, options: dict[str, Any]
) -> None:
    """Their processes: the second is refused, and the first one's output is a lone run's."""
    source = f"{host.url}/photos"
    with machines.on("one"):
        first = drive(source, SET, trained, "--no-merge")
    try:
        held_up(first)
        with machines.on("two"):
            second = drive(source, SET, trained, "--no-merge")
        said = second.communicate(timeout=60)[1]
        assert second.returncode == 2
        assert said.startswith(f"Error: {SET} is being written by another run (process ")
        assert f"(process {first.pid} on " in said and said.count("\n") == 1
        host.trouble = lambda path, before: None
        assert "24 of 24 predicted" in first.communicate(timeout=60)[1]
    finally:
        first.kill()
        first.wait()
    lone = f"s3://{BUCKET}/lone/set"
    fashionbatch.predict(source, output=lone, no_merge=True, **options)
    made = [key for key in keys(bucket) if key.startswith("preds/")]
    assert len(made) == 8
    for key in made:
        assert content(bucket, key) == content(bucket, key.replace("preds/", "lone/"))


@pytest.mark.slow
def test_killed_here(
    held_up: Any, host: Host, bucket: Any, trained: Path, options: dict[str, Any]
) -> None:
    """After kill -9 this machine goes on at once."""
    source = f"{host.url}/photos"
    driver = drive(source, OUT, trained)
    held_up(driver)
    driver.kill()
    driver.communicate()
    host.trouble = lambda path, before: None
    assert LIES in keys(bucket)
    warned: list[str] = []
    told: dict[str, Any] = {}

    def tell(event: str, values: dict[str, Any]) -> None:
        told[event] = values
        if event == "warn":
            warned.append(values["text"])

    fashionbatch.predict(source, output=OUT, **options, tell=tell)
    (said,) = warned
    assert said.startswith(f"{OUT} is taken over from a run that died here (process {driver.pid} ")
    assert told["resumed"]["parts"] >= 2 and keys(bucket) == ["preds/out.h5"]
