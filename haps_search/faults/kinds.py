"""Which of other people's errors pass by themselves: one table from exceptions to `Kind`. It imports none of them."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from haps_search.errors import HapsError, Kind

ERRNO: dict[int, Kind] = {
    **dict.fromkeys(
        (
            *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOLCK),
            *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ESHUTDOWN),
            *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET),
            *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE),
            *(errno.EAGAIN, errno.EBUSY, errno.EINTR),
        ),
        Kind.TRANSIENT,
    ),
    **dict.fromkeys(
        (
            *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOEXEC, errno.ENAMETOOLONG, errno.ELOOP),
            *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS),
        ),
        Kind.PERMANENT,
    ),
}
"""Of the operating system's errors; room on a disk counts as what passes, since others make it."""

NAMES: dict[str, Kind] = {
    # Python's own
    **dict.fromkeys(
        (
            *("builtins.MemoryError", "builtins.TimeoutError", "builtins.ConnectionError"),
            *("http.client.IncompleteRead", "ssl.SSLEOFError", "ssl.SSLZeroReturnError"),
        ),
        Kind.TRANSIENT,
    ),
    **dict.fromkeys(("ssl.SSLCertVerificationError", "builtins.FileNotFoundError"), Kind.PERMANENT),
    # HTTP clients; what a server said is told by its status
    **dict.fromkeys(
        (
            *("requests.exceptions.ConnectionError", "requests.exceptions.Timeout"),
            "requests.exceptions.ChunkedEncodingError",
            *("aiohttp.client_exceptions.ClientConnectionError", "aiohttp.client_exceptions.ClientPayloadError"),
            *("urllib3.exceptions.TimeoutError", "urllib3.exceptions.ProtocolError", "urllib3.exceptions.PoolError"),
            *("httpx.TransportError", "httpx2.TransportError"),
        ),
        Kind.TRANSIENT,
    ),
    # the openai client: no answer, or one that is no chat completion
    **dict.fromkeys(("openai.APIConnectionError", "openai.APITimeoutError"), Kind.TRANSIENT),
    # the hub: not in the cache, and why it could not be fetched lies beneath
    "huggingface_hub.errors.OfflineModeIsEnabled": Kind.PERMANENT,
    "huggingface_hub.errors.LocalEntryNotFoundError": Kind.UNKNOWN,
    # CUDA
    "torch.OutOfMemoryError": Kind.TRANSIENT,
    # Ray
    **dict.fromkeys(
        (
            *("ray.exceptions.ActorUnavailableError", "ray.exceptions.GetTimeoutError", "ray.exceptions.RpcError"),
            *("ray.exceptions.ObjectLostError", "ray.exceptions.ObjectStoreFullError", "ray.exceptions.OutOfDiskError"),
            *("ray.exceptions.NodeDiedError", "ray.exceptions.LocalRayletDiedError"),
        ),
        Kind.TRANSIENT,
    ),
    "ray.exceptions.AuthenticationError": Kind.PERMANENT,
    # databases, MLflow's among them
    **dict.fromkeys(
        ("sqlalchemy.exc.OperationalError", "sqlalchemy.exc.TimeoutError", "sqlite3.OperationalError"), Kind.TRANSIENT
    ),
    **dict.fromkeys(
        ("sqlalchemy.exc.IntegrityError", "sqlalchemy.exc.ProgrammingError", "sqlalchemy.exc.ArgumentError"),
        Kind.PERMANENT,
    ),
    # object stores
    **dict.fromkeys(("botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError"), Kind.TRANSIENT),
    **dict.fromkeys(
        ("botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError"), Kind.PERMANENT
    ),
    **dict.fromkeys(
        ("obstore.exceptions.PermissionDeniedError", "obstore.exceptions.UnauthenticatedError"), Kind.PERMANENT
    ),
    "obstore.exceptions.NotSupportedError": Kind.PERMANENT,
}
"""By the qualified name of a class; the nearest class of an error's that stands here decides, and UNKNOWN leaves it to
what lies beneath the error."""

TEXTS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    # pyarrow's stores say in words what the service answered
    (
        re.compile(r"AWS Error (ACCESS_DENIED|NO_SUCH_\w+|INVALID_\w+|SIGNATURE_\w+|UNRECOGNIZED_CLIENT)"),
        Kind.PERMANENT,
    ),
    (re.compile(r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|THROTTLING)"), Kind.TRANSIENT),
    (re.compile(r"AWS Error (INTERNAL_FAILURE|REQUEST_TIMEOUT|REQUEST_TIME_TOO_SKEWED)"), Kind.TRANSIENT),
    (re.compile(r"google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL)"), Kind.TRANSIENT),
    (re.compile(r"google::cloud::Status\((PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND)"), Kind.PERMANENT),
    # obstore, in Rust
    (
        re.compile(r"non-2xx status code: (5\d\d|408|429)|HTTP error: (error sending request|.*timed out)"),
        Kind.TRANSIENT,
    ),
    (re.compile(r"non-2xx status code: 4\d\d"), Kind.PERMANENT),
    # CUDA as older versions of torch and other libraries say it
    (re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"), Kind.TRANSIENT),
    # Ray, of an actor whose node is gone
    (
        re.compile(r"[Tt]he actor died because its node has died|node was terminated|node.{0,40}preempted"),
        Kind.TRANSIENT,
    ),
)
"""Where a library keeps its reason in the text only."""

_OS_ERROR = re.compile(r"\bos error (\d+)\b")
_HTTP_STATUS = re.compile(r"\bHTTP (?:status|response code)[: ]+(\d{3})\b", re.IGNORECASE)
_PASSING_STATUS = frozenset({408, 409, 425, 429})


def kind_of(error: BaseException) -> Kind:
    """An error's kind: its own where it is ours, else the table's, of it or of the first beneath it that is known."""
    return next((kind for link in chain(error) if (kind := _kind(link)) is not Kind.UNKNOWN), Kind.UNKNOWN)


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from, nearest first; Ray keeps what a task raised as `cause`."""
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        told = getattr(error, "cause", None)
        beneath = told if isinstance(told, BaseException) else error.__cause__
        error = beneath or (None if error.__suppress_context__ else error.__context__)
    return links


def of_status(status: int) -> Kind:
    """Of an HTTP status: what a server may answer otherwise the next time."""
    if status in _PASSING_STATUS or status >= 500:
        return Kind.TRANSIENT
    return Kind.PERMANENT if status >= 400 else Kind.UNKNOWN


def pause_asked(error: BaseException) -> float:
    """Seconds that a server asked to be left alone for (`Retry-After`, in seconds or as a date); 0 where it did not."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    said = headers.get("retry-after") if hasattr(headers, "get") else None
    if not isinstance(said, str):
        return 0.0
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # neither a number nor a date with its zone
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _kind(error: BaseException) -> Kind:
    if isinstance(error, HapsError):
        # Ray's double of what a task raised is of both classes, and has its class's kind: the cause has its own.
        told = getattr(error, "cause", None)
        return told.kind if isinstance(told, HapsError) else error.kind
    if getattr(error, "preempted", False) is True:
        return Kind.TRANSIENT
    found = (*_by_status(error), *_by_errno(error), *_by_text(error), *_by_name(error))
    return next((kind for kind in found if kind is not Kind.UNKNOWN), Kind.UNKNOWN)


def _by_status(error: BaseException) -> Iterator[Kind]:
    status = _status(error)
    if status is not None:
        yield of_status(status)


def _by_errno(error: BaseException) -> Iterator[Kind]:
    if isinstance(error, OSError) and error.errno is not None and not _is_of(error, "ssl.SSLError", "socket.gaierror"):
        yield ERRNO.get(error.errno, Kind.UNKNOWN)


def _by_text(error: BaseException) -> Iterator[Kind]:
    text = str(error)
    yield from (kind for pattern, kind in TEXTS if pattern.search(text))
    said = _OS_ERROR.search(text)  # libraries in Rust keep the number in their text only
    if said is not None:
        yield ERRNO.get(int(said[1]), Kind.UNKNOWN)


def _by_name(error: BaseException) -> Iterator[Kind]:
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]
    nearest = next((NAMES[name] for name in names if name in NAMES), None)
    if nearest is not None:
        yield nearest


def _is_of(error: BaseException, *names: str) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}" in names for cls in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """As requests and httpx, botocore, aiohttp, urllib and MLflow keep it; pyarrow says it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    asked = getattr(error, "get_http_status_code", None) if _is_of(error, "mlflow.exceptions.MlflowException") else None
    candidates = (
        response,
        getattr(response, "status_code", None),
        getattr(error, "status", None),
        asked() if asked is not None else None,
    )
    found = next((one for one in candidates if isinstance(one, int) and 100 <= one < 600), None)
    said = _HTTP_STATUS.search(str(error)) if found is None and isinstance(error, OSError) else None
    return int(said[1]) if said is not None else found
