"""What goes wrong with a request, whichever library says so; and which of it may pass."""

from __future__ import annotations

from enum import Enum
from typing import Any

from fashionbatch.address import Address
from fashionbatch.errors import RemoteError

_PASSING_STATUS = (408, 425, 429)
#: by the names of the classes, because not every library is installed
_REASONS = {
    "ClientConnectorDNSError": "there is no such host",
    "ClientConnectorError": "no connection",
    "EndpointConnectionError": "no connection",
    "ConnectTimeoutError": "no connection",
    "TimeoutError": "no answer",
    "FSTimeoutError": "no answer",
    "ReadTimeoutError": "no answer",
    "ServerTimeoutError": "no answer",
    "SocketTimeoutError": "no answer",
    "ConnectionTimeoutError": "no connection",
    "ServerDisconnectedError": "the connection was cut",
    "ClientPayloadError": "the answer was cut short",
    "ClientResponseError": "an answer that makes no sense",
    "IncompleteRead": "the answer was cut short",
    "ResponseStreamingError": "the answer was cut short",
}
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
)
_RIGHTS = {
    "s3": "name who may with AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "FSSPEC_S3_ANON=true asks as nobody, for public buckets",
    "gs": "name who may with GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GS_TOKEN=anon asks as nobody",
}


class MissingError(RemoteError):
    """There is no such object."""


class ChangedError(RemoteError):
    """An object is not the one that was found there first."""


class RefusedError(RemoteError):
    """A host answers, and does not give an object."""


#: what is wrong with one object, and not with the host
OF_ONE = (MissingError, ChangedError, RefusedError)


class Kind(Enum):
    """Of trouble: what is to be done about it."""

    MISSING = "missing"
    FORBIDDEN = "forbidden"
    CHANGED = "changed"
    PASSING = "passing"
    FINAL = "final"


class Trouble(Exception):
    """A request that came to nothing.

    Args:
        kind: of trouble.
        reason: in a few words; without anything that the user or the server wrote, because
            libraries put whole addresses into their messages.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def of_status(status: int) -> Trouble:
    """What an HTTP status other than success means."""
    reason = f"it answers {status}"
    if status in (404, 410):
        return Trouble(Kind.MISSING, reason)
    if status in (401, 403, 407):
        return Trouble(Kind.FORBIDDEN, reason)
    if status in (412, 416):
        return Trouble(Kind.CHANGED, reason)
    if status in _PASSING_STATUS or status >= 500:
        return Trouble(Kind.PASSING, reason)
    return Trouble(Kind.FINAL, reason)


def of_error(error: BaseException) -> Trouble:
    """What an exception of a library means."""
    if isinstance(error, Trouble):
        return error
    status = status_of(error)
    if status is not None and status >= 300:
        return of_status(status)
    if isinstance(error, FileNotFoundError):
        return Trouble(Kind.MISSING, "it is not there")
    if isinstance(error, PermissionError):
        return Trouble(Kind.FORBIDDEN, "no permission")
    if isinstance(error, FileExistsError):  # what gcsfs makes of 412
        return of_status(412)
    if type(error) is OSError and str(error).startswith("Forbidden: "):  # and of 403
        return of_status(403)
    name = type(error).__name__
    if name in _NO_CREDENTIALS:
        return Trouble(Kind.FORBIDDEN, "no credentials are set")
    if "Certificate" in name or "SSL" in name:
        return Trouble(Kind.FINAL, "its certificate cannot be trusted")
    ours = type(error).__module__.partition(".")[0] in ("aiohttp", "aiobotocore", "urllib3")
    if name in _REASONS or ours or isinstance(error, OSError):
        return Trouble(Kind.PASSING, _REASONS.get(name, f"the connection failed ({name})"))
    return Trouble(Kind.FINAL, f"the request failed ({name})")


def told(
    trouble: Trouble, address: Address, seconds: float, *, writes: bool = False
) -> RemoteError:
    """One line for people: what, where, what to do.

    Args:
        trouble: that a request met.
        address: that it was for.
        seconds: that it had.
        writes: it was to change something there.
    """
    reason, what = trouble.reason, "bucket" if address.has_bucket else "host"
    match trouble.kind:
        case Kind.MISSING:
            return MissingError(f"{address} does not exist ({reason}): see how it is written")
        case Kind.FORBIDDEN:
            rights = _RIGHTS.get(address.scheme, "see whether the address needs a user or is old")
            if writes:
                who = rights.partition(";")[0]  # nobody may write as nobody
                return RefusedError(
                    f"{what} {address.host} does not let {address} be written or removed "
                    f"({reason}): have that permitted, or {who}; then run the command again"
                )
            return RefusedError(f"{what} {address.host} refuses {address} ({reason}): {rights}")
        case Kind.CHANGED:
            return ChangedError(
                f"{address} has changed while it was in use ({reason}): run the command again"
            )
        case Kind.PASSING:
            came_to = "took nothing for" if writes else "gave nothing of"
            return RemoteError(
                f"{what} {address.host} {came_to} {address} within {seconds:.3g} s "
                f"({reason}): see whether it can be reached, and run the command again"
            )
    return RefusedError(f"{what} {address.host} cannot give {address}: {reason}")


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception, or what it was made from, knows."""
    if type(error).__module__.startswith("aiohttp"):
        return None  # of answers that make no sense it says 400, which nobody has answered
    found: Any = getattr(error, "code", None)  # of gcsfs
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(found, int):
        return found
    return None if error.__cause__ is None else status_of(error.__cause__)
