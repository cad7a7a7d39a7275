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
    """A running server."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._endpoint = f"http://{host}:{port}"

    def uri(self, folder: str = "runs") -> str:
        return f"s3://{BUCKET}/{folder}?region=us-east-1&endpoint_override={quote(self._endpoint, safe='')}"


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of its own; what it holds is gone afterwards."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    for name, value in KEYS.items():
        patch.setenv(name, value)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    s3 = S3(server.get_host_and_port()[1])
    files, _ = fs.FileSystem.from_uri(f"{s3.uri()}&allow_bucket_creation=true")
    files.create_dir(BUCKET)
    yield s3
    server.stop()
