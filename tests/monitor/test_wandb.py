"""W&B's own client and its own offline files, read back; and its upload to a server on this machine that refuses, hangs
and recovers.
"""

import os
import time

import pytest

from distrl.monitor.wandb_sink import WandbSink
from distrl.monitor.wandb_upload import recordings
from tests.fakes.processes import wait_until
from tests.fakes.run_files import episode, first_session, hand_made, write
from tests.fakes.wandb_recording import config, history, records
from tests.fakes.wandb_server import WandbServer

KEY = "0123456789abcdef" * 2 + "01234567"
OFFLINE = "wandb.mode=offline"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No settings of the user's, and a key that is none."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name, value in {"API_KEY": KEY, "ERROR_REPORTING": "false", "CONFIG_DIR": tmp_path / "settings"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    yield
    import wandb

    wandb.teardown()


def begun(run, its_config, say=print):
    sink = WandbSink(run, its_config, "env_steps", os.getpid(), say)
    while sink.poll():
        pass
    return sink


def session(run, its_config, drain_s=0.0, say=print):
    """A whole session's readings; returns its recording."""
    begun(run, its_config, say).close("ended", time.monotonic() + drain_s)
    recording = sorted((run.path / "wandb").glob("offline-run-*"))[-1]
    assert wait_until(lambda: any(record.HasField("exit") for record in records(recording)))
    return recording


def returns(rows):
    return [(row["env_steps"], row["episode/return"]) for row in rows if "episode/return" in row]


def test_a_recording_has_everything_and_the_next_session_continues_it(tmp_path):
    run, its_config = hand_made(tmp_path / "run", OFFLINE, "wandb.group=seeds", "wandb.checkpoints=best", "run.seed=3")
    first_session(run)
    best = run.path / "checkpoints" / "best"
    best.mkdir()
    (best / "policy.npz").write_bytes(b"weights")
    (run.path / "media" / "film.gif").write_bytes(b"GIF89a")
    first = session(run, its_config)

    rows = history(first)
    assert returns(rows) == [(20, 1.0), (40, 3.0), (60, 5.0)]
    assert {"env_steps", "updates", "wall_s"} <= set(rows[0])
    (histogram,) = [row["run/staleness"] for row in rows if "run/staleness" in row]
    assert (histogram["_type"], histogram["values"], histogram["bins"]) == ("histogram", [5, 7], [0, 0, 3])
    kinds = {row[name]["_type"] for row in rows for name in row if isinstance(row[name], dict)}
    assert kinds == {"histogram", "table-file", "video-file"}
    table = next((first / "files" / "media" / "table").glob("*.json")).read_text()
    assert '["diverged",1]' in table
    assert '["fault: crash",1]' in table
    assert config(first)["run"]["seed"] == 3
    assert set(config(first)["distrl"]) == {"version", "commit", "run"}
    found = list(records(first))
    (begin,) = [record.run for record in found if record.HasField("run")]
    assert (begin.run_id, begin.run_group, begin.display_name) == (run.id, "seeds", "run")
    metrics = {record.metric.glob_name or record.metric.name for record in found if record.HasField("metric")}
    assert metrics >= {"*", "env_steps"}
    artifacts = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    artifacts += [record.artifact for record in found if record.HasField("artifact")]
    assert f"best-{run.id}" in [artifact.name for artifact in artifacts]
    assert any(record.HasField("stats") for record in found), "the machine's load"

    write(run, "metrics", episode(120, 9.0))
    second = session(run, its_config)
    assert second != first
    assert returns(history(second)) == [(120, 9.0)], "nothing is sent twice"
    assert next(record.run.run_id for record in records(second) if record.HasField("run")) == run.id


@pytest.mark.slow
def test_what_a_server_misses_while_it_refuses_is_uploaded_once_it_answers(tmp_path, server):
    run, its_config = hand_made(tmp_path / "run")
    first_session(run)
    server.mode, said = "refuses", []
    began_s = time.monotonic()
    sink = begun(run, its_config, said.append)
    write(run, "metrics", episode(120, 9.0))
    sink.poll()
    assert time.monotonic() - began_s < 30, "nobody waits for the server"
    while server.requests < 2:
        sink.poll()
        time.sleep(0.05)
    assert server.history == {}
    server.mode = "answers"
    sink.close("ended", time.monotonic() + 90)
    assert returns(server.rows(run.id)) == [(20, 1.0), (40, 3.0), (60, 5.0), (120, 9.0)]
    assert server.exits[run.id] == [0]
    assert recordings(run.path) == []
    assert f"W&B: {server.url}/me/distrl/runs/{run.id}" in said


def test_a_server_that_hangs_costs_the_end_no_more_than_its_bound_and_the_next_session_uploads_both(tmp_path, server):
    run, its_config = hand_made(tmp_path / "run")
    first_session(run)
    server.mode, said = "hangs", []
    sink = begun(run, its_config, said.append)
    began_s = time.monotonic()
    sink.close("interrupted", began_s + 1.0)
    assert time.monotonic() - began_s < 20, "not as long as the server hangs"
    sentence = said[-1]
    assert "1 of this run's recordings are not uploaded" in sentence
    assert f"wandb sync {run.path}/wandb/offline-run-" in sentence

    server.mode = "answers"
    write(run, "metrics", episode(120, 9.0))
    session(run, its_config, drain_s=90.0)
    assert returns(server.rows(run.id)) == [(20, 1.0), (40, 3.0), (60, 5.0), (120, 9.0)]
    steps = [row["_step"] for row in server.rows(run.id)]
    assert steps == list(range(len(steps))), "W&B's own count goes on too"
    assert recordings(run.path) == []
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if KEY.encode() in path.read_bytes()] == [], "the key is nowhere"


@pytest.mark.slow
def test_an_upload_that_w_and_b_gave_up_is_made_again(tmp_path, server, monkeypatch):
    """Its sync marks a recording as uploaded although it says that data is missing."""
    impatience = {"WANDB__FILE_STREAM_RETRY_MAX": "1", "WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1"}
    monkeypatch.setattr("distrl.monitor.wandb_upload._PATIENCE", impatience)
    run, its_config = hand_made(tmp_path / "run")
    first_session(run)
    sink = begun(run, its_config)
    original, server._stream = server._stream, lambda run_id, message: 1 / 0
    log = run.path / "monitor" / "wandb_sync.log"
    deadline = time.monotonic() + 40
    while not (log.exists() and b"Fatal error" in log.read_bytes()):
        sink.poll()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server._stream = original
    sink.close("ended", time.monotonic() + 40)
    assert returns(server.rows(run.id)) == [(20, 1.0), (40, 3.0), (60, 5.0)]
    assert recordings(run.path) == []


@pytest.mark.slow
def test_without_a_key_it_says_so_and_records(tmp_path, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    run, its_config = hand_made(tmp_path / "run")
    first_session(run)
    said = []
    recording = session(run, its_config, drain_s=60.0, say=said.append)
    assert "there is no key (wandb login, or WANDB_API_KEY)" in said[-1]
    assert len(returns(history(recording))) == 3
    assert not server.upserts
