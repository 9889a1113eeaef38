"""A run and its simulators' ledgers in, the one question of every chaos test answered: does the balance hold?"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from distrl.chaos import DRIVER, ROLES, balance, compare
from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory
from tests.fakes.processes import wait_until

MARK = "DISTRL_TEST"  # environment variable that all processes of a test's runs inherit


def ledgered(out: Path, *overrides: str) -> RunConfig:
    """A run of two env workers of two environments each, whose steps take 10 ms and are in a ledger beside ``out``."""
    return RunConfig.load("sac", [f"{key}={value}" for key, value in settings(out).items()] + list(overrides))


def settings(out: Path) -> dict[str, str]:
    """The overrides of ``ledgered``."""
    return {
        "run.out": str(out),
        "run.steps": "1500",
        "run.durability": "always",
        "run.spool_dir": str(out.parent / "spool"),
        "env.id": "distrl.envs.ledgered:LedgeredPendulum",
        "env.kwargs": f"{{ledger='{out.parent / 'ledger'}', step_s=0.01, sigma=0.5}}",
        "env.hosting": "process",
        "actors.env_workers": "2",
        "actors.envs_per_worker": "2",
        "actors.fragment_steps": "20",
        "actors.fragment_max_age_s": "1.0",
        "algorithm.hidden": "[16]",
        "algorithm.batch_size": "32",
        "replay.min_size": "100",
        "replay.samples_per_insert": "8",
        "learner.publish_period": "5",
        "checkpoint.period": "50",
        "evaluation.period": "100000",
        "evaluation.episodes": "1",
        "evaluation.final_episodes": "1",
    }


def assert_balanced(run: Path, *, in_flight: int = 4, mark: str | None = None) -> dict[str, int]:
    """The ledgers against the log against what was trained, after a clean end; what was found.

    Args:
        in_flight: steps that may have been finished and never committed, because their environment or env worker was
            killed in that moment: up to two of each environment whose env worker is killed, because one is committed
            while the next computes; and one of each that still computes at the end of the run.
        mark: value of MARK that the run's processes have, of which none may be left.
    """
    ledger = run.parent / "ledger"
    ended = (run / "summary.json").exists()
    found = balance(run, ledger) if ended else compare(run, ledger)
    wrong = {
        name: found.get(name, 0) for name in ("lost", "duplicated", "invented", "versions_decreased", "difference")
    }
    assert not any(wrong.values()), found
    assert found["computed"] > 0
    assert found["uncommitted"] <= in_flight, found
    assert not list((run.parent / "spool").rglob("*.sqlite*")), "a spool was left behind"
    assert not list(RunDirectory.open(run).scratch().glob("*")), "something was left in shared memory"
    if mark is not None:
        assert wait_until(lambda: not working(mark), 30), working(mark)
    return found


def working(mark: str, role: str | None = None) -> list[psutil.Process]:
    """The living processes of components, or of one role, that have a mark; environments only where they train."""
    names = {**ROLES, "supervisor": "ray::Supervisor", "evaluator": "ray::EvaluatorActor"}
    found = []
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            command = process.name() if role == "environment_process" else " ".join(process.cmdline())
            prefixes = tuple(names.values()) if role is None else names[role]
            if command.startswith(prefixes) and (role != "environment_process" or _trains(process)):
                found.append(process)
    return found


def _trains(process: psutil.Process) -> bool:
    return any(" ".join(parent.cmdline()).startswith(ROLES["env_worker"]) for parent in process.parents())


def marked(mark: str) -> list[psutil.Process]:
    """Every living process with a mark but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                found.append(process)
    return found


__all__ = ["DRIVER", "MARK", "assert_balanced", "ledgered", "marked", "settings", "working"]
