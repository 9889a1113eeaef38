"""One observation in, the actions of the next J steps out, in numpy alone: they are kept, and done one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.actor_policies import MEMORY, gru
from distrl.learners.policies import SquashedGaussianPolicy, mlp
from distrl.learners.spaces import flatten

PLAN, LOG_PROBS, LEFT = "plan", "log_probs", "left"  # paths of the state


class _Actor(NamedTuple):
    """Attributes: embedding: weight [in, out] and bias [out] of each layer. memory: weights and biases of the recurrent
    layer, of its input and of its state. head: as a layer of the embedding.
    """

    embedding: list[tuple[np.ndarray, np.ndarray]]
    memory: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    head: list[tuple[np.ndarray, np.ndarray]]


class SequencePolicy(SquashedGaussianPolicy):
    """The actor of ``distrl.learners.sequence``: looks at the observation where an episode begins and where the last
    action of its plan has been done, and nowhere else.

    The state is what is left of the plan: ``plan`` float32 [N, J, A], actions in [−1, 1]; ``log_probs`` float32 [N, J]
    of each, given those before it; ``left`` int32 [N], how many are still to be done.

    Args:
        seed, deterministic: see ``BoxPolicy``; without noise the plan is that of the means.
        sequence_length: J.
        others: see ``BoxPolicy``; ``num_layers`` are the embedding's.
    """

    def __init__(self, seed: int, deterministic: bool, sequence_length: int, **others: Any):
        super().__init__(seed, deterministic, **others)
        self._length = sequence_length

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is planned."""
        return {
            PLAN: np.zeros((num_rows, self._length, self._half.size), np.float32),
            LOG_PROBS: np.zeros((num_rows, self._length), np.float32),
            LEFT: np.zeros(num_rows, np.int32),
        }

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …] in the Box's units and dtype, log-probabilities float32 [N], and what is left of the plans."""
        actor, uniform = self._acting()
        plan, log_probs, left = (state[path].copy() for path in (PLAN, LOG_PROBS, LEFT))
        new = np.flatnonzero(is_first | (left == 0))
        if len(new):
            seen = {path: observation[path][new] for path in self._paths}
            steps = self._uniform_steps(len(new)) if uniform else self._steps(flatten(seen, self._paths), actor)
            for k, (action, log_prob) in enumerate(steps):
                plan[new, k], log_probs[new, k] = action, log_prob
            left[new] = self._length
        rows, at = np.arange(len(left)), self._length - left
        following = {PLAN: plan, LOG_PROBS: log_probs, LEFT: left - 1}
        return *self._in_box(plan[rows, at], log_probs[rows, at]), following

    def _prepared(self, weights: Weights) -> _Actor:
        sides = [
            weights[f"actor/{MEMORY}/{side}/{kind}"] for side in ("input", "hidden") for kind in ("weight", "bias")
        ]
        return _Actor(
            [
                (weights[f"actor/embedding/{i}/weight"], weights[f"actor/embedding/{i}/bias"])
                for i in range(self._num_layers)
            ],
            (sides[0], sides[1], sides[2], sides[3]),
            [(weights["actor/head/0/weight"], weights["actor/head/0/bias"])],
        )

    def _uniform_steps(self, num_rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._uniform(num_rows) for _ in range(self._length)]

    def _steps(self, inputs: np.ndarray, actor: _Actor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Actions [n, A] in [−1, 1] and log-densities [n] of each of J steps, from flat observations [n, D]."""
        w_input, b_input, w_hidden, b_hidden = actor.memory
        h = np.tanh(mlp(inputs, actor.embedding))
        action, found = np.zeros((len(inputs), self._half.size), np.float32), []
        for _ in range(self._length):
            h = gru(action @ w_input + b_input, h @ w_hidden + b_hidden, h)
            action, log_prob = self._drawn(mlp(h, actor.head))
            found.append((action, log_prob))
        return found
