"""Addresses that stand for several: braces, and on object stores ``*`` and ``[``."""

from __future__ import annotations

import itertools

import braceexpand

from fashionbatch.address import Address
from fashionbatch.errors import UsageError
from fashionbatch.remote import client
from fashionbatch.remote.trouble import MissingError

#: addresses that one can stand for
_MOST = 100_000


def expand(pattern: Address) -> list[Address]:
    """What a pattern stands for: braces in their order, what is listed sorted; each one once.

    Raises:
        MissingError: nothing fits what is to be listed.
        RemoteError: it cannot be listed.
        UsageError: its braces cannot be read, or it stands for too many.

    Example:
        >>> expand(Address("s3://bucket/train-{000..001}.tar"))
        [Address('s3://bucket/train-000.tar'), Address('s3://bucket/train-001.tar')]
    """
    found: dict[Address, None] = {}
    for one in _unbraced(pattern):
        listed = client.find(one) if one.is_pattern else [one]
        if not listed:
            raise MissingError(f"{one} fits nothing: see how it is written")
        found.update(dict.fromkeys(listed))
    return list(found)


def _unbraced(pattern: Address) -> list[Address]:
    if "{" not in pattern.url:
        return [pattern]
    before, mark, query = pattern.url.partition("?")
    try:
        texts = list(itertools.islice(braceexpand.braceexpand(before), _MOST + 1))
    except ValueError as error:
        raise UsageError(f"{pattern}: its braces cannot be read: write {{000..099}}") from error
    if len(texts) > _MOST:
        raise UsageError(f"{pattern} stands for over {_MOST:,} addresses: name fewer")
    return [Address(text + mark + query) for text in texts]
