"""Object stores that refuse what is to be written there: one line, nothing lost, no storm."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import fashionbatch
from fashionbatch.api import inference
from fashionbatch.errors import FashionbatchError
from tests.remote.conftest import BUCKET, KEYS
from tests.remote.hosts import Gate
from tests.remote.machines import Apart, Machines
from tests.remote.test_outputs import OUT, SET, content, keys, options

__all__ = ["options"]


class Forbidden:
    """Refuses to let something be written.

    Args:
        name: that its path ends with.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, method: str, path: str, headers: Mapping[str, str]) -> int | None:
        return 403 if method in ("PUT", "DELETE") and path.endswith(self.name) else None


def said_of(caught: pytest.ExceptionInfo[FashionbatchError], address: str) -> None:
    """It is one line that says what may not be written and what to do, and keeps secrets."""
    said = str(caught.value)
    assert f"bucket bucket does not let {address} be written or removed (it answers 403): " in said
    assert "AWS_PROFILE" in said and "\n" not in said
    assert not any(KEYS[name] in said for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


@pytest.mark.parametrize(
    "name",
    [
        "part-000003.h5",
        pytest.param("predictions.json", marks=pytest.mark.slow),
        pytest.param("out.h5", marks=pytest.mark.slow),
    ],
)
def test_refused(
    name: str, gate: Gate, bucket: Any, data_set: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """A part, the file, the manifest: what was put stays, and the same command goes on."""
    no_merge = name == "predictions.json"
    given = {**options, "output": SET if no_merge else OUT, "no_merge": no_merge}
    prefix = f"s3://{BUCKET}/preds/"
    folder = f"{prefix}set/" if no_merge else f"{prefix}out.h5.parts/"
    address = f"{prefix}out.h5" if name == "out.h5" else f"{folder}{name}"
    gate.refuse = Forbidden(f"/{name}")
    with pytest.raises(FashionbatchError) as caught:
        fashionbatch.predict(data_set, **given)
    said_of(caught, address)
    refused = [one for one in gate.passed if one.status == 403]
    assert [f"s3:/{one.path}" for one in refused if one.method == "PUT"] == [address]
    assert len(refused) == 1
    parts = [key.rpartition("/")[2] for key in keys(bucket) if "part-" in key]
    if name.startswith("part-"):  # complete parts are put, also when the run ends with an error
        assert parts[:3] == [f"part-00000{n}.h5" for n in range(3)] and name not in parts
    else:
        assert len(parts) == 6
    gate.refuse = lambda *request: None
    told: dict[str, Any] = {}
    fashionbatch.predict(data_set, **given, tell=lambda event, values: told.update({event: values}))
    assert told["resumed"]["parts"] == len(parts)
    fashionbatch.predict(data_set, **{**given, "output": tmp_path / "here"})
    here = tmp_path / "here"
    for key in keys(bucket):
        file = here / key.rpartition("/")[2] if no_merge else here
        assert content(bucket, key) == file.read_bytes()


def test_refused_before_any_work(
    gate: Gate, bucket: Any, data_set: Path, options: dict[str, Any]
) -> None:
    """Where nothing at all may be written."""
    gate.refuse = Forbidden("")
    told: list[str] = []
    with pytest.raises(FashionbatchError) as caught:
        fashionbatch.predict(data_set, output=OUT, **options, tell=lambda e, v: told.append(e))
    said_of(caught, f"{OUT}.parts/claim.json")
    assert told == [] and [one.method for one in gate.passed] == ["GET", "PUT"]


@pytest.mark.slow
def test_refused_to_a_worker_elsewhere(
    gate: Gate,
    machines: Machines,
    bucket: Any,
    data_set: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Likewise; this machine goes on."""
    apart = Apart(machines)
    given = {**options, "output": OUT, "device": "cpu"}
    gate.refuse = Forbidden("/part-000003.h5")
    with monkeypatch.context() as patch:
        patch.setattr(inference, "executor_of", lambda config: nullcontext(apart))
        with pytest.raises(FashionbatchError) as caught:
            fashionbatch.predict(data_set, executor="apart", **given)
    said_of(caught, f"{OUT}.parts/part-000003.h5")
    assert [one.path for one in gate.passed if one.status == 403] == [
        f"/{BUCKET}/preds/out.h5.parts/part-000003.h5"
    ]
    left = ["about.json", *(f"part-00000{number}.h5" for number in range(3))]
    assert keys(bucket) == [f"preds/out.h5.parts/{name}" for name in left]
    gate.refuse = lambda *request: None
    told: dict[str, Any] = {}
    fashionbatch.predict(data_set, **given, tell=lambda event, values: told.update({event: values}))
    assert told["resumed"]["parts"] == 3 and keys(bucket) == ["preds/out.h5"]
