"""A real S3 server on loopback, with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

BUCKET = "shared"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3:
    """A server that can be out of reach for a while. What it holds is this process's, and is there again afterwards."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, 0
        self.start()
        self._endpoint = f"http://{host}:{self._port}"

    def uri(self, folder: str = "runs") -> str:
        return f"s3://{BUCKET}/{folder}?region=us-east-1&endpoint_override={quote(self._endpoint, safe='')}"

    def start(self) -> None:
        """At the same address as before."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address=self._host, port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Connections are refused from now on."""
        self._server.stop()


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of its own; what it holds is gone afterwards."""
    from pyarrow import fs

    for name, value in KEYS.items():
        patch.setenv(name, value)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = S3()
    files, _ = fs.FileSystem.from_uri(f"{s3.uri()}&allow_bucket_creation=true")
    files.create_dir(BUCKET)
    yield s3
    s3.stop()
