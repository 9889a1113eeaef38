"""A number of kills in, a balance out: trains for real while killing its processes, then holds what the simulators
computed against what the log secured.

    reference: the same run left alone, for its throughput
    run:       distrl train as a process of its own; every few seconds one of its processes gets SIGKILL, drawn equally
               by role; half way the driver itself, followed by distrl train --resume
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from distrl.cluster.components import SELECTION_SEEDS, TEST_SEEDS
from distrl.core.errors import RunFailed
from distrl.core.experience_log import read_log
from distrl.core.run_directory import RunDirectory
from distrl.envs.ledgered import read_ledgers

#: Role → what its processes are called.
ROLES = {
    "environment_process": "distrl-child",
    "env_worker": "ray::EnvWorkerActor",
    "learner": "ray::LearnerActor",
    "parameter_server": "ray::ParameterServerActor",
}
DRIVER = "driver"
_MARK = "DISTRL_CHAOS"  # environment variable that all processes of the run inherit
_START_S = 90.0  # for a run to start or resume
_LEAVE_S = 90.0  # for a dead run's last processes to go: two of Ray's own take a minute
_SETTINGS = {
    "env.id": "distrl.envs.ledgered:LedgeredPendulum",
    "env.hosting": "process",
    "actors.env_workers": 2,
    "actors.envs_per_worker": 4,
    "actors.fragment_max_age_s": 2.0,
    "algorithm.hidden": [64, 64],
    "algorithm.batch_size": 64,
    "replay.min_size": 200,
    "replay.samples_per_insert": 32.0,
    "learner.publish_period": 10,
    "checkpoint.period": 100,
    "evaluation.period": 1_000_000,
    "evaluation.final_episodes": 1,
    "evaluation.episodes": 1,
    "run.durability": "always",
    "run.steps": 100_000_000,
}


@dataclass
class Chaos:
    """What happened.

    Attributes:
        kills_by_role: how many processes of each role were killed. resume_s: seconds until each was replaced.
    """

    kills_by_role: Counter[str] = field(default_factory=Counter)
    resume_s: list[float] = field(default_factory=list)


class _Job:
    """A ``distrl train`` and everything that it starts."""

    def __init__(self, out: Path, settings: dict[str, Any]):
        self.out, self._settings = out, settings
        self._mark = uuid.uuid4().hex
        self._driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, or resume where there is a run already; returns once environments step."""
        command = [sys.executable, "-m", "distrl.cli", "train"]
        if (self.out / "run.json").exists():
            command += ["--resume", str(self.out)]
        else:
            command += ["sac", "--out", str(self.out)]
            for key, value in self._settings.items():
                command += ["--set", f"{key}={json.dumps(value)}"]
        with (self.out.parent / f"{self.out.name}.txt").open("ab") as output:
            self._driver = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | {_MARK: self._mark}, start_new_session=True
            )
        # the driver tries the environment before the run begins: those steps are not the run's
        self._wait(lambda: bool(self.find("environment_process")), "start an environment process")
        before = self._ledger_bytes()
        self._wait(lambda: self._ledger_bytes() > before, "compute a step")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not condition():
            if self._driver is None or self._driver.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"the run did not {what} within {_START_S:g} s; see {self.out}.txt")
            time.sleep(0.05)

    def _ledger_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.out.parent / "ledger").glob("*.jsonl"))

    def find(self, role: str) -> list[psutil.Process]:
        """The living processes of a role; of environments only those that train."""
        if role == DRIVER:
            return [psutil.Process(self._driver.pid)] if self._driver is not None else []
        found = []
        for process in self._living():
            with contextlib.suppress(psutil.Error):
                name = process.name() if role == "environment_process" else " ".join(process.cmdline())
                if name.startswith(ROLES[role]) and (role != "environment_process" or self._trains(process)):
                    found.append(process)
        return found

    @staticmethod
    def _trains(process: psutil.Process) -> bool:
        return any(" ".join(parent.cmdline()).startswith(ROLES["env_worker"]) for parent in process.parents())

    def _living(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def kill(self, role: str, choose: random.Random) -> float | None:
        """SIGKILL one process of a role; seconds until it was replaced, or None where there is none to kill now."""
        before = self.find(role)
        if not before:
            return None
        victim = choose.choice(before)
        victim.kill()
        began = time.monotonic()
        if role == DRIVER:
            assert self._driver is not None
            self._driver.wait()
            self.start()
            return time.monotonic() - began
        pids = {process.pid for process in before}
        # there may be more by then: those of an env worker that was killed just before are still being started
        while not (len(now := self.find(role)) >= len(before) and any(process.pid not in pids for process in now)):
            if time.monotonic() - began > _START_S:
                raise RunFailed(f"a killed {role} was not replaced within {_START_S:g} s; see {self.out}.txt")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """End the run as Ctrl-C does."""
        assert self._driver is not None
        self._driver.send_signal(signal.SIGINT)
        if self._driver.wait(timeout=180) != 0:
            raise RunFailed(f"the run ended with exit code {self._driver.returncode}; see {self.out}.txt")

    def orphans(self) -> list[str]:
        """What still lives after the end, each as its command line, once Ray's own have had their minute."""
        deadline = time.monotonic() + _LEAVE_S
        while (left := list(self._living())) and time.monotonic() < deadline:
            time.sleep(0.5)
        return [" ".join(process.cmdline()) for process in left]

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self._living():
            with contextlib.suppress(psutil.Error):
                process.kill()


def chaos(
    kills: int,
    minutes: float,
    seed: int = 0,
    reference_minutes: float = 2.0,
    folder: Path | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train while killing; the balance as plain data.

    Args:
        kills: SIGKILLs in all. minutes: over how long they are spread. seed: decides who is killed.
        reference_minutes: how long the run without kills takes, for ``throughput_ratio``.
        folder: where runs and ledgers are left; None uses a temporary one.

    Raises:
        RunFailed: the run did not survive.
    """
    with contextlib.ExitStack() as stack:
        base = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distrl-chaos-")))
        show("the reference: the same run without kills")
        reference = _throughput(base / "reference", reference_minutes)
        job = _new_job(base / "killed")
        stack.callback(job.end)
        return _killed(job, kills, minutes, seed, reference, show)


def _new_job(folder: Path) -> _Job:
    folder.mkdir(parents=True)
    settings = _SETTINGS | {"env.kwargs.ledger": str(folder / "ledger"), "run.spool_dir": str(folder / "spool")}
    return _Job(folder / "run", settings)


def _throughput(folder: Path, minutes: float) -> float:
    """Env steps a second of a run left alone, from its first step on."""
    job = _new_job(folder)
    try:
        job.start()
        began, before = time.monotonic(), len(read_ledgers(folder / "ledger"))
        time.sleep(minutes * 60)
        steps, seconds = len(read_ledgers(folder / "ledger")) - before, time.monotonic() - began
        job.stop()
        return steps / seconds
    finally:
        job.end()


def _killed(
    job: _Job, kills: int, minutes: float, seed: int, reference: float, show: Callable[[str], None]
) -> dict[str, Any]:
    choose, result = random.Random(seed), Chaos()
    period_s = minutes * 60 / kills
    job.start()
    began = time.monotonic()
    for number, role in enumerate(_schedule(kills, choose)):
        time.sleep(max(began + number * period_s - time.monotonic(), 0.0))
        seconds = job.kill(role, choose)
        while seconds is None:  # the last kill of this role is still being made good
            time.sleep(0.1)
            seconds = job.kill(role, choose)
        result.kills_by_role[role] += 1
        result.resume_s.append(seconds)
        show(f"{number + 1}/{kills}  {role} killed, replaced after {seconds:.1f} s")
    time.sleep(max(began + minutes * 60 - time.monotonic(), 0.0))
    seconds = time.monotonic() - began
    computed = len(read_ledgers(job.out.parent / "ledger"))
    job.stop()
    orphans = job.orphans()
    return {
        "kills": result.kills_by_role.total(),
        "kills_by_role": dict(result.kills_by_role),
        **balance(job.out, job.out.parent / "ledger"),
        "orphans": len(orphans),
        "resume_s_median": statistics.median(result.resume_s),
        "env_steps_per_s": computed / seconds,
        "throughput_ratio": computed / seconds / reference,
        "kill_period_s": period_s,
        "seed": seed,
    }


def _schedule(kills: int, choose: random.Random) -> list[str]:
    """Whom to kill: each role equally often, in random order, and once half way the driver."""
    roles = list(itertools.islice(itertools.cycle(ROLES), kills - 1))
    choose.shuffle(roles)
    roles.insert(kills // 2, DRIVER)
    return roles


def balance(run: Path, ledger: Path) -> dict[str, Any]:
    """The simulators' ledgers against a stopped run's log and summary.

    Returns:
        What ``compare`` does, and ``committed``: by env workers' spools; ``lost``: of these, not in the log;
        ``difference`` of the accounting identity.
    """
    summary = json.loads((run / "summary.json").read_text())
    states = ("trained", "queued", "evicted")
    placed = sum(summary[f"transitions_{state}"] for state in states) + sum(summary["transitions_rejected"].values())
    return {
        **compare(run, ledger),
        "committed": summary["transitions_committed"],
        "lost": summary["transitions_lost"],
        "difference": summary["transitions_produced"] - placed,
    }


def compare(run: Path, ledger: Path) -> dict[str, int]:
    """What simulators have written down while training against a run's log.

    Returns:
        ``computed``: different steps that simulators finished; ``recomputed``: steps that they finished again;
        ``secured``: different transitions in the log; ``duplicated``: those that are in it twice; ``uncommitted``:
        finished, and in no log; ``invented``: in the log and in no ledger; ``versions_decreased``: steps that an
        environment took with older weights than the step before.
    """
    finished = Counter(key for key in read_ledgers(ledger) if _trains(key[0]))
    secured: Counter[tuple[int, int]] = Counter()
    acted: dict[tuple[int, int], list[tuple[float, int]]] = {}  # environment → when and with which version
    for _, fragment in read_log(RunDirectory.open(run).path / "log"):
        columns = {name: fragment.columns[name] for name in ("seed", "step", "start_s", "policy_version")}
        seed, step, start_s, version = (column.ravel().tolist() for column in columns.values())
        secured.update(zip(seed, step, strict=True))
        for row, env_index in enumerate(fragment.columns["env_index"].tolist()):
            stream = acted.setdefault((fragment.worker, env_index), [])
            stream += zip(start_s[row :: fragment.num_rows], version[row :: fragment.num_rows], strict=True)
    return {
        "computed": len(finished),
        "recomputed": finished.total() - len(finished),
        "secured": len(secured),
        "duplicated": secured.total() - len(secured),
        "uncommitted": len(finished.keys() - secured.keys()),
        "invented": len(secured.keys() - finished.keys()),
        "versions_decreased": sum(
            after < before
            for stream in acted.values()
            for (_, before), (_, after) in itertools.pairwise(sorted(stream))
        ),
    }


def _trains(seed: int) -> bool:
    """Whether a step with this seed is training's, and not of an evaluation or of the trial before the run."""
    evaluations = (SELECTION_SEEDS, TEST_SEEDS)
    return seed not in (0, 1) and not any(first <= seed < first + 1000 for first in evaluations)
