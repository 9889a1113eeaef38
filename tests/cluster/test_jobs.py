"""Jobs on a real Ray head with its dashboard and token authentication, and every way of not reaching one."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import ray
import requests

from distrl.cluster import jobs
from distrl.cluster.jobs import Jobs
from distrl.core.errors import ConfigError
from tests.cluster.test_address import OWN_MODULE
from tests.test_cli import command  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)

OWN_PRESET = """
[run]
steps = 100_000
[env]
id = "my_simulations:Own"
hosting = "process"
delay = {kind = "constant", median_s = 0.005}
[actors]
envs_per_worker = 2
[algorithm]
name = "sac"
hidden = [16]
batch_size = 32
[replay]
min_size = 100
samples_per_insert = 8
[evaluation]
period = 100_000
episodes = 1
final_episodes = 1
"""


def free_ports(count):
    """So many that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head on this machine's loopback that asks for a token: (its dashboard's address, the environment with the
    token)."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text("a-token-of-this-test-alone")
    port, dashboard, client, agent = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",  # a job's command is python …
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CONTROL_STORE": f"127.0.0.1:{port}",  # for the tests
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes the machine's own address in place of loopback
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
    }
    start = [PYTHON.with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=4"]
    start += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    start += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 60
    while answer(address, "Bearer none") != 403:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield address, environment
    process.terminate()  # never ``ray stop``: it ends every Ray of the machine
    process.wait(30)


def answer(address, authorization=None):
    """The status code of a request; None where nobody answers yet."""
    headers = {"Authorization": authorization} if authorization else {}
    try:
        return requests.get(f"{address}/api/jobs/", headers=headers, timeout=5).status_code
    except requests.ConnectionError:
        return None


@pytest.fixture
def distrl(head, tmp_path):
    """Runs the command with the token from a user's folder: (exit code, what it said)."""
    address, environment = head
    (tmp_path / "my_simulations.py").write_text(OWN_MODULE)
    (tmp_path / "own.toml").write_text(OWN_PRESET)

    def run(*words, during=lambda process: None, **others):
        line = [PYTHON, "-m", "distrl.cli", *words]
        options = {"cwd": tmp_path, "env": environment | others, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(line, stderr=subprocess.STDOUT, **options) as process:
            during(process)
            said = process.stdout.read()
        return process.returncode, said

    run.address, run.folder = ["--address", address], tmp_path
    return run


def test_a_request_without_the_token_is_refused(head, distrl):
    address, environment = head
    assert answer(address) == 401
    assert answer(address, "Bearer a-guess") == 403
    assert answer(address, f"Bearer {Path(environment['RAY_AUTH_TOKEN_PATH']).read_text()}") == 200
    code, said = distrl("jobs", *distrl.address)
    assert (code, "status" in said) == (0, True), said


@pytest.mark.slow
def test_a_job_gives_back_the_exit_code_and_the_words_of_its_command(distrl):
    code, said = distrl("submit", *distrl.address, "--wait", "--", "scale", "nowhere", "--env-workers", "1")
    assert code == 1
    assert "nowhere is not a run directory" in said


@pytest.mark.slow
def test_a_run_of_the_users_own_environment_leaves_its_directory_on_shared_storage(distrl):
    out = distrl.folder / "shared" / "run"
    words = ["train", "own.toml", "--steps", "300", "--out", str(out)]
    code, said = distrl("submit", *distrl.address, "--wait", "--env", "MARK", "--", *words, MARK="kept")
    assert code == 0, said
    assert json.loads((out / "summary.json").read_text())["env_steps"] >= 300
    assert f"everything is in {out}" in said
    _, listed = distrl("jobs", *distrl.address, COLUMNS="400")
    assert f"distrl {' '.join(words)}" in listed


@pytest.mark.slow
@pytest.mark.parametrize("by", ["ctrl-c", "distrl stop"])
def test_a_stopped_job_writes_its_checkpoint_and_goes_on_with_resume(distrl, by):
    out = distrl.folder / "run"

    def stop(process):
        lines = [""]
        while " updates" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "the job ended before it was stopped: " + "".join(lines)
        if by == "ctrl-c":
            return process.send_signal(signal.SIGINT)
        rows = [row for row in distrl("jobs", *distrl.address, COLUMNS="400")[1].splitlines() if "RUNNING" in row]
        (job,) = [word for word in rows[0].split() if word.startswith("raysubmit_")]
        assert distrl("stop", job, *distrl.address)[0] == 0

    code, said = distrl("submit", *distrl.address, "--wait", "--", "train", "own.toml", "--out", str(out), during=stop)
    assert code == 130, said
    assert "stopped with a checkpoint" in said
    before = json.loads((out / "summary.json").read_text())
    assert before["interrupted"]
    assert [path for path in (out / "checkpoints").iterdir() if path.name.isdecimal()]
    steps = str(before["env_steps"] + 100)
    code, said = distrl("submit", *distrl.address, "--wait", "--", "train", "--resume", str(out), "--steps", steps)
    assert code == 0, said


@pytest.mark.slow
def test_who_has_no_token_or_another_is_told(distrl):
    code, said = distrl("jobs", *distrl.address, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="", HOME="/nowhere")
    assert (code, "no token came with the request: set RAY_AUTH_MODE=token" in " ".join(said.split())) == (1, True), (
        said
    )
    code, said = distrl("jobs", *distrl.address, RAY_AUTH_TOKEN="a-guess", RAY_AUTH_TOKEN_PATH="")
    assert (code, "its token is wrong: set RAY_AUTH_MODE=token" in " ".join(said.split())) == (1, True), said


@pytest.mark.slow
def test_a_driver_with_another_token_is_told(head, distrl):
    words = ["train", "own.toml", "--address", head[1]["CONTROL_STORE"]]
    code, said = distrl(*words, RAY_AUTH_TOKEN="a-guess", RAY_AUTH_TOKEN_PATH="")
    assert code == 1
    assert "does not let this process in" in said
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in said


# -- without a head ----------------------------------------------------------------------------------------------------


@pytest.fixture
def dashboard(monkeypatch, tmp_path):
    """Starts something that answers every request in the same way; returns its address."""
    monkeypatch.setenv("HOME", str(tmp_path))
    servers = []

    def start(status, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_cluster_with_another_ray_is_refused(dashboard):
    address = dashboard(200, json.dumps({"ray_version": "2.9.3"}))
    with pytest.raises(ConfigError, match=rf"runs Ray 2\.9\.3, and this distrl needs Ray {ray.__version__} there"):
        Jobs(address)


@pytest.mark.parametrize(("status", "body"), [(404, "not here"), (200, "<html>a page</html>")])
def test_what_is_no_dashboard_is_refused(dashboard, status, body):
    with pytest.raises(ConfigError, match=r"but what answers at http://127.0.0.1:\d+ is not one"):
        Jobs(dashboard(status, body))


def test_nobody_there():
    (port,) = free_ports(1)
    with pytest.raises(ConfigError, match=f"nobody answers at http://127.0.0.1:{port} .* is the cluster up"):
        Jobs(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="but ray://there came"):
        Jobs("ray://there")


def test_only_named_variables_travel_and_a_stopped_job_has_time(monkeypatch, tmp_path):
    monkeypatch.setenv("NAMED", "yes")
    monkeypatch.setenv("SECRET", "no")
    found = jobs.environment(tmp_path, ["NAMED"], stop_grace_s=77)
    assert found["env_vars"] == {"NAMED": "yes", "RAY_JOB_STOP_WAIT_TIME_S": "77"}
    with pytest.raises(ConfigError, match="--env forwards variables of this shell, but MISSING is not set here"):
        jobs.environment(tmp_path, ["MISSING"], stop_grace_s=77)


def test_a_working_tree_that_is_too_large_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "MAX_BYTES", 1_000_000)
    for name in ("runs", ".git", "ignored", "mesh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(bytes(2_000_000))
    (tmp_path / ".gitignore").write_text("ignored/\n")
    with pytest.raises(ConfigError, match=r"may hold 1 MB, but has more \(mesh 2 MB, and not all was counted\)"):
        jobs.check_size(tmp_path)
    (tmp_path / "mesh" / "data").unlink()
    jobs.check_size(tmp_path)


def test_a_wheel_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("mine/__init__.py", "")
        wheel.writestr("mine-1.0.dist-info/METADATA", "Name: mine")
    assert (jobs.unpacked(tmp_path / "mine-1.0-py3-none-any.whl", tmp_path) / "mine" / "__init__.py").exists()
    (tmp_path / "other.whl").write_text("no archive")
    with pytest.raises(ConfigError, match="--wheel needs a wheel"):
        jobs.unpacked(tmp_path / "other.whl", tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "sac"], "--out must be an absolute path, on storage that the cluster's nodes share, but none came"),
        (["train", "sac", "--out", "runs/x"], "but runs/x came"),
        (["train", "sac", "run.out=runs/x"], "but runs/x came"),
        (["train", "--resume", "runs/x"], "--resume must be an absolute path"),
        (["tune", "ks"], "--out must be an absolute path"),
    ],
)
def test_a_run_that_would_be_lost_with_its_job_is_refused(command, words, sentence):  # noqa: F811
    code, out, _ = command("submit", "--address", "http://127.0.0.1:1", "--", *words)
    assert code == 1
    assert sentence in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian", "sac"], "a job is one of distrl's commands"),
        (["train", "sac", "--oout", "/x"], "No such option"),
        (["train", "sac", "--local", "--out", "/x"], "leave out --local"),
    ],
)
def test_a_command_that_would_be_refused_there_is_refused_here(command, words, sentence):  # noqa: F811
    code, _, err = command("submit", "--address", "http://127.0.0.1:1", "--", *words)
    assert code == 2
    assert sentence in err
