"""A configuration in, a run that can begin out. There are four kinds: on Ray, in this process, from logs alone, and by
RLlib. Whatever can be refused is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.run_directory import RunDirectory
from distrl.core.spool_files import refuse_network_file_system
from distrl.core.types import EnvSpec
from distrl.core.warm_start import check_warm_start

if TYPE_CHECKING:
    from distrl.envs.describe import Trial

Show = Callable[[dict[str, Any]], None]
Drive = Callable[[RunDirectory, Show, Callable[[], bool]], dict[str, Any]]


@dataclass(frozen=True)
class Prepared:
    """Attributes: logged: whether a new run keeps its transitions. drive: (run, show, stop) → summary; trains until the
    run's end, or until ``stop()``."""

    logged: bool
    drive: Drive


def prepare(
    config: RunConfig,
    run: RunDirectory | None,
    *,
    local: bool,
    address: str | None,
    keep_ray: bool,
    session: ExitStack,
    show: Show,
) -> Prepared:
    """Check everything and start Ray, where the run is on it.

    Args:
        run: that is resumed, or None. local, address, keep_ray, show: see ``distrl.train``.
        session: gets what is to be ended when the run has been driven.

    Raises:
        ConfigError: it cannot be run like that. EnvironmentFault: the environment is broken.
    """
    from distrl.cluster import checks

    if config.algorithm.name.startswith(checks.RLLIB):
        return _by_rllib(config, run, local, address, keep_ray, session)
    if config.offline.data:
        return _from_logs(config, run, address, show)
    if local:
        return _here(config, run)
    return _on_ray(config, run, address, keep_ray, session)


def _on_ray(
    config: RunConfig, run: RunDirectory | None, address: str | None, keep_ray: bool, session: ExitStack
) -> Prepared:
    from distrl.cluster import checks, components, launch
    from distrl.cluster.memory import check_memory
    from distrl.cluster.resources import bundles

    algorithm = checks.algorithm_model(config)
    address = launch.here(address)
    if address is None and config.run.durability != "off":
        refuse_network_file_system(components.spool_directory(config, ""))
    cpus = sum(bundle["CPU"] for bundle in bundles(config)[1:])
    trial = _try_while(config, lambda: _connect(cpus, address, keep_ray, session))
    launch.check_cluster(config)
    spec, hosted = trial.spec, checks.with_hosting(config, trial, local=False)
    policies = checks.policy_specs(hosted, spec)
    if address is None:
        check_memory(hosted, trial, algorithm)
    _check_warm_start(hosted, spec, run)
    inline = hosted.env.hosting != "process"

    def drive(run: RunDirectory, show: Show, stop: Callable[[], bool]) -> dict[str, Any]:
        return launch.run_on_ray(hosted, run, spec, policies, inline=inline, show=show, stop=stop)

    return Prepared(checks.keeps_log(hosted), drive)


def _here(config: RunConfig, run: RunDirectory | None) -> Prepared:
    from distrl.cluster import checks
    from distrl.cluster.local import check_local, run_local
    from distrl.cluster.memory import check_memory

    algorithm = checks.algorithm_model(config)
    check_local(config)
    trial = _try_while(config, lambda: checks.pick_device(config.learner.device))  # it loads torch
    spec, hosted = trial.spec, checks.with_hosting(config, trial, local=True)
    checks.policy_specs(hosted, spec)  # refuses what an algorithm cannot handle
    check_memory(hosted, trial, algorithm)
    _check_warm_start(hosted, spec, run)

    def drive(run: RunDirectory, show: Show, stop: Callable[[], bool]) -> dict[str, Any]:
        return run_local(hosted, run, spec, show, stop)

    return Prepared(checks.keeps_log(hosted), drive)


def _from_logs(config: RunConfig, run: RunDirectory | None, address: str | None, show: Show) -> Prepared:
    from distrl.cluster import checks
    from distrl.cluster.offline import check_offline, read_data, run_offline

    checks.algorithm_model(config)
    check_offline(config)
    if address is not None:
        raise ConfigError(
            f"a run with offline.data is one process on this machine, but the address {address} came: leave it out"
        )
    trial = _try_while(config, lambda: checks.pick_device(config.learner.device))
    spec, hosted = trial.spec, checks.with_hosting(config, trial, local=True)
    checks.policy_specs(hosted, spec)
    show({"phase": "reading the data"})
    data = read_data(hosted, spec, run)

    def drive(run: RunDirectory, show: Show, stop: Callable[[], bool]) -> dict[str, Any]:
        return run_offline(hosted, run, spec, data, show, stop)

    return Prepared(checks.keeps_log(hosted), drive)


def _by_rllib(
    config: RunConfig, run: RunDirectory | None, local: bool, address: str | None, keep_ray: bool, session: ExitStack
) -> Prepared:
    from distrl.cluster.rllib import baseline

    theirs = baseline.check_baseline(config, local, address, run)
    trial = _try_while(config, lambda: _connect(baseline.cpus_of(theirs), None, keep_ray, session))
    theirs = baseline.with_spaces(theirs, config, trial.spec)

    def drive(run: RunDirectory, show: Show, stop: Callable[[], bool]) -> dict[str, Any]:
        return baseline.run_rllib(config, run, trial.spec, theirs, show, stop)

    return Prepared(False, drive)


def _try_while(config: RunConfig, otherwise: Callable[[], Any]) -> Trial:
    """The environment is tried while something else, that takes seconds, is done here."""
    from distrl.cluster.checks import try_environment

    with ThreadPoolExecutor(1) as background:
        tried = background.submit(try_environment, config)
        otherwise()
        return tried.result()


def _connect(cpus: float, address: str | None, keep_ray: bool, session: ExitStack) -> None:
    from distrl.cluster import launch

    if launch.connect(cpus, address) and not keep_ray:
        session.callback(launch.disconnect)


def _check_warm_start(config: RunConfig, spec: EnvSpec, run: RunDirectory | None) -> None:
    from distrl.cluster.components import log_facts

    check_warm_start(config.replay.warm_start, log_facts(config, spec, run.id if run else ""))
