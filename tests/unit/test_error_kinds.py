"""The table of errors that pass, a row each, by the real exceptions of the real libraries."""

from __future__ import annotations

import errno
import http.client
import pickle
import socket
import sqlite3
import ssl
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import botocore.exceptions
import obstore.exceptions as obstore
import openai
import pytest
import requests
import sqlalchemy.exc
import torch
import urllib3.exceptions
from huggingface_hub import errors as hub
from mlflow.exceptions import MlflowException, RestException
from ray import exceptions as ray
from safetensors import SafetensorError

from haps_search.errors import CandidateError, ConfigError, Diverged, Interrupted, Kind, PoolError, Unfinished
from haps_search.faults.kinds import ERRNO, NAMES, chain, kind_of, pause_asked

PASSES, STAYS, WHO_KNOWS = Kind.TRANSIENT, Kind.PERMANENT, Kind.UNKNOWN


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status}", response=response)


def from_url(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://x", status, "no", Message(), None)


def from_s3(status: int) -> botocore.exceptions.ClientError:
    return botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {}}, "PutObject")  # type: ignore[typeddict-item]


def from_openai(status: int, **headers: str) -> openai.APIStatusError:
    response: Any = SimpleNamespace(status_code=status, headers=headers, request=None)
    return openai.APIStatusError("x", response=response, body=None)


def beneath(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def gone(text: str, preempted: bool = False) -> ray.ActorDiedError:
    error = ray.ActorDiedError()
    error.error_msg, error._preempted = text, preempted
    return error


NOT_CACHED = hub.LocalEntryNotFoundError("not in the cache")
ROWS = [
    # ours
    (ConfigError("x"), STAYS), (CandidateError("x"), STAYS), (Diverged("x"), STAYS), (PoolError("x"), WHO_KNOWS),
    (Unfinished("x"), PASSES), (Interrupted("x"), PASSES), (CandidateError("x").of_kind(PASSES), PASSES),
    # the operating system
    *((OSError(number, "x"), kind) for number, kind in ERRNO.items()),
    (OSError("no number"), WHO_KNOWS), (OSError(12345, "x"), WHO_KNOWS), (FileNotFoundError("x"), STAYS),
    (MemoryError(), PASSES), (TimeoutError(), PASSES), (ConnectionResetError("x"), PASSES),
    (SafetensorError("I/O error: Input/output error (os error 5)"), PASSES),
    (SafetensorError("I/O error: No space left on device (os error 28)"), PASSES),
    (SafetensorError("Error while deserializing header: HeaderTooLarge"), WHO_KNOWS),
    # the network
    (requests.ConnectionError("x"), PASSES), (requests.Timeout("x"), PASSES),
    (requests.exceptions.ChunkedEncodingError("x"), PASSES), (http.client.IncompleteRead(b""), PASSES),
    (aiohttp.ClientConnectionError(), PASSES), (aiohttp.ClientPayloadError(), PASSES),
    (aiohttp.ServerTimeoutError(), PASSES), (urllib3.exceptions.ProtocolError("x"), PASSES),
    (urllib3.exceptions.ReadTimeoutError(None, "u", "x"), PASSES),  # type: ignore[arg-type]
    (urllib3.exceptions.MaxRetryError(None, "u"), PASSES),  # type: ignore[arg-type]
    (ssl.SSLEOFError(8, "EOF occurred"), PASSES), (ssl.SSLCertVerificationError(1, "x"), STAYS),
    (beneath(urllib.error.URLError("x"), ConnectionRefusedError(errno.ECONNREFUSED, "x")), PASSES),
    (socket.gaierror(socket.EAI_NONAME, "x"), WHO_KNOWS),
    # what a server answered
    *((answered(status), PASSES) for status in (408, 429, 500, 502, 503, 504)),
    *((answered(status), STAYS) for status in (400, 401, 403, 404)),
    (from_url(503), PASSES), (from_url(404), STAYS), (from_s3(503), PASSES), (from_s3(403), STAYS),
    (aiohttp.ClientResponseError(SimpleNamespace(real_url="u"), (), status=502), PASSES),  # type: ignore[arg-type]
    (aiohttp.ClientResponseError(SimpleNamespace(real_url="u"), (), status=404), STAYS),  # type: ignore[arg-type]
    # the openai client
    (openai.APIConnectionError(request=SimpleNamespace()), PASSES),  # type: ignore[arg-type]
    (openai.APITimeoutError(SimpleNamespace()), PASSES),  # type: ignore[arg-type]
    *((from_openai(status), PASSES) for status in (408, 409, 429, 500, 503)),
    *((from_openai(status), STAYS) for status in (400, 401, 403, 404, 422)),
    (openai.APIResponseValidationError(from_openai(200).response, None), WHO_KNOWS),
    # the hub, whose own error says little
    (beneath(OSError("We couldn't connect"), beneath(NOT_CACHED, requests.ConnectionError("x"))), PASSES),
    (beneath(hub.LocalEntryNotFoundError("x"), hub.OfflineModeIsEnabled("x")), STAYS),
    # CUDA
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), PASSES),
    (RuntimeError("CUDA error: out of memory"), PASSES),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), WHO_KNOWS),
    # Ray
    (ray.ActorUnavailableError("x", None), PASSES), (ray.GetTimeoutError(), PASSES), (ray.RpcError("x"), PASSES),
    (ray.ObjectStoreFullError("x"), PASSES), (ray.OutOfDiskError(), PASSES), (ray.NodeDiedError("x"), PASSES),
    (ray.ObjectLostError("ff", None, ""), PASSES), (ray.OwnerDiedError("ff", None, ""), PASSES),
    (ray.LocalRayletDiedError(), PASSES), (ray.ActorDiedError(), WHO_KNOWS), (ray.WorkerCrashedError(), WHO_KNOWS),
    (ray.OutOfMemoryError("the kernel"), WHO_KNOWS), (ray.AuthenticationError("x"), STAYS),
    (gone("The actor died because its node has died."), PASSES), (gone("x", preempted=True), PASSES),
    (ray.RayTaskError("f", "trace", PoolError("x").of_kind(PASSES)), PASSES),
    (ray.RayTaskError("f", "trace", OSError(errno.ESTALE, "x")), PASSES),
    (ray.RayTaskError("f", "trace", ValueError("a bug")), WHO_KNOWS),
    # databases and MLflow
    (sqlalchemy.exc.OperationalError("s", {}, Exception("database is locked")), PASSES),
    (sqlalchemy.exc.TimeoutError("x"), PASSES), (sqlalchemy.exc.IntegrityError("s", {}, Exception("x")), STAYS),
    (sqlalchemy.exc.ProgrammingError("s", {}, Exception("x")), STAYS), (sqlalchemy.exc.ArgumentError("x"), STAYS),
    (sqlite3.OperationalError("database is locked"), PASSES), (sqlite3.DatabaseError("malformed"), WHO_KNOWS),
    (MlflowException("API request failed"), PASSES),
    (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}), STAYS),
    (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "x"}), PASSES),
    # object stores
    (OSError("When getting 'x': AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"), PASSES),
    (OSError("When putting: AWS Error SLOW_DOWN during PutObject operation"), PASSES),
    (OSError("AWS Error SERVICE_UNAVAILABLE during PutObject"), PASSES),
    (OSError("AWS Error INTERNAL_FAILURE during PutObject"), PASSES),
    (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), PASSES),
    (OSError("AWS Error ACCESS_DENIED during HeadObject operation"), STAYS),
    (OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation"), STAYS),
    (OSError("google::cloud::Status(UNAVAILABLE: x)"), PASSES),
    (OSError("google::cloud::Status(PERMISSION_DENIED: x)"), STAYS),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="u"), PASSES),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="u"), PASSES),
    (botocore.exceptions.NoCredentialsError(), STAYS),
    (botocore.exceptions.PartialCredentialsError(provider="p", cred_var="v"), STAYS),
    (obstore.GenericError("HTTP error: error sending request"), PASSES),
    *((obstore.GenericError(f"Server returned non-2xx status code: {code} x"), PASSES) for code in (503, 429, 500)),
    (obstore.GenericError("Server returned non-2xx status code: 400 Bad Request"), STAYS),
    (obstore.GenericError("x"), WHO_KNOWS), (obstore.PermissionDeniedError("x"), STAYS),
    (obstore.UnauthenticatedError("x"), STAYS), (obstore.NotSupportedError("x"), STAYS),
    # what nobody knows
    (ValueError("a bug"), WHO_KNOWS), (RuntimeError("x"), WHO_KNOWS), (KeyError("x"), WHO_KNOWS),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), ROWS, ids=lambda value: repr(value)[:60])
def test_every_row(error: BaseException, kind: Kind) -> None:
    assert kind_of(error) is kind


def test_no_row_of_the_table_is_without_a_real_error() -> None:
    """A library that moves its errors would leave a row that nothing meets any more."""
    met = {f"{c.__module__}.{c.__qualname__}" for error, _ in ROWS for e in chain(error) for c in type(e).__mro__}
    clients = {"httpx.TransportError", "httpx2.TransportError", "ssl.SSLZeroReturnError"}
    assert set(NAMES) - met - clients == set()


def test_the_hub_s_own_client() -> None:
    client = import_module(hub.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    assert kind_of(client.ConnectError("x")) is PASSES
    assert kind_of(beneath(OSError("We couldn't connect"), client.ReadTimeout("x"))) is PASSES


def test_what_lies_beneath_an_error_decides_where_it_says_nothing_itself() -> None:
    assert kind_of(beneath(RuntimeError("loading failed"), OSError(errno.ESTALE, "x"))) is PASSES
    assert kind_of(beneath(CandidateError("said to stay"), OSError(errno.ESTALE, "x"))) is STAYS


def test_a_kind_crosses_processes() -> None:
    again = pickle.loads(pickle.dumps(CandidateError("x").of_kind(PASSES)))
    assert (str(again), kind_of(again), CandidateError.kind) == ("x", PASSES, STAYS)


@pytest.mark.parametrize("raise_", [lambda f: f.read_text(), lambda f: (f / "x").mkdir()])
def test_errors_of_this_machine(raise_: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such") as caught:
        raise_(tmp_path / "nothing")
    assert kind_of(caught.value) is STAYS


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", 0.0), ("soon", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_how_long_a_server_wants_to_be_left_alone(said: str, seconds: float) -> None:
    assert pause_asked(from_openai(429, **{"retry-after": said})) == seconds


def test_a_date_is_a_pause_and_nothing_is_none() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3000 < pause_asked(from_openai(429, **{"retry-after": later})) <= 3600
    assert pause_asked(from_openai(429)) == pause_asked(ValueError("x")) == 0.0
