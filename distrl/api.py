"""What a user calls: train a run, load what it learned, search for what is trained best."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.metrics import write_json
from distrl.core.run_directory import RunDirectory
from distrl.core.sweep import SweepConfig
from distrl.loading import LoadedPolicy, load_policies, load_policy
from distrl.monitor.session import monitored
from distrl.preparing import Show, prepare

if TYPE_CHECKING:
    from distrl.cluster.sweeps.sweep import TrialRow

ShowTrial = Callable[[str, dict[str, Any], dict[str, Any]], None]
_SWEEP = "sweep.json"  # in a sweep's folder


@dataclass(frozen=True)
class RunResult:
    """Attributes: directory: the run directory. summary: the content of its ``summary.json``."""

    directory: Path
    summary: dict[str, Any]


def train(
    config: RunConfig,
    *,
    resume: Path | str | None = None,
    local: bool = False,
    address: str | None = None,
    keep_ray: bool = False,
    show: Show = lambda status: None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Train until ``run.steps`` and evaluate what was learned; with ``offline.data``, learn from logs alone; with
    ``algorithm.name = "rllib:PPO"`` and others, by RLlib.

    Args:
        config: what to do. With ``resume``, its spaces and algorithm must be those the run began with.
        resume: a run directory to continue.
        local: everything in this process, without Ray, deterministic.
        address: a Ray cluster; without it Ray is started on this machine and ended again (in a Ray job, its cluster).
        keep_ray: leave Ray running at the end (one that was running before is always left alone).
        show: called about twice a second with the status.
        stop: setting it ends the run with a checkpoint.

    Raises:
        ConfigError: refused before anything starts. EnvironmentFault: the environment is broken. RunFailed: it ended
        early; continue it with ``resume``.
    """
    from distrl import results
    from distrl.cluster.components import count_leftovers

    started, ending = time.monotonic(), stop or threading.Event()
    run = RunDirectory.open(Path(resume).absolute()) if resume else None
    if run is not None:
        count_leftovers(run)
        if run.facts["env_id"] != config.env.id:
            raise ConfigError(
                f"{run.path} was trained on {run.facts['env_id']}, but the configuration names {config.env.id}: resume "
                "it with the former"
            )
        if (begun := run.config().learner.count) != config.learner.count:
            raise ConfigError(
                f"{run.path} was begun with learner.count = {begun}, each of which keeps a part of its transitions, "
                f"but {config.learner.count} came: resume it with {begun}"
            )
    with ExitStack() as monitoring:
        with ExitStack() as session:
            prepared = prepare(config, run, local=local, address=address, keep_ray=keep_ray, session=session, show=show)
            run = run or _new_run(config, prepared.logged)
            session.callback(shutil.rmtree, run.scratch(), ignore_errors=True)
            run.begin_session()
            monitoring.enter_context(monitored(run, config))
            show({"phase": "starting", "directory": str(run.path)})
            summary = prepared.drive(run, show, ending.is_set)
        summary["session_s"] = time.monotonic() - started
        summary["interrupted"] = ending.is_set()
        write_json(run.path / "summary.json", summary)
        if not ending.is_set():
            show({"phase": "evaluating"})
            summary |= results.final_evaluation(run, config)
            summary["session_s"] = time.monotonic() - started
            write_json(run.path / "summary.json", summary)
            show({"phase": "drawing"})
            results.draw(run, config)
    return RunResult(run.path, summary)


@dataclass(frozen=True)
class SweepResult:
    """Attributes: directory: the sweep's folder. rows: its trials, best first. best: the first one's
    configuration; None where the sweep was ended before any result."""

    directory: Path
    rows: list[TrialRow]
    best: RunConfig | None


def read_sweep(directory: Path | str) -> SweepConfig:
    """What the sweep in a folder searches.

    Raises:
        ConfigError: there is none.
    """
    try:
        return SweepConfig.validated(json.loads((Path(directory) / _SWEEP).read_text()))
    except FileNotFoundError:
        raise ConfigError(f"{directory} is not a sweep's folder: it has no {_SWEEP}") from None


def tune(
    sweep: SweepConfig,
    *,
    resume: Path | str | None = None,
    address: str | None = None,
    show: ShowTrial = lambda trial, values, result: None,
    stop: threading.Event | None = None,
) -> SweepResult:
    """Search a space of configurations with Ray Tune: each trial is a run.

    Args:
        sweep: what to search. resume: the folder of a sweep that goes on where it was.
        address: a Ray cluster; without it Ray is started on this machine and ended again.
        show: called with (trial, its values, its result) at every evaluation of a trial, and at a failure.
        stop: setting it ends the sweep, each trial with a checkpoint.

    Raises:
        ConfigError: refused before anything starts. RunFailed: every trial failed.
    """
    from distrl import sweep_results
    from distrl.cluster import checks, launch
    from distrl.cluster.resources import bundles

    address = launch.here(address)
    directory = Path(resume).absolute() if resume else _kept(sweep.out or f"sweeps/{time.strftime('%Y%m%d-%H%M%S')}")
    if resume:
        sweep = read_sweep(directory)
    if not resume and (directory / _SWEEP).exists():
        raise ConfigError(
            f"{directory} already holds a sweep: continue it with --resume {directory}, or choose another --out"
        )
    checks.check_sweep(sweep)
    cpus = sum(bundle["CPU"] for bundle in bundles(sweep.run_config({})))
    at_once = sweep.max_concurrent or max(int((os.cpu_count() or 1) / cpus), 1)
    connected = launch.connect(cpus * at_once, address)
    try:
        from distrl.cluster.sweeps import sweep as sweeping

        if not resume:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / _SWEEP, sweep.model_dump(by_alias=True))
        ending = stop or threading.Event()
        rows = sweeping.run(sweep, directory, resume=bool(resume), show=show, stop=ending.is_set)
    finally:
        if connected:
            launch.disconnect()
    sweep_results.write(sweep, rows, directory)
    best = next((row for row in rows if row.result), None)
    return SweepResult(directory, rows, sweep.run_config(best.values) if best else None)


def _new_run(config: RunConfig, logged: bool) -> RunDirectory:
    run = RunDirectory.create(_new_directory(config), config)
    run.note(logged=logged)
    return run


def _new_directory(config: RunConfig) -> Path:
    name = config.env.id.split("/")[-1].split(":")[-1]
    return _kept(config.run.out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _kept(out: str) -> Path:
    path = Path(out).absolute()  # actors may have another working directory
    if "working_dir_files" in path.parts:  # Ray's name for where it unpacks what travels with a job
        raise ConfigError(
            f"a job's own folder is deleted after it has ended, and what is written to {out} would go with it: give an "
            "absolute --out on storage that the cluster's nodes share"
        )
    return path


__all__ = [
    "LoadedPolicy",
    "RunFailed",
    "RunResult",
    "SweepResult",
    "load_policies",
    "load_policy",
    "read_sweep",
    "train",
    "tune",
]
