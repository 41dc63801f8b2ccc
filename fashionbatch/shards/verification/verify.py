"""Checks every byte of a data set, or of tar files made elsewhere, and says what is damaged."""

from __future__ import annotations

from fashionbatch.address import Address, Location, located, refuse_scheme
from fashionbatch.errors import ShardError, UsageError
from fashionbatch.shards.manifest import MANIFEST
from fashionbatch.shards.read import is_shards
from fashionbatch.shards.verification.dataset import verify_dataset
from fashionbatch.shards.verification.findings import Report, Tell
from fashionbatch.shards.verification.foreign import verify_foreign


def verify(
    path: str | Location, *, workers: int = 1, tell: Tell = lambda event, values: None
) -> Report:
    """Reads all of a data set and compares it with what it states of itself.

    Of a data set made by ``shard`` the index, the failures and each shard are compared with their
    SHA-256, each image with its own, and each shard's members with the index. Tar files made
    elsewhere are scanned, and compared with what the first scan has found.

    Args:
        path: a folder, or a tar file; or an address, see
            :func:`fashionbatch.shards.read.open_shards`.
        workers: shards that are read at the same time.
        tell: gets ``("start", {"bytes"})``, then ``("progress", {"bytes"})`` after each shard.

    Raises:
        UsageError: nothing lies there.
        ShardError: what lies there holds no shards.
        RemoteError: a host cannot be reached, or refuses.

    Example:
        >>> verify(Path("shards/fashion-mnist")).ok  # doctest: +SKIP
        True
    """
    path = located(path)
    if isinstance(path, Address):
        return _verify_at(path, workers, tell)
    refuse_scheme(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a data set made by `fashionbatch shard`")
    if (path / MANIFEST).exists():
        return verify_dataset(path, workers, tell)
    if not is_shards(path):
        raise ShardError(
            f"{path} holds no shards (no {MANIFEST}, no *.tar): "
            f"pack it first with `fashionbatch shard {path}`"
        )
    return verify_foreign(path, workers, tell)


def _verify_at(address: Address, workers: int, tell: Tell) -> Report:
    from fashionbatch.remote.trouble import MissingError

    if address.is_pattern or address.path.endswith(".tar"):
        return verify_foreign(address, workers, tell)
    try:
        return verify_dataset(address, workers, tell)
    except MissingError:
        if not address.has_bucket:
            raise
    return verify_foreign(address / "*.tar", workers, tell)
