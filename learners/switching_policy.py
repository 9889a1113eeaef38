"""Observations flow in, actions flow out, in numpy alone: two actors for each agent, and a switch that says which acts.

Which one acted travels in the action's number: of n choices, ``lowest + u`` is choice u of the agent's own actor,
``lowest + n + u`` that of the centralised one. So the learner knows it exactly, wherever the action has been.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.actor_policies import mlp_policy
from distrl.learners.inputs import MASK

OWN, CENTRAL, SWITCH = "own", "central", "switch"  # whose weights: their names begin with it and "/"


class SwitchedPolicy:
    """g ~ π_S(·|o, s), then u ~ π_g(·|o); implements ``distrl.core.contracts.Policy``. It needs the state s to act.

    The noise of a row is decided by the seed and the order of calls and rows.

    Args:
        seed: of the action noise.
        deterministic: act with what is most probable, for evaluation.
        own, central, switch: ``network`` and ``actions`` of each; see ``mlp_policy``.
    """

    def __init__(
        self,
        seed: int,
        deterministic: bool,
        own: Mapping[str, Any],
        central: Mapping[str, Any],
        switch: Mapping[str, Any],
    ):
        seeds = np.random.SeedSequence(seed).generate_state(3).tolist()
        self._actors = [mlp_policy(seeds[g], deterministic, **recipe) for g, recipe in enumerate((own, central))]
        self._switch = mlp_policy(seeds[2], deterministic, **switch)
        self._lowest, self._choices = own["actions"]["lowest"][0], own["actions"]["choices"][0]

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights, which are the untrained networks'."""
        return self._switch.ready

    def load(self, weights: Weights) -> None:
        """What the algorithm's ``policy_weights`` gave."""
        for policy, name in zip((*self._actors, self._switch), (OWN, CENTRAL, SWITCH), strict=True):
            begin = f"{name}/"
            policy.load({key.removeprefix(begin): weights[key] for key in weights if key.startswith(begin)})

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N] as said above, log-probabilities float32 [N] of g and u together, and the empty state."""
        unmasked = {path: array for path, array in observation.items() if path != MASK}
        which, log_prob, _ = self._switch.step(unmasked, {}, is_first)
        action = np.empty(which.shape, np.int64)
        for g, actor in enumerate(self._actors):
            rows = np.flatnonzero(which == g)
            if len(rows):
                chosen, its, _ = actor.step({path: array[rows] for path, array in observation.items()}, {}, is_first)
                action[rows] = chosen + g * self._choices
                log_prob[rows] += its
        return action, log_prob, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The choice alone."""
        return self._lowest + (action - self._lowest) % self._choices
