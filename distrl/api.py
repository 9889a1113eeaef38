"""What a user calls: train a run, load what it learned, search for what is trained best."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distrl.core.checkpoint import load_best
from distrl.core.config import RunConfig
from distrl.core.contracts import Policy
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.matchups import is_snapshot
from distrl.core.metrics import write_json
from distrl.core.policy_file import policies_in, read_policy
from distrl.core.run_directory import RunDirectory
from distrl.core.spool_files import refuse_network_file_system
from distrl.core.sweep import SweepConfig
from distrl.core.types import ARRAY, EnvSpec, Observation
from distrl.core.warm_start import check_warm_start
from distrl.monitor.session import monitored

if TYPE_CHECKING:
    from distrl.cluster.sweeps.sweep import TrialRow

Show = Callable[[dict[str, Any]], None]
ShowTrial = Callable[[str, dict[str, Any], dict[str, Any]], None]
_SWEEP = "sweep.json"  # in a sweep's folder


@dataclass(frozen=True)
class RunResult:
    """Attributes: directory: the run directory. summary: the content of its ``summary.json``."""

    directory: Path
    summary: dict[str, Any]


class LoadedPolicy:
    """A trained policy that acts deterministically, one observation at a time."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.reset()

    def reset(self) -> None:
        """Forget the running episode (for policies with memory)."""
        self._state = self.policy.initial_state(1)
        self._is_first = np.array([True])

    def act(self, observation: Any) -> np.ndarray:
        """The action for one observation as the environment returns it: an array, or a dict of them by "/"-path."""
        parts: Observation = observation if isinstance(observation, Mapping) else {ARRAY: observation}  # type: ignore[assignment]
        batch = {path: np.asarray(part)[None] for path, part in parts.items()}
        action, _, self._state = self.policy.step(batch, self._state, self._is_first)
        self._is_first = np.array([False])
        return self.policy.env_action(action)[0]


def load_policy(run_dir: Path | str, policy_id: str | None = None) -> LoadedPolicy:
    """The best policy of a run by its evaluations; the newest where none was evaluated.

    Args:
        policy_id: which, of a run with several; it acts for one agent at a time. A snapshot of a league has a name such
            as ``main:000123`` and acts as it did there, by chance; ``RUN/league/players`` holds them.

    Raises:
        ConfigError: not a run directory, or no policy of that name. StorageError: no policy in it can be read.
    """
    if policy_id is not None and is_snapshot(policy_id):
        from distrl.learners.league.players import read_snapshot

        recipe, weights = read_snapshot(RunDirectory.open(Path(run_dir)).path / "league", policy_id)
        policy = recipe.build(seed=0)
        policy.load(weights)
        return LoadedPolicy(policy)
    found = load_policies(run_dir)
    if policy_id is None and len(found) == 1:
        return LoadedPolicy(next(iter(found.values())))
    if policy_id not in found:
        came = "none was named" if policy_id is None else f"{policy_id!r} came"
        raise ConfigError(f"{run_dir} has the policies {', '.join(found)}, but {came}: load_policy(run, POLICY)")
    return LoadedPolicy(found[policy_id])


def load_policies(run_dir: Path | str) -> dict[str, Policy]:
    """All policies of a run, by name; see ``load_policy``."""
    files = load_best(RunDirectory.open(Path(run_dir)).path)
    return {name: read_policy(files, policy_id=name) for name in policies_in(files)}


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
    with ExitStack() as monitoring:
        return _train(config, resume, local, address, keep_ray, show, stop, monitoring)


def _train(
    config: RunConfig,
    resume: Path | str | None,
    local: bool,
    address: str | None,
    keep_ray: bool,
    show: Show,
    stop: threading.Event | None,
    monitoring: ExitStack,
) -> RunResult:
    from distrl import results
    from distrl.cluster import checks, components
    from distrl.cluster.local import check_local, run_local
    from distrl.cluster.memory import check_memory
    from distrl.cluster.offline import check_offline, read_data, run_offline

    offline, rllib = bool(config.offline.data), config.algorithm.name.startswith(checks.RLLIB)
    algorithm = None if rllib else checks.algorithm_model(config)
    if rllib:
        from distrl.cluster.rllib import baseline

        theirs = baseline.check_baseline(config, local, address, resume)
    elif offline:
        check_offline(config)
        if address is not None:
            raise ConfigError(
                f"a run with offline.data is one process on this machine, but the address {address} came: leave it out"
            )
        local = True
    elif local:
        check_local(config)
    started = time.monotonic()
    ending = stop or threading.Event()
    connected = False
    run = RunDirectory.open(Path(resume).absolute()) if resume else None
    if run is not None:
        components.count_leftovers(run)
    if run is not None and run.facts["env_id"] != config.env.id:
        raise ConfigError(
            f"{run.path} was trained on {run.facts['env_id']}, but the configuration names {config.env.id}: resume it "
            "with the former"
        )
    try:
        if rllib:
            from distrl.cluster import launch

            with ThreadPoolExecutor(1) as background:  # the environment is tried while Ray starts
                tried = background.submit(checks.try_environment, config)
                connected = launch.connect(baseline.cpus_of(theirs), None)
                trial = tried.result()
            theirs = baseline.with_spaces(theirs, config, trial.spec)
            run = _new_run(config, logged=False)
            run.begin_session()
            monitoring.enter_context(monitored(run, config))
            show({"phase": "starting", "directory": str(run.path)})
            summary = baseline.run_rllib(config, run, trial.spec, theirs, show, ending.is_set)
        elif local:
            with ThreadPoolExecutor(1) as background:  # the environment is tried while torch loads
                tried = background.submit(checks.try_environment, config)
                checks.pick_device(config.learner.device)
                trial = tried.result()
            spec, given, config = trial.spec, config, checks.with_hosting(config, trial, local=True)
            checks.policy_specs(config, spec)  # refuses what an algorithm cannot handle
            if offline:
                show({"phase": "reading the data"})
                data = read_data(config, spec, run)
            else:
                check_memory(config, trial, algorithm)
                _check_warm_start(config, spec, run)
            run = run or _new_run(given, checks.keeps_log(config))
            run.begin_session()
            monitoring.enter_context(monitored(run, given))
            show({"phase": "starting", "directory": str(run.path)})
            if offline:
                summary = run_offline(config, run, spec, data, show, ending.is_set)
            else:
                summary = run_local(config, run, spec, show, ending.is_set)
        else:
            from distrl.cluster import launch
            from distrl.cluster.resources import bundles

            address = launch.here(address)
            if address is None and config.run.durability != "off":
                refuse_network_file_system(components.spool_directory(config, ""))
            with ThreadPoolExecutor(1) as background:  # the environment is tried while Ray starts
                tried = background.submit(checks.try_environment, config)
                connected = launch.connect(sum(bundle["CPU"] for bundle in bundles(config)[1:]), address)
                trial = tried.result()
            launch.check_cluster(config)
            spec, given, config = trial.spec, config, checks.with_hosting(config, trial, local=False)
            policies = checks.policy_specs(config, spec)
            if address is None:
                check_memory(config, trial, algorithm)
            _check_warm_start(config, spec, run)
            inline = config.env.hosting != "process"
            run = run or _new_run(given, checks.keeps_log(config))
            run.begin_session()
            monitoring.enter_context(monitored(run, given))
            show({"phase": "starting", "directory": str(run.path)})
            summary = launch.run_on_ray(config, run, spec, policies, inline=inline, show=show, stop=ending.is_set)
    finally:
        if connected and not keep_ray:
            launch.disconnect()
        if run is not None:
            shutil.rmtree(run.scratch(), ignore_errors=True)
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


def _check_warm_start(config: RunConfig, spec: EnvSpec, run: RunDirectory | None) -> None:
    from distrl.cluster.components import log_facts

    check_warm_start(config.replay.warm_start, log_facts(config, spec, run.id if run else ""))


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


__all__ = ["LoadedPolicy", "RunFailed", "RunResult", "SweepResult", "load_policy", "train", "tune"]
