"""The process beside the driver: it ends with it however that ends, and nothing in it disturbs the run; and what
``distrl watch`` makes of a run's files meanwhile.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distrl.monitor.session import NOTE, monitored
from distrl.monitor.terminal import Progress, waits
from distrl.monitor.watch import follow, how_it_ended
from tests.fakes.processes import wait_until
from tests.fakes.run_files import episode, first_session, hand_made, status, write
from tests.fakes.wandb_server import WandbServer

DRIVER = """
import sys, time
from pathlib import Path
from distrl.core.run_directory import RunDirectory
from distrl.monitor.session import monitored
run = RunDirectory.open(Path(sys.argv[1]))
with monitored(run, run.config()):
    print("driving", flush=True)
    time.sleep(60)
"""


def sidecars(run):
    """Processes that name the run's directory on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(run.path) in " ".join(words) and "-c" not in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def drive(run):
    """Another process that drives the run."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "driving\n"
    return driver


def test_sinks_follow_the_run_to_its_end_and_one_that_fails_disturbs_nobody(tmp_path, capfd):
    run, config = hand_made(tmp_path / "run", 'monitor.sinks=["tensorboard", "wandb"]')
    (run.path / "wandb").write_text("in the way")
    first_session(run)
    with monitored(run, config):
        assert how_it_ended(run) is None
        assert wait_until(lambda: (run.path / "monitor" / "tensorboard.json").exists())
        write(run, "metrics", episode(120, 9.0))
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("episode/return")] == [20, 40, 60, 120]
    assert "wandb is off for this session" in capfd.readouterr().err
    assert how_it_ended(run) == "it ended"
    assert sidecars(run) == []


def test_it_ends_when_the_driver_is_killed_and_a_watcher_says_so(tmp_path):
    run, _ = hand_made(tmp_path / "run", 'monitor.sinks=["tensorboard"]')
    write(run, "timing", status(50))
    driver = drive(run)
    polls = follow(run, poll_s=0.05)
    assert next(polls)[0]["env_steps"] == 50
    assert wait_until(lambda: (run.path / "monitor" / "tensorboard.json").exists())
    write(run, "timing", status(100), status(150))
    assert [record["env_steps"] for record in next(polls)] == [100, 150]
    driver.kill()
    driver.wait()
    (last,) = next(polls)
    assert (last["env_steps"], last["ended"]) == (150, "its driver was killed")
    assert wait_until(lambda: not sidecars(run))
    assert json.loads((run.path / "monitor" / "tensorboard.json").read_text())["state"]["axes"]["env_steps"] == 150


def test_how_a_session_ended_is_kept_for_whoever_watches(tmp_path):
    run, config = hand_made(tmp_path / "run")
    with pytest.raises(ValueError, match="worse"), monitored(run, config):
        raise ValueError("it went worse than expected")
    assert how_it_ended(run) == "it failed: it went worse than expected"
    with monitored(run, config):
        (run.path / "summary.json").write_text('{"interrupted": true}')
    assert f"continue with: distrl train --resume {run.path}" in how_it_ended(run)
    note = json.loads((run.path / NOTE).read_text())
    (run.path / NOTE).write_text(json.dumps(note | {"ended": None, "host": "elsewhere", "pid": 1}))
    assert how_it_ended(run) is None, "of a driver on another machine nothing is known"


@pytest.mark.slow
def test_a_server_that_hangs_holds_the_end_up_no_longer_than_drain_s(tmp_path, monkeypatch, capfd):
    for name, value in {"API_KEY": "0" * 40, "ERROR_REPORTING": "false", "CONFIG_DIR": tmp_path / "settings"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    run, config = hand_made(tmp_path / "run", 'monitor.sinks=["wandb"]', "monitor.drain_s=2")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        server.mode = "hangs"
        first_session(run)
        with monitored(run, config):
            assert wait_until(lambda: server.requests > 0)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 30
    assert "recordings are not uploaded" in capfd.readouterr().err
    assert sidecars(run) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "sidecar"])
def test_no_upload_outlives_a_kill(tmp_path, monkeypatch, victim):
    for name, value in {"API_KEY": "0" * 40, "ERROR_REPORTING": "false", "CONFIG_DIR": tmp_path / "settings"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    run, _ = hand_made(tmp_path / "run", 'monitor.sinks=["wandb"]', "monitor.drain_s=5")
    first_session(run)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        driver = drive(run)
        assert wait_until(lambda: server.history)
        killed = driver.pid if victim == "driver" else psutil.Process(driver.pid).children()[0].pid
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda: not sidecars(run), timeout_s=40)
        driver.kill()
        driver.wait()


def shown(*statuses, steps=1000):
    """What a terminal of 100 columns shows in the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    with Progress(console, steps) as progress:
        for one in statuses:
            progress.show(one)
        text = Console(file=io.StringIO(), width=100, color_system=None)
        text.print(progress._table(statuses[-1]))
    return text.file.getvalue()


def test_the_display_shows_who_is_busy_who_waits_and_what_it_costs():
    text = shown(status(50, recent_return=1.0), status(100, recent_return=5.0, waits_for="the replay holds 3"))
    for words in ("100 of 1000", "4 busy 90.0%, 1 faults", "█▃", "least busy: 1, 25%", "0.250 core-hours", "▁█"):
        assert words in text
    assert waits(status(1)) == [("env worker 1", "newer weights")]
    assert "the replay holds 3" in text


def test_where_there_is_no_terminal_a_line_comes_now_and_then_and_at_the_end():
    console = Console(file=io.StringIO(), width=200)
    with Progress(console, 1000) as progress:
        for env_steps in (10, 20, 30):
            progress.show(status(env_steps))
    lines = console.file.getvalue().splitlines()
    assert ["10/1000" in lines[0], "30/1000" in lines[1], len(lines)] == [True, True, 2]


def test_a_run_that_has_only_updates_shows_those():
    assert "30 of 200" in shown(status(0, updates=30, updates_in_all=200, workers=[]))
