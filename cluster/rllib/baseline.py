"""A configuration whose algorithm is ``rllib:NAME`` in, a run directory like any other out: RLlib on the same
environment, evaluated on the same seeds.

algorithm.train() → what the environments counted → recorder → every evaluation.period: its module → LocalEvaluation
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import os
import time
from collections.abc import Callable
from typing import Any

import gymnasium
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from distrl.cluster.local_evaluation import LocalEvaluation
from distrl.cluster.recorder import Recorder
from distrl.cluster.rllib.counted import Counted, Tally
from distrl.cluster.rllib.module import build_module, recipe
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.run_directory import RunDirectory
from distrl.core.types import DEFAULT_POLICY, EnvSpec, PolicySpec, Weights
from distrl.envs.resolve import make
from distrl.parameter_server import ParameterServer

#: Not those that learn from data of others, or bring environments of their own.
SUPPORTED = ("PPO", "SAC", "APPO", "IMPALA")
_ENV = "distrl"  # as RLlib knows the environment
_OURS = {  # keys of RLlib's → ours
    "env": "env.id",
    "env_config": "env.kwargs",
    "seed": "run.seed",
    "num_env_runners": "actors.env_workers",
    "num_envs_per_env_runner": "actors.envs_per_worker",
}
_METHODS = ("training", "env_runners", "learners", "rl_module", "reporting", "fault_tolerance")  # of its options
_ITERATION_S = 0.5
_ANSWER_S = 5.0


def algorithm_config(config: RunConfig) -> Any:
    """RLlib's configuration, yet without the environment's spaces.

    Raises:
        ConfigError: RLlib has no such algorithm or key, or refuses a value.
    """
    name = config.algorithm.name.partition(":")[2]
    if name not in SUPPORTED:
        near = difflib.get_close_matches(name.upper(), SUPPORTED, n=1)
        hint = f", did you mean rllib:{near[0]}?" if near else ""
        raise ConfigError(f"algorithm.name = 'rllib:{name}' needs one of {', '.join(SUPPORTED)}{hint}")
    _, found = ALGORITHMS[name]()
    found.environment(_ENV)
    found.env_runners(num_env_runners=config.actors.env_workers, num_envs_per_env_runner=config.actors.envs_per_worker)
    found.debugging(seed=config.run.seed, log_level="ERROR")
    found.reporting(min_time_s_per_iteration=_ITERATION_S)
    for key, value in config.algorithm.options.items():
        _set(found, name, key, value)
    return found


def with_spaces(found: Any, config: RunConfig, spec: EnvSpec) -> Any:
    """RLlib's configuration for an environment.

    Raises:
        ConfigError: it has several agents, or RLlib cannot handle its spaces with these options.
    """
    name = config.algorithm.name
    if spec.agents:
        raise ConfigError(
            f"{name} is a baseline for environments of one agent, but {config.env.id} has {len(spec.agents)}: train it "
            "with an algorithm of distrl's"
        )
    found.environment(observation_space=spec.observation_space, action_space=spec.action_space)
    try:
        found.validate()
        policy = policy_recipe(found, spec).kwargs
        build_module(**policy)
    except Exception as error:
        what = f"{spec.observation_space} → {spec.action_space}"
        raise ConfigError(
            f"{name} cannot be made for {what} with these options, RLlib says: {' '.join(str(error).split())[:300]}"
        ) from error
    return found


def _set(found: Any, name: str, key: str, value: Any) -> None:
    """One key of ``[algorithm]``, by the method of RLlib's configuration that takes it.

    Raises:
        ConfigError: it is ours, or none of RLlib's, or RLlib refuses the value.
    """
    if key in _OURS:
        raise ConfigError(f"algorithm.{key} of rllib:{name} is {_OURS[key]} here: set that")
    if key == "model_config":
        fields = [field.name for field in dataclasses.fields(DefaultModelConfig)]
        for entry in value:
            if entry not in fields:
                raise ConfigError(f"algorithm.model_config has no {entry!r}{_nearest(entry, fields)}")
        value = DefaultModelConfig(**value)
    methods = _options(type(found))
    own = "lambda_" if key == "lambda" else key
    if own not in methods:
        raise ConfigError(f"RLlib's {name} has no option {key!r}{_nearest(key, list(methods))}")
    try:
        getattr(found, methods[own])(**{own: value})
    except Exception as error:
        raise ConfigError(
            f"RLlib's {name} refuses algorithm.{key} = {value!r}: {' '.join(str(error).split())[:300]}"
        ) from error


def _options(kind: type) -> dict[str, str]:
    """Option → the method that takes it; a class's method passes on what its base's takes."""
    found: dict[str, str] = {}
    for method in _METHODS:
        for cls in kind.__mro__:
            if method in vars(cls):
                found |= dict.fromkeys(inspect.signature(vars(cls)[method]).parameters, method)
    return {option: method for option, method in found.items() if option not in ("self", "kwargs")}


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def cpus_of(found: Any) -> float:
    """Logical CPUs that RLlib's own processes ask Ray for."""
    learners, each = found.num_learners, found.num_cpus_per_learner
    aggregators = max(1, learners) * (getattr(found, "num_aggregator_actors_per_learner", 0) or 0)
    return (
        found.num_env_runners * found.num_cpus_per_env_runner
        + learners * (each if isinstance(each, (int, float)) else 1)
        + aggregators
        + 1
    )


def left_out(config: RunConfig) -> list[str]:
    """Sections that have been set and mean nothing to RLlib."""
    sections = ("replay", "learner", "checkpoint")
    return [name for name in sections if getattr(config, name) != type(getattr(config, name))()]


def check_baseline(config: RunConfig, local: bool, address: str | None, resume: Any) -> Any:
    """RLlib's configuration, after refusing what a run of RLlib's cannot do.

    Raises:
        ConfigError: naming it.
    """
    name = config.algorithm.name
    if local:
        raise ConfigError(f"{name} runs on Ray, but --local came: leave it out")
    if resume is not None:
        raise ConfigError(f"{name} cannot be resumed: distrl keeps its best policy and not RLlib's state; train anew")
    if address is not None:
        raise ConfigError(f"{name} runs on this machine, but the address {address} came: leave it out")
    for section, given in (
        ("policies", config.policies),
        ("league", config.league),
        ("offline.data", config.offline.data),
        ("fidelity.schedule", config.fidelity.schedule),
        ("learner.mode", config.learner.mode != "single"),
    ):
        if given:
            raise ConfigError(f"{section} is distrl's own, and {name} would not follow it: leave one of them out")
    return algorithm_config(config)


def run_rllib(
    config: RunConfig,
    run: RunDirectory,
    spec: EnvSpec,
    settings: Any,
    show: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train until ``run.steps`` (or ``run.wall_limit_s`` or ``stop``) on the connected Ray; returns the summary.

    Evaluations take turns with the training, and their time counts as none of its.

    Raises:
        RunFailed: RLlib gave up.
    """
    counts = run.scratch() / "counts"
    counts.mkdir(parents=True)
    env_recipe, folder = config.env.recipe(), str(counts)

    def environment(context: Any) -> gymnasium.Env:
        return Counted(make(env_recipe), folder)

    register_env(_ENV, environment)
    recorder = Recorder(run.path, max(config.evaluation.period // 10, 1), config.env.fidelity)
    server, policy = ParameterServer(), policy_recipe(settings, spec)
    evaluation = LocalEvaluation(config, run, spec, server, recorder, {DEFAULT_POLICY: policy})
    progress = Progress(recorder, Tally(counts), config.env.fidelity or spec.fidelities[0])
    recorder.event("start", role="rllib", algorithm=config.algorithm.name)
    if ignored := left_out(config):
        recorder.event("note", text=f"of no meaning to {config.algorithm.name}, and left out: {', '.join(ignored)}")
    algorithm, limit_s = None, config.run.wall_limit_s or math.inf
    next_evaluation = config.evaluation.period
    try:
        algorithm = settings.build_algo()

        def evaluate() -> None:
            begin = time.monotonic()
            server.publish(progress.updates, weights_of(algorithm))
            evaluation.evaluate()
            progress.stood_still(time.monotonic() - begin)
            runners = algorithm.env_runner_group
            progress.used(runners.foreach_env_runner(_cpu_of, local_env_runner=False, timeout_seconds=_ANSWER_S))

        while recorder.env_steps < config.run.steps and recorder.total_wall_s < limit_s and not stop():
            progress.add(algorithm.train())
            show(recorder.status())
            recorder.tick()
            if recorder.env_steps >= next_evaluation:
                next_evaluation = (recorder.env_steps // config.evaluation.period + 1) * config.evaluation.period
                evaluate()
        if not stop():
            evaluate()
        progress.add({})
        show(recorder.status())
        return progress.summary()
    except Exception as error:
        if isinstance(error, (ConfigError, RunFailed)):
            raise
        raise RunFailed(
            f"RLlib's {config.algorithm.name.partition(':')[2]} ended with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:500]}"
        ) from error
    finally:
        if algorithm is not None:
            algorithm.stop()
        recorder.close()
        evaluation.close()


def policy_recipe(found: Any, spec: EnvSpec) -> PolicySpec:
    """What acts with the algorithm's module."""
    made = found.get_rl_module_spec(
        spaces={DEFAULT_MODULE_ID: (spec.observation_space, spec.action_space)}, inference_only=True
    )
    options: Any = made.model_config or {}
    if dataclasses.is_dataclass(options):
        options = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return recipe(
        _path(made.module_class),
        options,
        spec.observation_space,
        spec.action_space,
        None if made.catalog_class is None else _path(made.catalog_class),
        found.normalize_actions,
    )


def weights_of(algorithm: Any) -> Weights:
    """The parameters of an algorithm's module, by name."""
    state = algorithm.learner_group.get_state(components="learner/rl_module", inference_only=True)
    return dict(state["learner"]["rl_module"][DEFAULT_MODULE_ID])


def _cpu_of(runner: Any) -> tuple[int, float]:
    return os.getpid(), time.process_time()


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


class Progress:
    """RLlib's results and the environments' counts, to the recorder."""

    def __init__(self, recorder: Recorder, tally: Tally, fidelity: str):
        self._recorder, self._tally, self._fidelity = recorder, tally, fidelity
        self.updates = 0
        self._paused_s = 0.0  # of all environments together
        self._runner_cpu_s = 0.0
        self._cpu_s = time.process_time()
        recorder.began(self._learner({}), {}, {})

    def add(self, result: dict[str, Any]) -> None:
        """One iteration's result."""
        learner = result.get("learners", {}).get(DEFAULT_MODULE_ID, {})
        made = learner.get("num_module_steps_trained", 0) / learner.get("module_train_batch_size_mean", 1)
        self.updates += round(made) if math.isfinite(made) else 0  # RLlib has NaN where nothing was trained yet
        self._recorder.worker_reported(0, self._environments())
        metrics = {name: value for name, value in learner.items() if isinstance(value, (int, float))}
        self._recorder.learner_reported(self._learner(metrics))

    def stood_still(self, seconds: float) -> None:
        """The environments waited for an evaluation."""
        self._recorder.stood_still(seconds)
        self._paused_s += seconds * self._tally.totals()["num_envs"]

    def used(self, seconds: list[tuple[int, float]]) -> None:
        """CPU seconds of each env runner's process, by process id."""
        self._runner_cpu_s = sum(used - self._tally.core_s(pid) for pid, used in seconds)

    def summary(self) -> dict[str, Any]:
        """The run in numbers, without the states of transitions and the staleness, which RLlib does not tell."""
        found = self._recorder.summary()
        return {name: value for name, value in found.items() if not name.startswith(("transitions_", "staleness_"))}

    def _environments(self) -> dict[str, Any]:
        totals = self._tally.totals()
        steps = int(totals["steps"])
        episodes = [
            {"fidelity": self._fidelity, "policy_version": None, "worker": 0, "incarnation": 0, **episode}
            for episode in self._tally.new_episodes()
        ]
        return {
            "worker": 0,
            "waits_for": None,
            "episodes": episodes,
            "faults": [],
            "env_steps": steps,
            "produced": steps,
            "committed": 0,
            "step_s": totals["step_s"],
            "reset_s": totals["reset_s"],
            "core_s": totals["core_s"],
            "cpu_s": self._runner_cpu_s,
            "lifetime_s": max(totals["lifetime_s"] - self._paused_s, 0.0),
            "num_envs": totals["num_envs"],
            "diverged": int(totals["diverged"]),
            "env_steps_by_fidelity": {self._fidelity: steps},
            "core_s_by_fidelity": {self._fidelity: totals["core_s"]},
        }

    def _learner(self, metrics: dict[str, float]) -> dict[str, Any]:
        """As a learner of ours reports, with nothing in the accounts."""
        return {
            "updates": self.updates,
            "metrics_updates": self.updates,
            "metrics": metrics,
            "life": 0,
            "began": 0,
            "secured": {},
            "rejected": {},
            "unsampled": 0,
            "evicted": 0,
            "duplicates": 0,
            "warm": 0,
            "cpu_s": time.process_time() - self._cpu_s,
            "training_s": self._recorder.wall_s,  # RLlib's learners do not say how long they have updated
            **dict.fromkeys(("staleness_p50", "staleness_p99", "staleness_max")),
        }
