"""A run directory in, what it has learned out: policies that act."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.checkpoint import load_best
from distrl.core.contracts import Policy
from distrl.core.errors import ConfigError
from distrl.core.matchups import is_snapshot
from distrl.core.policy_file import policies_in, read_policy
from distrl.core.run_directory import RunDirectory
from distrl.core.types import ARRAY, Observation


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
