"""A configuration and what trying its environment showed flow in; a run that this machine's memory cannot hold is
refused.
"""

from __future__ import annotations

from typing import Any

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.types import COLUMNS, ArraySpec, EnvSpec
from distrl.envs.describe import Trial


def check_memory(config: RunConfig, trial: Trial, options: Any, available: float | None = None) -> None:
    """Refuse what needs more than there is, by figures that are rather too small: each environment process as large as
    it was after a few steps, nothing for environments of the env worker's own process, one observation for each stored
    transition.

    Args:
        config: with ``env.hosting`` decided. options: of the algorithm.
        available: bytes; None: what is free on this machine now.

    Raises:
        ConfigError: with the figures, the largest first.
    """
    if available is None:
        import psutil

        available = float(psutil.virtual_memory().available)
    num_envs = config.actors.env_workers * config.actors.envs_per_worker
    step = _step_bytes(trial.spec)
    own = trial.memory_bytes if config.env.hosting == "process" else 0  # in one process they share what grew
    fragments = num_envs * (config.actors.fragment_steps + 1) * step
    needs = [
        (num_envs * own, f"{num_envs} environments of {_size(own)} (actors.envs_per_worker, actors.env_workers)"),
        (fragments, f"fragments of {num_envs} environments (their number and actors.fragment_steps)"),
    ]
    if options.on_policy and not options.episodic:  # how long episodes are, and so what waits, is not known
        waiting = config.learner.count * options.batch_size * step * (options.max_staleness + 1)
        needs.append((waiting, "rollouts (algorithm.batch_size, algorithm.max_staleness, learner.count)"))
    elif not options.on_policy:
        stored = min(config.replay.capacity, config.run.steps)
        elsewhere = observation_bytes(trial.spec) if config.replay.device == "learner" else 0
        needs.append((stored * (step - elsewhere), f"a replay of {stored} transitions (replay.capacity)"))
    total = sum(size for size, _ in needs)
    if total > available:
        parts = "; ".join(f"{_size(size)} for {what}" for size, what in sorted(needs, reverse=True) if size)
        raise ConfigError(
            f"the run needs at least {_size(total)} of memory, but {_size(available)} are free here: {parts}. Lower "
            "the first of these"
        )


def observation_bytes(spec: EnvSpec) -> int:
    """Of one observation."""
    return sum(leaf.nbytes for leaf in observation_leaves(spec.observation_space).values())


def _step_bytes(spec: EnvSpec) -> int:
    """Of one step in a fragment."""
    arrays = [action_leaf(spec.action_space)]
    arrays += [ArraySpec((), dtype) for dtype, axes in COLUMNS.values() if axes == "TB"]
    return observation_bytes(spec) + sum(array.nbytes for array in arrays)


def _size(number: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
