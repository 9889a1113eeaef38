"""A configuration in, a finished run on Ray out: the driver's side. Connects, starts the supervisor, shows progress,
passes on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distrl.cluster.components import PolicySpecs
from distrl.cluster.resources import gpu_shares
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec

# What Ray and the numerical libraries read when their processes start: one thread each, no idle workers, no usage
# report.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_AUTH_MODE = "RAY_AUTH_MODE"  # set by ray.init where it starts a Ray that asks for a token
ANSWER_S = 10.0
NOT_SHIPPED = ["runs/", ".venv*/", ".git/"]  # of a working directory, beside what its .gitignore names


def connect(cpus: float, address: str | None) -> bool:
    """Start Ray on this machine, with at least so many logical CPUs, or connect to the cluster at ``address`` (shipping
    the working directory).

    Returns whether it did; False where this process was connected already.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return False
    if address is not None:
        _join(address)
        return True
    # Logical CPUs: on one machine environments may outnumber the cores; the operating system shares them out.
    with _signal_handlers_kept():
        ray.init(
            address="local",
            namespace="distrl",
            num_cpus=max(int(cpus + 0.999), os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=True,
            logging_level=logging.WARNING,
        )
    return True


def _join(address: str) -> None:
    """Connect to the cluster there.

    Raises:
        ConfigError: nobody is there, or does not let us in, or runs another Ray; the working directory is too large.
    """
    import ray

    host, _, port = address.rpartition(":")
    needed = "--address needs HOST:PORT of a Ray cluster whose network this machine is in, or auto on one of its nodes"
    if address != "auto" and ("://" in address or not host or not port.isdecimal()):
        raise ConfigError(f"{needed}, but {address} came; from elsewhere use distrl submit --address http://…")
    if address != "auto":
        try:  # Ray itself would look for minutes, and end this process
            socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        except OSError as error:
            raise ConfigError(f"{needed}, but nobody answers at {address} ({error})") from None
        with_token()
    shipped: dict[str, Any] = {}
    if not in_job():
        from distrl.cluster.jobs import check_size

        check_size(Path.cwd())
        shipped = {"working_dir": os.getcwd(), "excludes": NOT_SHIPPED}
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    try:
        with _signal_handlers_kept():
            ray.init(address=address, namespace="distrl", runtime_env=shipped, **options)
    except (ConnectionError, SystemExit) as error:
        raise ConfigError(
            f"{needed}, but what is at {address} does not let this process in ({str(error).splitlines()[0]}): where it "
            "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds it"
        ) from None
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        there = " ".join(str(error).split())
        raise ConfigError(f"the cluster at {address} must run the Ray and Python of this process: {there}") from None


def in_job() -> bool:
    """Whether Ray has started this process as a job: what it needs has travelled with it."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def here(address: str | None) -> str | None:
    """The address, or that of the cluster that has started this process as a job; None: Ray begins with the run."""
    return "auto" if address is None and in_job() else address


def with_token(at_home: bool = False) -> None:
    """A token that the user names is shown to a cluster: Ray's clients look for it only when told to.

    Args:
        at_home: one in Ray's file in the home directory too. A driver asks for a token what it sends one to, so there
            it must not be: that file may be of another cluster, and this one have none.
    """
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if named or (at_home and (Path.home() / ".ray" / "auth_token").exists()):
        os.environ.setdefault(_AUTH_MODE, "token")


def check_cluster(config: RunConfig) -> None:
    """Refuse what the connected Ray can never give. A placement group around this process has been placed already.

    Raises:
        ConfigError: ``learner.device`` asks for a GPU and there is none; see also ``resources.check_cluster``.
    """
    import ray

    from distrl.cluster import placement, resources

    learner = config.learner
    if learner.device.startswith("cuda") and placement.num_gpus() < learner.gpus * learner.count:
        raise ConfigError(
            f"learner.device = {learner.device!r} needs a GPU (learner.gpus = {learner.gpus:g}, learner.count = "
            f"{learner.count}), and this Ray has {placement.num_gpus():g}; use auto or cpu"
        )
    resources.check_shares(config)
    if ray.util.get_current_placement_group() is None:
        resources.check_cluster(config, placement.nodes(), grows=placement.grows())


def disconnect() -> None:
    """Leave Ray; what ``connect`` has started on this machine ends."""
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """``ray.init`` puts its own SIGTERM handler in place of the caller's; it would end a run without a checkpoint."""
    if threading.current_thread() is not threading.main_thread():  # then neither Ray nor we may set one
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler not in (
                None,
                signal.SIG_DFL,
            ):  # without one of the caller's, Ray's is better than dying on the spot
                signal.signal(number, handler)


def run_on_ray(
    config: RunConfig,
    run: RunDirectory,
    spec: EnvSpec,
    policies: PolicySpecs,
    *,
    inline: bool,
    show: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train until ``run.steps`` (or ``stop``) on the Ray that is connected; returns the summary.

    Raises:
        RunFailed: a component failed for good; what was secured is in the run directory.
    """
    live = LiveRun(config, run, spec, policies, inline=inline)
    stopping = False
    try:
        while (status := live.status())["phase"] != "ended":
            show(status)
            if stop() and not stopping:
                stopping = True
                live.stop()
            time.sleep(0.5)
        show(status)
        return status["summary"]
    finally:
        live.kill()


class LiveRun:
    """A run that trains on the Ray that is connected, led by a supervisor of its own, beside this process."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        spec: EnvSpec,
        policies: PolicySpecs,
        *,
        inline: bool,
    ):
        import ray

        from distrl.cluster.placement import beside_driver, num_gpus
        from distrl.cluster.ray_links import start_actor
        from distrl.cluster.supervisor import Supervisor

        self._run = run
        gpus, inference_gpus = gpu_shares(config, num_gpus())
        name = f"supervisor-{run.id}"
        context = ray.get_runtime_context()
        auth_mode = os.environ.get(_AUTH_MODE)
        # where `distrl scale` finds it
        run.note(ray={"address": context.gcs_address, "supervisor": name, "auth_mode": auth_mode})
        arguments = (config.model_dump(), str(run.path), spec, policies, inline, gpus, inference_gpus)
        self._actor = start_actor(Supervisor, *arguments, name=name, scheduling_strategy=beside_driver())
        ray.get(self._actor.begin.remote())

    def status(self) -> dict[str, Any]:
        """See ``Supervisor.status``; ``phase`` is "starting", "training", "finishing" or "ended".

        Raises:
            RunFailed: it has failed.
        """
        status: dict[str, Any] = self._ask("status")
        if status["phase"] == "failed":
            raise RunFailed(status["failure"])
        return status

    def stop(self) -> None:
        """See ``Supervisor.stop``."""
        self._ask("stop")

    def checkpoint(self) -> Path:
        """See ``Supervisor.checkpoint``."""
        return Path(self._ask("checkpoint"))

    def options(self) -> dict[str, dict[str, Any]]:
        """See ``Supervisor.options``."""
        return self._ask("options")

    def kill(self) -> None:
        """End everything that is left of it, at once."""
        import ray

        ray.kill(self._actor)

    def _ask(self, method: str) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote())
        except ray.exceptions.RayTaskError as error:  # the supervisor's own sentence
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise RunFailed(
                f"the supervisor died: {str(error).splitlines()[0]}. Continue with --resume {self._run.path}"
            ) from None


def scale(run: RunDirectory, env_workers: int | None = None, learners: int | None = None) -> dict[str, tuple[int, int]]:
    """Ask a running job for so many env workers or learners; see ``Supervisor.scale``.

    Raises:
        ConfigError: the run is not running on a Ray that this machine reaches, or it refuses.
    """
    where = run.facts.get("ray")
    not_running = f"{run.path} is not running on a Ray cluster that can be reached from here"
    if where is None:
        raise ConfigError(f"{not_running}: it has never run on Ray")
    host, _, port = where["address"].rpartition(":")
    try:  # Ray itself would look for a minute
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise ConfigError(f"{not_running}: no answer from {where['address']}") from error
    if where.get("auth_mode") is not None:  # Ray asks for a token by default, and a client must know that beforehand
        os.environ.setdefault(_AUTH_MODE, where["auth_mode"])
    import ray

    try:
        with _signal_handlers_kept():
            ray.init(address=where["address"], namespace="distrl", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ConfigError(f"{not_running}: no answer from {where['address']}") from error
    try:
        supervisor: Any = ray.get_actor(where["supervisor"])
        return ray.get(supervisor.scale.remote(env_workers, learners), timeout=30)
    except ray.exceptions.RayTaskError as error:  # the supervisor's own sentence
        raise error.cause from None
    except (ValueError, ray.exceptions.RayActorError) as error:
        raise ConfigError(f"{not_running}: its supervisor has ended") from error
    finally:
        ray.shutdown()
