"""What is made of a cluster's answers. No Ray is started: the client or the head is a fake."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray.exceptions import RayError
from sweeps import a_study

from haps_search.cli.display import Terminal
from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster import jobs, session
from haps_search.engines.cluster.jobs import Cluster
from haps_search.errors import ConfigError, HapsError, PoolError
from haps_search.faults.policy import Policy
from haps_search.sweep.submission import Begin, Job
from haps_search.verbs import cluster_jobs as attempts
from haps_search.verbs import submit as submitting
from haps_search.verbs.submit import Submission, send


class AuthenticationError(RayError):
    """As Ray raises it."""


class Client:
    """A dashboard whose one job prints its log in two parts and then ends."""

    def __init__(self, address: str) -> None:
        self.address, self.seen = address, {name: os.environ.get(name) for name in ("RAY_ADDRESS",)}
        self.submitted: list[dict[str, Any]] = []
        self.infos: list[Any] = []
        self.broken_tails = 0
        self.log = ["one\n", "two\n", "three\n"]

    def list_jobs(self) -> list[Any]:
        return self.infos

    def submit_job(self, **fields: Any) -> None:
        self.submitted.append(fields)
        self.infos.append(info(fields["submission_id"], "SUCCEEDED", fields["metadata"]))

    def get_job_info(self, name: str) -> Any:
        return next(i for i in self.infos if i.submission_id == name)

    def get_job_logs(self, name: str) -> str:
        return "".join(self.log)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield self.log[0]
        if self.broken_tails:
            self.broken_tails -= 1
            raise RuntimeError("the connection was closed")
        for text in self.log[1:]:
            yield text


def info(name: str | None, status: str, metadata: dict[str, str] | None = None) -> Any:
    told = SimpleNamespace(value=status)
    return SimpleNamespace(submission_id=name, status=told, metadata=metadata, message=None)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(jobs, "JobSubmissionClient", Client)
    monkeypatch.setattr(jobs, "AGAIN_S", 0.0)
    return Cluster("http://h:8265")


def client(cluster: Cluster) -> Client:
    return cluster._client


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (AuthenticationError("Unauthorized\n\nmore"), ConfigError, "Unauthorized; set RAY_AUTH_MODE=token"),
        (ConnectionError("Failed to connect."), PoolError, "Failed to connect. Is it up"),
        (RuntimeError("Request failed with status code 500"), PoolError, "status code 500"),
        (requests.exceptions.ReadTimeout("Read timed out."), PoolError, "Read timed out."),
    ],
)
def test_a_cluster_that_refuses_or_is_away_is_said_in_our_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[HapsError], said: str
) -> None:
    def refusing(address: str) -> None:
        raise error

    monkeypatch.setattr(jobs, "JobSubmissionClient", refusing)
    with pytest.raises(kind) as caught:
        Cluster("http://h:8265")
    assert str(caught.value).startswith("http://h:8265: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_address_given_holds_whatever_ray_address_says(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert client(Cluster("http://h:8265")).seen == {"RAY_ADDRESS": None}
    assert os.environ["RAY_ADDRESS"] == "elsewhere:6379"


def test_attempts_are_found_in_order_and_by_name(cluster: Cluster) -> None:
    told = {"haps_sweep": "s", "haps_runs": "/r", "haps_fingerprint": "f"}
    client(cluster).infos = [
        info("s-10", "RUNNING", told), info("t-1", "RUNNING"), info(None, "RUNNING"), info("s-2", "FAILED"),
    ]  # fmt: skip
    assert cluster.attempts("s") == [Job("s-2", 2, "FAILED"), Job("s-10", 10, "RUNNING", "/r", "f")]
    assert cluster.names() == ["s"]


def test_a_log_whose_connection_breaks_is_shown_once_and_whole(cluster: Cluster) -> None:
    client(cluster).infos = [info("s-1", "SUCCEEDED")]
    client(cluster).broken_tails = 2
    shown: list[str] = []
    ended = cluster.follow(Job("s-1", 1, "RUNNING"), shown.append, seen=2)
    assert "".join(shown) == "e\ntwo\nthree\n"
    assert ended.state == "SUCCEEDED"


def test_a_dashboard_that_stays_away_ends_the_following_and_not_the_job(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FOLLOWING", Policy(within_s=0.0))
    client(cluster).broken_tails = 4
    with pytest.raises(PoolError, match=r"answers no more .* the job goes on there"):
        cluster.follow(Job("s-1", 1, "RUNNING"), lambda text: None)


def submission(folder: Path) -> Submission:
    profile = ClusterProfile.model_validate({"name": "p", "candidate": {"cpus": 1}})
    folder.mkdir()
    return Submission(a_study(), profile, "s", "/r", folder, (folder,), {"HF_TOKEN": "hf_secret"})


def test_sending_twice_begins_once_and_shows_no_secret(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submitting, "connect", lambda address: cluster)
    send(submission(tmp_path / "1"), "http://h:8265", True, Terminal())
    send(submission(tmp_path / "2"), "http://h:8265", True, Terminal())
    (sent,) = client(cluster).submitted
    assert sent["submission_id"] == "s-1"
    assert sent["runtime_env"]["env_vars"]["HF_TOKEN"] == "hf_secret"
    assert "hf_secret" not in json.dumps([sent["entrypoint"], sent["metadata"]])
    assert not any(name.startswith("entrypoint_") for name in sent), "the driver would leave the head node"
    said = capsys.readouterr().out
    assert "hf_secret" not in said
    assert said.index("submitted s-1") < said.index("three") < said.index("s-1 has ended, all trials are done")


class Head(ThreadingHTTPServer):
    """A head on loopback that takes jobs from the one after these many on, or whose agent answers too late."""

    def __init__(self, refusals: int, late: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.refusals, self.late = refusals, late
        self.asked: list[str] = []
        self.taken: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Head

    def do_GET(self) -> None:
        version = {"ray_version": "2.60.0", "version": "4"}
        jobs_there = [{"type": "SUBMISSION", "submission_id": name, "status": "PENDING", "entrypoint": "true"}
                      for name in self.server.taken]  # fmt: skip
        self._answer(200, jobs_there if self.path == "/api/jobs/" else version)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head, name = self.server, body["submission_id"]
        head.asked.append(name)
        refused = len(head.asked) <= head.refusals
        if not refused or head.late:
            head.taken.append(name)
        taken = {"job_id": name, "submission_id": name}
        self._answer(*(500, f"{jobs.NO_AGENT}, please try again later.") if refused else (200, taken))

    def _answer(self, status: int, what: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write((what if isinstance(what, str) else json.dumps(what)).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def head(request: pytest.FixtureRequest) -> Iterator[Head]:
    with Head(*request.param) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def begun_on(head: Head, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(jobs, "SENDING", Policy(within_s=0.2, first_s=0.01, longest_s=0.01))
    return Cluster(head.address).submit(Begin("s-1", 1), "true", folder, (), {}, {})


@pytest.mark.parametrize("head", [(0,), (2,)], indirect=True)
def test_a_head_whose_agent_is_not_there_yet_is_asked_again(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begun_on(head, tmp_path, monkeypatch).id == "s-1"
    assert head.taken == ["s-1"]
    assert len(head.asked) == head.refusals + 1


@pytest.mark.parametrize("head", [(1, True)], indirect=True)
def test_a_job_that_was_taken_after_all_is_not_sent_twice(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begun_on(head, tmp_path, monkeypatch).state == "PENDING"
    assert head.asked == ["s-1"]


@pytest.mark.parametrize("head", [(99,)], indirect=True)
def test_a_head_without_an_agent_is_given_up_in_words(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PoolError, match=r"no agent that takes jobs, asked for 0 s.*`haps submit` again"):
        begun_on(head, tmp_path, monkeypatch)
    assert len(head.asked) > 1


def test_what_ray_says_of_a_missing_agent_is_what_is_waited_for() -> None:
    """Another wording in another version of Ray would be taken for an error that stays."""
    source = importlib.util.find_spec("ray.dashboard.modules.job.job_head")
    assert source is not None
    assert source.origin is not None
    assert jobs.NO_AGENT in Path(source.origin).read_text()


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submitting, "connect", lambda address: cluster)
    monkeypatch.setattr(cluster, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send(submission(tmp_path / "1"), "http://h:8265", True, Terminal())
    assert "s-1 goes on. `haps logs s --address http://h:8265 --follow`" in capsys.readouterr().out


def test_a_job_that_failed_is_an_error_with_rays_reason_and_the_way_out() -> None:
    failed = Job("s-2", 2, "FAILED", message="Job entrypoint command failed with exit code 137\nmore")
    with pytest.raises(PoolError, match=r"^s-2 failed: .* exit code 137; `haps submit` again goes on"):
        attempts.check(failed)


def test_variables_that_a_job_brings_are_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses a variable that job and driver both name."""
    given = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"OMP_NUM_THREADS": "8"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(given))
    assert set(session._environment()) == {"TOKENIZERS_PARALLELISM", "PYTHONPATH", "TUNE_FUNCTION_THREAD_TIMEOUT_S"}
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    assert session._environment()["OMP_NUM_THREADS"] == "1"


def test_a_broker_that_a_killed_driver_left_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [True, True]

    def get_actor(name: str) -> object:
        if there:
            return there.pop()
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(session.ray, "get_actor", get_actor)
    monkeypatch.setattr(session.time, "sleep", lambda seconds: None)
    session._wait_for_the_name()
    assert not there
    monkeypatch.setattr(session.ray, "get_actor", lambda name: object())
    monkeypatch.setattr(session.ray, "get_runtime_context", lambda: SimpleNamespace(namespace="haps-s"))
    monkeypatch.setattr(session, "LEFTOVER_S", 0.0)
    with pytest.raises(PoolError, match="a broker of haps-s has been there"):
        session._wait_for_the_name()
