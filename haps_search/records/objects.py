"""Whole objects of an S3 or Google bucket under one prefix, through pyarrow.

A put is there in full or not at all, and whoever lists or reads afterwards sees it; nothing can be renamed or
appended to. What does not get through is the machines' failure, not the run's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from haps_search.errors import ConfigError, PoolError
from haps_search.faults.kinds import kind_of

SCHEMES = ("s3", "gs")
_SECRET = re.compile("key|secret|token|password|credential|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a changed object is told from an unchanged one: bytes, and nanoseconds since 1970 at the store."""

    size: int
    mtime_ns: int | None


class Objects:
    """The objects under a URI, by names relative to it. Two threads may use one."""

    def __init__(self, uri: str) -> None:
        """Looks at the bucket, so that a wrong address or key is known before anything runs.

        The query is pyarrow's: `s3://bucket/runs?region=eu-west-1&endpoint_override=https%3A%2F%2Fminio.local`.

        Raises:
            ConfigError: no such store, or not for us.
        """
        self.uri = checked(uri)
        try:
            self._files, base = fs.FileSystem.from_uri(self.uri)
            self._base = base.strip("/")
            there = self._files.get_file_info(self._base.split("/")[0]).type
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be opened ({error}): check address, region and credentials", self.uri) from error
        if there == fs.FileType.NotFound:
            raise ConfigError("no such bucket: make it first, haps_search makes none", self.uri)

    @property
    def region(self) -> str | None:
        """Of an S3 bucket, as the address names it or pyarrow found it."""
        return getattr(self._files, "region", None) or None

    def uri_of(self, name: str) -> str:
        """The address of one object, query included."""
        return joined(self.uri, name)

    def put(self, name: str, data: bytes) -> None:
        """Raises PoolError: it is as it was before."""
        with self._reached(name, "written"), self._files.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def put_file(self, name: str, file: Path) -> None:
        """Raises PoolError: it is as it was before."""
        with self._reached(name, "written"):
            fs.copy_files(str(file), self._path(name), source_filesystem=_LOCAL, destination_filesystem=self._files)

    def get(self, name: str) -> bytes | None:
        """The content, None where there is no such object. Raises PoolError."""
        with self._reached(name, "read"):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def get_file(self, name: str, file: Path) -> bool:
        """Copy an object into a new local file; whether it was there. Raises PoolError."""
        with self._reached(name, "read"):
            try:
                fs.copy_files(self._path(name), str(file), source_filesystem=self._files, destination_filesystem=_LOCAL)
            except FileNotFoundError:
                return False
            return True

    def copy(self, source: str, name: str) -> None:
        """Inside the store. Raises PoolError."""
        with self._reached(name, "written"):
            self._files.copy_file(self._path(source), self._path(name))

    def delete(self, name: str) -> None:
        """One that is gone already is no error. Raises PoolError."""
        with self._reached(name, "deleted"):
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

    def delete_folder(self, prefix: str) -> None:
        """All objects under a prefix; none is no error. Raises PoolError."""
        with self._reached(prefix, "deleted"):
            self._files.delete_dir_contents(self._path(prefix), missing_dir_ok=True)

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        """The objects in a folder and its subfolders, by name. Raises PoolError."""
        with self._reached(prefix, "listed"):
            where = fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
            found = self._files.get_file_info(where)
        return {self._name(i.path): Stamp(i.size, i.mtime_ns) for i in found if i.type == fs.FileType.File}

    def folders(self) -> list[str]:
        """Names of the folders right under the prefix. Raises PoolError."""
        with self._reached("", "listed"):
            found = self._files.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        return sorted(i.base_name for i in found if i.type == fs.FileType.Directory)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}".rstrip("/")

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self._base}/")

    @contextmanager
    def _reached(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PoolError(
                f"{self.uri_of(name)}: cannot be {done} ({error}): look after the store and its credentials; what it "
                "has is kept, and the sweep or run goes on from there"
            ).of_kind(kind_of(error)) from error


_LOCAL: Any = fs.LocalFileSystem()


def joined(uri: str, name: str) -> str:
    """The address of what lies under a URI, query included."""
    parts = urlsplit(uri)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def checked(uri: str) -> str:
    """The URI of a runs folder. Raises ConfigError for another scheme, no bucket, or a key written into it."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        named = " or ".join(f"{scheme}://BUCKET/FOLDER" for scheme in SCHEMES)
        raise ConfigError(f"got --runs {parts.scheme}://..., needs {named}, or the path of a folder")
    secrets = [name for name in dict(parse_qsl(parts.query, keep_blank_values=True)) if _SECRET.search(name)]
    if parts.username or parts.password or secrets:
        shown = f"{parts.hostname}/...{secrets[0]}=..." if secrets else f"...@{parts.hostname}"
        raise ConfigError(
            f"--runs {parts.scheme}://{shown}: addresses are shown and written down; put the key into the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise ConfigError(f"got --runs {uri}, needs a bucket and a folder in it, as in {parts.scheme}://BUCKET/runs")
    return uri


PIECE = 65_536


def push_from(objects: Objects, name: str, file: Path, offset: int) -> None:
    """Put what the file has from a byte on; the store has what lies before. Raises PoolError."""
    first = offset // PIECE
    with file.open("rb") as opened:
        opened.seek(first * PIECE)
        data = opened.read()
    starts = range(0, len(data), PIECE)
    for start in reversed(starts):
        objects.put(_piece(name, first + start // PIECE), data[start : start + PIECE])


def pull_whole(objects: Objects, name: str, file: Path) -> bool:
    """Write the file anew from its pieces; whether there are any. Raises PoolError."""
    data, number = b"", 0
    while True:
        piece = objects.get(_piece(name, number))
        data += piece or b""
        if piece is None or len(piece) < PIECE:
            break
        number += 1
    if not data:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(file)
    return True


def _piece(name: str, number: int) -> str:
    return f"{name}/{number:06d}"
