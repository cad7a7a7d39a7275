"""One object that several processes want to write: a put that counts only where nobody has written since it was read.

The store itself decides (S3's If-Match and If-None-Match, Google's generations), asked through obstore. Where it does
not, or obstore has no credentials for it, it is read again before and after.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from haps_search.errors import PoolError
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import first_line
from haps_search.records.objects import Objects

if TYPE_CHECKING:
    from obstore import PutResult, UpdateVersion
    from obstore.store import GCSStore, MemoryStore, S3Store

_log = logging.getLogger(__name__)
SETTLE_S = 2.0
"""Longer than a put takes, where the store keeps no conditions."""
CALL = timedelta(seconds=5)
"""For each of obstore's tries, and for all of a call's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was read or written: its content, b"" where there is none, and the store's name for just that."""

    data: bytes = b""
    version: UpdateVersion | None = None


class Slot(Protocol):
    """The object. Two threads may not write at once."""

    def read(self) -> Seen:
        """Raises PoolError."""
        ...

    def take(self, seen: Seen, data: bytes) -> Seen | None:
        """Put it in the place of what was seen; None where somebody else has written since.

        Raises PoolError: nobody knows whether it is there.
        """
        ...

    def replace(self, seen: Seen, data: bytes) -> Seen | None:
        """The same, of who has written what was seen."""
        ...


class Conditional:
    """The store decides."""

    def __init__(self, store: S3Store | GCSStore | MemoryStore, name: str, uri: str) -> None:
        self._store, self._name, self._uri = store, name, uri

    def read(self) -> Seen:
        import obstore

        with self._reached("read"):
            try:
                found = obstore.get(self._store, self._name)
            except FileNotFoundError:
                return Seen()
            return Seen(bytes(found.bytes()), _version(found.meta))

    def replace(self, seen: Seen, data: bytes) -> Seen | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._reached("written"):
            try:
                put = obstore.put(self._store, self._name, data, mode=seen.version or "create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return None
            return Seen(data, _version(put))

    take = replace

    def delete(self) -> None:
        """Whoever has written it. Raises PoolError."""
        import obstore

        with self._reached("deleted"):
            obstore.delete(self._store, self._name)

    @contextmanager
    def _reached(self, done: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            raise PoolError(
                f"{self._uri}: cannot be {done} ({first_line(error)}): look after the store and its credentials"
            ).of_kind(kind_of(error)) from error


class ReadAgain:
    """Nobody decides. Fischer's mutual exclusion (Lamport, "A fast mutual exclusion algorithm", ACM TOCS 5:1, 1987):
    write, wait longer than any put may take, and hold it if it still stands. It is right as long as a put takes less
    than `SETTLE_S`.
    """

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects, self._name = objects, name

    def read(self) -> Seen:
        return Seen(self._objects.get(self._name) or b"")

    def replace(self, seen: Seen, data: bytes) -> Seen | None:
        if self.read().data != seen.data:
            return None
        self._objects.put(self._name, data)
        return Seen(data)

    def take(self, seen: Seen, data: bytes) -> Seen | None:
        put = self.replace(seen, data)
        time.sleep(SETTLE_S)
        return put if self.read() == put else None


def slot(objects: Objects, name: str) -> Slot:
    """An object of a store, by the strongest means that it has; which one is logged where it is the weaker."""
    from obstore.exceptions import BaseError

    uri = objects.uri_of(name)
    try:
        store = _store(objects)
        why = lacks(lambda probe: Conditional(store, probe, uri))
        if not why:
            return Conditional(store, name, uri)
    except (PoolError, BaseError) as error:  # pyarrow may reach it otherwise, and says so where it does not
        why = first_line(error)
    _log.warning("%s: %s; it is written, waited for and read again instead", uri, why)
    return ReadAgain(objects, name)


def lacks(opened: Callable[[str], Conditional]) -> str:
    """What a store does not do that it was asked for, in words; some take every put and say nothing.

    Raises PoolError.
    """
    probe = opened(f".probe-{uuid.uuid4().hex}")
    first = probe.replace(Seen(), b"1")
    try:
        if first is None or probe.replace(Seen(), b"2") is not None:
            return "the store puts an object that is there although none may be (If-None-Match)"
        second = probe.replace(first, b"3")
        if second is None or probe.replace(first, b"4") is not None:
            return "the store puts an object over another than was named (If-Match)"
    finally:
        probe.delete()
    return ""


def _store(objects: Objects) -> S3Store | GCSStore:
    """The same place, with the same credentials. Raises PoolError where obstore has none."""
    from obstore.store import GCSStore, S3Store

    parts = urlsplit(objects.uri)
    bucket, prefix, query = parts.netloc, parts.path.strip("/"), dict(parse_qsl(parts.query))
    common: dict[str, Any] = {
        "prefix": prefix,
        "client_options": {"timeout": CALL, "connect_timeout": CALL, "allow_http": True},
        "retry_config": {"max_retries": 3, "retry_timeout": CALL},
    }
    where = query.get("endpoint_override", "")
    if where and "://" not in where:
        where = f"{query.get('scheme', 'https')}://{where}"
    if parts.scheme == "gs":
        if where:
            common["base_url"] = where
        return GCSStore(bucket, **common)
    if where:
        common["endpoint"] = where
    if objects.region:
        common["region"] = objects.region
    return S3Store(bucket, **common, credential_provider=_profile())


def _profile() -> Any:
    """None where obstore finds keys by itself: in variables, or of a role that the machine, the container or the
    service account has. A profile's keys in files are read by boto3."""
    usual = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    files = (Path(os.environ.get(name, path)).expanduser() for name, path in usual.items())
    if "AWS_ACCESS_KEY_ID" in os.environ or not any(file.is_file() for file in files):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except (ImportError, ValueError) as error:
        raise PoolError(f"keys of a profile are read by boto3 ({first_line(error)})") from error


def _version(told: PutResult | Any) -> UpdateVersion:
    """Without what the store does not say: a None is refused."""
    version: Any = {key: told[key] for key in ("e_tag", "version") if told[key] is not None}
    return version
