"""Observations flow in, actions and their log-probabilities flow out, in numpy alone: actors never load torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.spaces import flatten

# Of the Gaussian before tanh, as in the implementation of the authors of Haarnoja et al. 2018.
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
TRAINED = "trained"  # weights entry, float32 []: 0 before the first update, then 1


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + eˣ) without overflow."""
    return np.logaddexp(x, np.zeros((), x.dtype))


class BoxPolicy:
    """Actions c + h · x of a bounded Box, c its centre, h its half widths; which x in [−1, 1] a network says, is
    the subclass's.

    Before the first update the network knows nothing, and what it would explore is narrow: while the weights say
    that they are untrained, actions are uniform over the Box (with that log-probability). How long that lasts is
    decided in one place, by when the learner starts, not by a counter that every restarted env worker would begin
    again.

    The noise of a row is decided by the seed and the order of calls and rows.

    Args:
        seed: of the action noise.
        deterministic: act without noise, for evaluation; the log-probability is then that of the density there.
        paths: observation paths in the order that the network's inputs have.
        low, high: action bounds, nested lists in the action's shape.
        dtype: of the actions.
        num_layers: linear layers of the network, ReLU between.
        uniform_until_trained: as said above; False acts with the untrained network.
    """

    def __init__(
        self,
        seed: int,
        deterministic: bool,
        paths: Sequence[str],
        low: Sequence,
        high: Sequence,
        dtype: str,
        num_layers: int,
        uniform_until_trained: bool,
    ):
        self._rng = np.random.default_rng(seed)
        self._deterministic = deterministic
        self._paths = tuple(paths)
        self._low, self._high = np.asarray(low, dtype), np.asarray(high, dtype)
        center, half = (self._high + self._low) / 2, (self._high - self._low) / 2
        self._center, self._half = (array.ravel().astype(np.float32) for array in (center, half))
        self._log_half = float(np.log(half.astype(np.float64)).sum())
        self._num_layers = num_layers
        self._uniform_until_trained = uniform_until_trained
        self._loaded: tuple[Any, bool] | None = None

    @property
    def ready(self) -> bool:
        """Whether it can act: with weights, or uniformly before the first ones."""
        return self._loaded is not None or (self._uniform_until_trained and not self._deterministic)

    def load(self, weights: Weights) -> None:
        """``actor/<i>/weight`` float32 [in, out] and ``actor/<i>/bias`` float32 [out] of layer i, and ``trained``."""
        uniform = self._uniform_until_trained and not self._deterministic and float(weights.get(TRAINED, 1.0)) == 0.0
        # one assignment: a step in another thread sees the old or the new
        self._loaded = (self._prepared(weights), uniform)

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …] in the Box's units and dtype, log-probabilities float32 [N], and the empty state."""
        layers, uniform = self._acting()
        inputs = flatten(observation, self._paths)
        scaled, log_prob = self._uniform(len(inputs)) if uniform else self._drawn(mlp(inputs, layers))
        return *self._in_box(scaled, log_prob), {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself, which lies in the Box."""
        return action

    def _prepared(self, weights: Weights) -> Any:
        """What the network computes with."""
        return [(weights[f"actor/{i}/weight"], weights[f"actor/{i}/bias"]) for i in range(self._num_layers)]

    def _acting(self) -> tuple[Any, bool]:
        """What ``_prepared`` gave, None before; and whether actions are uniform."""
        if not self.ready:
            raise RuntimeError("the policy needs weights before its first step: call load")
        return self._loaded or (None, True)

    def _uniform(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``_drawn``."""
        scaled = self._rng.uniform(-1.0, 1.0, (num_rows, self._half.size)).astype(np.float32)
        return scaled, np.full(num_rows, -self._half.size * math.log(2.0), np.float32)

    def _drawn(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [N, A] and their log-density [N], of the network's outputs."""
        raise NotImplementedError

    def _in_box(self, scaled: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions [N, …] and their log-density float32 [N], from those of x [N, A]."""
        flat = self._center + self._half * scaled
        action = flat.astype(self._low.dtype).reshape(len(scaled), *self._low.shape)
        np.clip(action, self._low, self._high, out=action)  # rounding may leave the Box by one unit in the last place
        return action, (log_prob - np.float32(self._log_half)).astype(np.float32, copy=False)

    def _noise(self, like: np.ndarray) -> np.ndarray:
        """Standard normal, or zero where none is wanted."""
        return np.zeros_like(like) if self._deterministic else self._rng.standard_normal(like.shape, np.float32)


class SquashedGaussianPolicy(BoxPolicy):
    """x = tanh(u), u ~ N(μ(o), σ(o)²), with an MLP for (μ, log σ); Haarnoja et al. 2018, appendix C."""

    def _drawn(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, log_std = np.split(outputs, 2, axis=1)
        log_std = np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)
        noise = self._noise(mean)
        u = mean + np.exp(log_std) * noise
        # log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)), which does not lose u where tanh saturates
        squash = 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi) - squash).sum(axis=1)
        return np.tanh(u), log_prob


class NoisyPolicy(BoxPolicy):
    """x = tanh(μ(o)) + ε within [−1, 1], ε ~ N(0, σ²), with an MLP for μ; Fujimoto et al. 2018, algorithm 1. The
    log-probability is of x before it is clipped.

    Args:
        noise: σ.
        others: see ``BoxPolicy``.
    """

    def __init__(self, seed: int, deterministic: bool, noise: float, **others: Any):
        super().__init__(seed, deterministic, **others)
        self._std = noise

    def _drawn(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = self._noise(outputs)
        log_prob = (-0.5 * noise**2 - 0.5 * math.log(2.0 * math.pi) - math.log(self._std)).sum(axis=1)
        return np.clip(np.tanh(outputs) + np.float32(self._std) * noise, -1.0, 1.0), log_prob


def mlp(x: np.ndarray, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[N, in] → [N, out], through linear layers with ReLU between: weight [in, out] and bias [out] of each."""
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight
        x += bias
        if i + 1 < len(layers):
            np.maximum(x, 0.0, out=x)
    return x
