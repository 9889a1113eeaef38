"""`distrl train`, killed whole and resumed, scaled from elsewhere, on a network that fails: as a user would meet it."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from tests.chaos.balance import MARK, assert_balanced, marked, settings
from tests.fakes.processes import wait_until


class Command:
    """A `distrl train` of its own."""

    def __init__(self, out: Path, *overrides: str, **environment: str):
        self.out, self.mark = out, uuid.uuid4().hex
        self._environment = os.environ | {MARK: self.mark, "OMP_NUM_THREADS": "1"} | environment
        self._set = [f"{key}={value}" for key, value in settings(out).items()] + list(overrides)

    def begin(self, *resume: str) -> None:
        """Start it, or resume."""
        arguments = resume or ("sac", *(word for override in self._set for word in ("--set", override)))
        with (self.out.parent / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distrl.cli", "train", *arguments],
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def steps(self) -> int:
        """Env steps in the newest status."""
        records = read_json_lines(self.out / "timing.jsonl")
        return max((record["env_steps"] for record in records if record["kind"] == "status"), default=0)

    def until(self, steps: int) -> None:
        """Wait until so many steps are made."""
        assert wait_until(lambda: self.steps() >= steps or self.process.poll() is not None, 180), self.output()
        assert self.process.poll() is None, self.output()

    def end(self) -> dict:
        """Wait for its end; the summary."""
        assert self.process.wait(180) == 0, self.output()
        return json.loads((self.out / "summary.json").read_text())

    def kill_everything(self) -> None:
        """SIGKILL for every process that it has started, as when the machine's power goes."""
        while left := marked(self.mark):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):  # some die of the death of others
                    process.kill()
            time.sleep(0.05)
        self.process.wait()

    def output(self) -> str:
        """What it has said."""
        return (self.out.parent / "output.txt").read_text()


@pytest.fixture
def command(tmp_path):
    """Makes a Command and leaves nothing of it behind."""
    made = []

    def make(*overrides, **environment):
        made.append(Command(tmp_path / "run", *overrides, **environment))
        return made[-1]

    yield make
    for one in made:
        one.kill_everything()


def scale(run, env_workers):
    found = subprocess.run(
        [sys.executable, "-m", "distrl.cli", "scale", str(run), "--env-workers", str(env_workers)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return found.returncode, " ".join((found.stdout + found.stderr).split())


def lives_of_episodes(run):
    """episode_uid → the lives of env workers that contributed to it."""
    lives = {}
    for _, fragment in read_log(run / "log"):
        lives.setdefault(int(fragment.columns["episode_uid"][0, 0]), set()).add(fragment.incarnation)
    return lives


def test_a_run_is_scaled_killed_whole_and_resumed(command, tmp_path):
    job = command("run.steps=2500")
    job.begin()
    job.until(300)
    assert scale(job.out, 3) == (0, f"{job.out} goes from 2 to 3 env workers")
    job.until(800)
    run = RunDirectory.open(job.out)
    job.kill_everything()
    secured = sum(fragment.num_transitions for _, fragment in read_log(job.out / "log"))

    job.begin("--resume", str(job.out))
    summary = job.end()
    notes = [event["text"] for event in read_json_lines(job.out / "events.jsonl") if event["kind"] == "note"]
    assert any(note.endswith(f"with {secured} transitions from the log") for note in notes), notes
    assert RunDirectory.open(job.out).id == run.id
    assert RunDirectory.open(job.out).facts["sessions"] == 2
    found = assert_balanced(job.out, in_flight=6 + 6 * 2)
    assert 2500 <= summary["env_steps"] < 3000
    assert found["committed"] == found["secured"]
    assert any(len(lives) > 1 for lives in lives_of_episodes(job.out).values()), (
        "no episode went on in the second session"
    )
    code, sentence = scale(job.out, 2)
    assert (code, "is not running on a Ray cluster that can be reached from here" in sentence) == (1, True), sentence
    assert "Traceback" not in sentence
    assert wait_until(lambda: not marked(job.mark), 90), [process.cmdline() for process in marked(job.mark)]


def test_scaling_what_is_no_run_is_one_sentence(tmp_path):
    code, sentence = scale(tmp_path, 2)
    assert (code, "is not a run directory" in sentence) == (1, True)


@pytest.mark.slow
def test_messages_that_fail_or_come_late_lose_nothing(command):
    failing = {"num_failures": 80, "req_failure_prob": 3, "resp_failure_prob": 10}  # of each process's calls, per cent
    job = command(
        "run.steps=1500",
        RAY_testing_rpc_failure=json.dumps({"CoreWorkerService.grpc_client.PushTask": failing}),
        RAY_testing_asio_delay_us="CoreWorkerService.grpc_server.PushTask=0:20000",
    )
    job.begin()
    summary = job.end()
    assert_balanced(job.out)
    assert summary["transitions_rejected"] == summary["restarts"] == {}
    assert summary["transitions_duplicated"] > 0, "no receipt was lost: the scenario tests nothing"


@pytest.mark.slow
def test_the_chaos_command_balances_its_books():
    command = ["chaos", "--kills", "6", "--minutes", "0.5", "--reference-minutes", "0.3"]
    found = subprocess.run([sys.executable, "-m", "distrl.cli", *command], capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    document = json.loads(found.stdout.strip().splitlines()[-1])
    assert document["kills"] == sum(document["kills_by_role"].values()) == 6
    nothing = ("lost", "duplicated", "orphans", "difference", "invented", "versions_decreased")
    assert {name: document[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert document["committed"] == document["secured"] > 0
    assert document["resume_s_median"] > 0
    assert document["throughput_ratio"] > 0
    assert document["recomputed"] >= 0
