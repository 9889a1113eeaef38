"""A configuration goes in; how its environments are best hosted on this machine comes out, from a short measurement.

try the environment → one probe (times of steps, fragments) → one update of the learner on these fragments → a ladder of
rows for each hosting → the choice (pool_choice). No Ray.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.cluster import checks, components
from distrl.cluster.pool_choice import Choice, Needs, choose, lockstep_efficiency
from distrl.cluster.pool_trials import Ladder, Rung, Stopwatch, climb
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, DistrlError
from distrl.core.types import EnvSpec, Fragment, PolicySpec, Weights
from distrl.envs.describe import Trial

_ROWS = (1, 4, 16, 64, 256, 1024)  # that a ladder of rows in one process goes by …
_PROCESS_ROWS = (1, 16)  # … and one of processes, which work side by side: what lies between needs no measurement
_DEAR_S = 0.01  # a step, from which on only processes come into question
_PROBE, _LEARNER, _RUNG, _DEAR = 0.1, 0.1, 0.06, 0.8  # shares of the time to measure


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        rungs: what was measured, hosting by hosting. step_s: float64 [K], wall seconds of single steps, ascending.
        reset_s: mean wall seconds of a reset.
        update_s: wall seconds of one update of the learner.
        needs: what the layout had to fit. choice: the layout with its reasons.
        notes: what could not be measured.
    """

    rungs: list[Rung]
    step_s: np.ndarray
    reset_s: float
    update_s: float
    needs: Needs
    choice: Choice
    notes: list[str]

    def overrides(self) -> dict[str, Any]:
        """Key of the configuration → recommended value."""
        layout = self.choice.layout
        return {
            "env.hosting": layout.hosting,
            "actors.env_workers": layout.env_workers,
            "actors.envs_per_worker": layout.envs_per_worker,
        }

    def to_toml(self) -> str:
        """The recommendation as TOML, each reason above its key."""
        lines, section = [], ""
        for key, value in self.overrides().items():
            table, _, name = key.partition(".")
            if table != section:
                section = table
                lines += ["", f"[{table}]"]
            lines += [f"# {self.choice.reasons[key]}", f"{name} = {value if isinstance(value, int) else repr(value)}"]
        return "\n".join(lines[1:]).replace("'", '"') + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the single steps' times and the fragments."""
        layout = self.choice.layout
        rows = max(2, layout.env_workers * layout.envs_per_worker)
        return {
            "recommended": self.overrides(),
            "reasons": self.choice.reasons,
            "hints": self.choice.hints,
            "notes": self.notes,
            "expected": {
                "env_steps_per_s": layout.supply_per_s,
                "trained_env_steps_per_s": layout.trained_per_s,
                "bound": layout.bound,
            },
            "step_s": {
                "mean": float(self.step_s.mean()),
                "median": float(np.median(self.step_s)),
                "p99": float(np.quantile(self.step_s, 0.99)),
                "count": len(self.step_s),
            },
            "reset_s": self.reset_s,
            "lockstep_efficiency": {"rows": rows, "share": lockstep_efficiency(self.step_s, rows)},
            "update_s": self.update_s,
            "cores": self.needs.cores,
            "measured": [
                {
                    "hosting": rung.hosting,
                    "rows": rung.rows,
                    "env_steps_per_s": rung.env_steps_per_s,
                    "cpu_s_per_step": rung.cpu_s,
                    "memory_bytes_per_env": rung.memory_bytes,
                }
                for rung in self.rungs
            ],
        }


def tune(
    config: RunConfig, seconds: float = 20.0, cores: int | None = None, show: Callable[[str], None] = lambda _: None
) -> Tuned:
    """Measure for about ``seconds``, beside what starting processes takes, and choose.

    Args:
        config: of a run. Of its layout only a given ``env.hosting`` counts.
        cores: that the run may use; by default all that this process may.
        show: told what is being measured.

    Raises:
        ConfigError: the configuration is wrong. EnvironmentFault: the environment is broken.
    """
    config = _with_layout(config, config.env.hosting)
    options = checks.algorithm_model(config)
    device = checks.pick_device(config.learner.device)
    show("trying the environment")
    trial = checks.try_environment(config)
    if trial.spec.agents:
        raise ConfigError(
            f"tune-pool measures environments of one agent, and {config.env.id} has {len(trial.spec.agents)}: choose "
            "actors.env_workers and actors.envs_per_worker by trying"
        )
    options.policy_spec(trial.spec)  # refuses spaces that the algorithm cannot handle
    learner = _LearnerTrial(config, trial.spec, device)
    memory_bytes, num_cores = _available_bytes(), cores or len(os.sched_getaffinity(0))
    patience_s = 10 * seconds + 20 * (trial.construct_s + trial.reset_s + (trial.step_s or 0.0))

    def climbed(hosting: str, rows: Sequence[int], share: float, keep: bool = False) -> Iterator[Rung]:
        data = _with_layout(config, hosting).model_dump()
        policy, weights, rung_s = learner.policy, learner.weights(), share * seconds
        return climb(Ladder(data, policy, weights, rows, rung_s, num_cores, memory_bytes, keep), patience_s)

    rungs: list[Rung] = []
    notes: list[str] = []
    dear = (trial.step_s or 0.0) >= _DEAR_S and config.env.hosting in ("auto", "process")
    hostings = [] if dear else _hostings(config, trial)
    if dear:
        show("stepping environments side by side, each in a process of its own")
        (probe,) = rungs = [*climbed("process", [max(1, int(num_cores / config.env.cores))], _DEAR, keep=True)]
    else:
        show("stepping one environment")
        first = "inline" if "inline" in hostings else hostings[0]
        (probe,) = climbed(first, [1], _PROBE, keep=True)
    show("updating the learner")
    update_s = learner.update_s(probe.fragments, _LEARNER * seconds)
    for hosting in hostings:
        try:
            for rung in climbed(hosting, _PROCESS_ROWS if hosting == "process" else _rows(options, config), _RUNG):
                rungs.append(rung)
                show(f"{hosting}, {rung.rows} rows: {rung.env_steps_per_s:,.0f} env steps/s")
        except DistrlError as error:
            notes.append(str(error))
    if not rungs:
        raise ConfigError(notes[0])
    needs = Needs(
        cores=num_cores,
        memory_bytes=memory_bytes,
        env_cores=config.env.cores,
        learner_s=_learner_s(config, options, update_s),
        learner_cores=config.learner.threads if device == "cpu" else 1,
        rollout=options.batch_size // config.actors.fragment_steps if _has_rollouts(options) else None,
        in_turn=_has_rollouts(options) and options.max_staleness == 0,
    )
    return Tuned(rungs, probe.step_s, probe.reset_s, update_s, needs, choose(rungs, probe.step_s, needs), notes)


def _with_layout(config: RunConfig, hosting: str) -> RunConfig:
    """One env worker with one environment; delays without failures."""
    data = config.model_dump()
    data["env"]["hosting"] = hosting
    data["actors"] |= {"env_workers": 1, "envs_per_worker": 1}
    if data["env"]["delay"]:
        data["env"]["delay"] |= {"hang_share": 0.0, "crash_share": 0.0}
    return RunConfig.validated(data)


def _hostings(config: RunConfig, trial: Trial) -> list[str]:
    if config.env.hosting != "auto":
        return [config.env.hosting]
    vectorised = checks.with_hosting(config, trial, local=True).env.hosting == "vector"
    return [*(["vector"] if vectorised else []), "inline", "process"]


def _has_rollouts(options: Any) -> bool:
    return bool(options.on_policy and not options.episodic)


def _rows(options: Any, config: RunConfig) -> list[int]:
    """Rows to measure in one process: of an on-policy run those that divide a rollout, and four times the most of them,
    to see what a larger rollout would allow."""
    if not _has_rollouts(options):
        return [rows for rows in _ROWS if rows <= 256]
    fragments = options.batch_size // config.actors.fragment_steps
    divisors = [rows for rows in range(1, fragments + 1) if fragments % rows == 0]
    near = {max(divisor for divisor in divisors if divisor <= rows) for rows in _ROWS}
    return [rows for rows in sorted({*near, fragments, 4 * fragments}) if rows <= _ROWS[-1]]


def _learner_s(config: RunConfig, options: Any, update_s: float) -> float:
    """Wall seconds of the learner for each env step; 0 where it has no use for more."""
    if options.on_policy:
        return update_s / options.batch_size if _has_rollouts(options) else 0.0
    samples = config.replay.samples_per_insert
    return 0.0 if samples is None else update_s * samples / options.batch_size


def _available_bytes() -> float:
    import psutil

    return float(psutil.virtual_memory().available)


class _LearnerTrial:
    """The run's algorithm, updated on what a probe has brought."""

    def __init__(self, config: RunConfig, spec: EnvSpec, device: str):
        self._algorithm, self._store, self._options = components.build_algorithm(config, spec, device)
        self._device = device

    @property
    def policy(self) -> PolicySpec:
        """The recipe of the policy."""
        return self._algorithm.policy_spec()

    def weights(self) -> Weights:
        """Of the policy as it is now."""
        return self._algorithm.policy_weights()

    def update_s(self, fragments: Sequence[Fragment], seconds: float) -> float:
        """Median wall seconds of an update as the learner does it, without those spent waiting for a core."""
        from distrl.learners.randomness import sample_generator
        from distrl.learners.trainer import train_on

        if self._options.episodic:
            return 0.0  # it has next to nothing to do, and a probe may see no episode's end
        batch_size = self._options.batch_size
        times: list[float] = []
        if not self._options.on_policy:
            for fragment in fragments:
                self._store.add(fragment)
        endless = itertools.cycle(fragments)
        until = time.monotonic() + seconds
        while len(times) < 2 or (time.monotonic() < until and len(times) < 1000):
            while self._options.on_policy and not self._store.allows_update():  # type: ignore[union-attr]
                self._store.add(next(endless))
            watch = Stopwatch([os.getpid()])
            drawn = self._store.sample(batch_size, sample_generator(0, len(times)))
            metrics = train_on(self._algorithm, drawn, 0, len(times), self._device)
            float(next(iter(metrics.values())))  # a GPU has finished only then
            times.append(watch.seconds())
        return statistics.median(times[1:])
