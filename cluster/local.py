"""A whole run in one process, without Ray: environments, learner and evaluator take turns, and the same seed gives the
same run.

worker.run_once → learner.receive → learner.update … → publish → worker.pull
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from distrl.cluster import checks, components
from distrl.cluster.local_evaluation import LocalEvaluation
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec
from distrl.parameter_server import ParameterServer, PolicySource

if TYPE_CHECKING:
    from distrl.core.types import Fragment
    from distrl.learners.learner import Learner


def check_local(config: RunConfig) -> None:
    """Refuse what a clock would decide: with it, two runs of one seed would differ.

    Raises:
        ConfigError: naming the key.
    """
    if config.replay.samples_per_insert is None:
        raise ConfigError(
            'replay.samples_per_insert = "unlimited" lets speed decide how often is updated; --local needs a number, '
            "such as 256"
        )
    if config.learner.duration_weight_limit is not None:
        raise ConfigError(
            "learner.duration_weight_limit lets speed decide what transitions count; --local does without"
        )
    if config.learner.mode != "single":
        raise ConfigError(
            f"learner.mode = {config.learner.mode} needs Ray, which starts the learners; leave --local out, or take "
            "single"
        )
    if config.run.wall_limit_s is not None:
        raise ConfigError("run.wall_limit_s lets speed decide where the run ends; --local needs run.steps instead")
    if config.run.core_hours is not None:
        raise ConfigError("run.core_hours lets speed decide where the run ends; --local needs run.steps instead")
    if config.env.hosting == "process":
        raise ConfigError(
            'env.hosting = "process" lets speed decide the order of arrival; --local hosts inline: use inline or auto'
        )
    if config.actors.inference == "server":
        raise ConfigError(
            'actors.inference = "server" lets speed decide which rows are answered together; --local needs local or '
            "auto, which is local there"
        )
    refuse_prometheus(config)
    for key in ("fragment_max_age_s", "pull_period_s"):
        if (
            key in config.actors.model_fields_set
            and getattr(config.actors, key) != type(config.actors).model_fields[key].default
        ):
            raise ConfigError(
                f"actors.{key} lets speed decide how fragments are cut or weights pulled; --local does without: "
                "remove it"
            )


def refuse_prometheus(config: RunConfig) -> None:
    """
    Raises:
        ConfigError: the sink is asked for where there is no Ray.
    """
    if "prometheus" in config.monitor.sinks:
        raise ConfigError(
            "the sink prometheus shows gauges at the metrics port of Ray's nodes, and this run has one process and no "
            "Ray: leave it out of monitor.sinks"
        )


class _DirectSink:
    """Publishing is a call; when it returns, the fragment is in the log."""

    def __init__(self, learner: Learner):
        self._receive, self.lacking = learner.receive, learner.lacking

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        self._receive(fragment)
        secured()

    def keep_up(self) -> None:
        """There is one learner."""

    def flush(self, timeout_s: float) -> None:
        """Nothing is ever under way."""


def run_local(
    config: RunConfig,
    run: RunDirectory,
    spec: EnvSpec,
    show: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train until ``run.steps`` (or ``stop``); returns the summary.

    Every env worker is one loop over its own InlinePool; they take turns, round by round.
    """
    check_local(config)
    server = ParameterServer()
    learner = components.build_learner(config, spec, run.path, server.publish)
    recorder = Recorder(
        run.path, max(config.evaluation.period // 10, 1), config.env.fidelity, config.league is not None
    )
    recorder.began(learner.report(), {}, {})
    sink, scratch = _DirectSink(learner), run.scratch()
    workers = {}
    policies = checks.policy_specs(config, spec)
    for number in range(config.actors.env_workers):
        incarnation = run.next_incarnation()
        pool = components.build_training_pool(
            config, number, incarnation, scratch, inline=True, env_steps=recorder.env_steps
        )
        workers[incarnation] = components.build_worker(
            config,
            pool,
            policies,
            sink,
            partial(PolicySource, server),
            worker=number,
            incarnation=incarnation,
            timed=False,
        )
    evaluation = LocalEvaluation(config, run, spec, server, recorder)
    started, started_cpu, shown = time.monotonic(), time.process_time(), 0.0

    def collect() -> None:
        environments_s = 0.0  # of this process's time, counted as theirs
        for number, (incarnation, worker) in enumerate(workers.items()):
            found = worker.report()
            environments_s += found["core_s"]
            recorder.worker_reported(incarnation, found | {"worker": number})
        cpu_s = max(time.process_time() - started_cpu - environments_s, 0.0)
        recorder.learner_reported(learner.report() | {"cpu_s": cpu_s, "training_s": learner.update_s})

    try:
        for note in learner.notes:
            recorder.event("note", text=note)
        learner.publish()
        next_evaluation = (recorder.env_steps // config.evaluation.period + 1) * config.evaluation.period
        while recorder.env_steps < config.run.steps and not stop():
            for worker in workers.values():
                worker.pull()
                worker.progress(recorder.env_steps)
                worker.run_once(0.0)
            while learner.update():
                pass
            collect()
            if recorder.env_steps >= next_evaluation:
                next_evaluation += config.evaluation.period
                learner.publish()
                evaluation.evaluate()
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                show(recorder.status())
                recorder.tick()
        for worker in workers.values():
            worker.finish()
        while config.learner.finish_updates and not stop() and learner.update():
            pass
        learner.publish()
        if not stop():
            evaluation.evaluate()
        collect()
        learner.checkpoint()
        for incarnation in workers:
            recorder.worker_ended(incarnation)
        show(recorder.status())
        return recorder.summary() | {"session_s": time.monotonic() - started}
    finally:
        recorder.close()
        learner.close()
        evaluation.close()
        for worker in workers.values():
            worker.close()
