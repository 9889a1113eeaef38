"""Observations flow in, actions and their log-probabilities flow out, in numpy alone: for on-policy algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.core.types import Columns, Observation, Weights
from distrl.learners.inputs import MASK, Layout, flat_inputs

LOWEST = float(np.finfo(np.float32).min)  # in place of −∞ as the logit of what is not allowed: 0 · it is still 0
MOMENTS = "observation"  # weights entries <MOMENTS>/mean and <MOMENTS>/std where observations are normalised
OBSERVATION_LIMIT = 10.0  # of a normalised observation (Huang et al. 2022, continuous detail 7)


class _Loaded(NamedTuple):
    """Weights as a step needs them.

    Attributes: layers: weight [in, out] and bias [out] of each layer. mean, scale: float32 [D], or None where
    observations are taken as they are. std: float32 [A] of a Gaussian, in the action's units.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    mean: np.ndarray | None
    scale: np.ndarray | None
    std: np.ndarray | None = None


class MLPPolicy:
    """An actor of linear layers with tanh between, over flat inputs.

    The noise of a row is decided by the seed and the order of calls and rows.

    Args:
        seed: of the action noise.
        deterministic: act with what is most probable, for evaluation.
        inputs: the layout of the observations (distrl.learners.inputs).
        num_layers: linear layers of the network.
    """

    def __init__(self, seed: int, deterministic: bool, inputs: Layout, num_layers: int):
        self._rng = np.random.default_rng(seed)
        self._deterministic = deterministic
        self._inputs, self._num_layers = inputs, num_layers
        self._loaded: _Loaded | None = None

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights, which are the untrained network's."""
        return self._loaded is not None

    def load(self, weights: Weights) -> None:
        """``actor/<i>/weight`` float32 [in, out], of the last layer [out, in], ``actor/<i>/bias`` float32 [out], and
        where observations are normalised ``observation/mean`` and ``observation/std`` float32 [D]."""
        self._loaded = self._prepared(weights)  # one assignment: a step in another thread sees the old or the new

    def _prepared(self, weights: Weights) -> _Loaded:
        layers = [(weights[f"actor/{i}/weight"], weights[f"actor/{i}/bias"]) for i in range(self._num_layers)]
        layers[-1] = (np.ascontiguousarray(layers[-1][0].T), layers[-1][1])
        mean = weights.get(f"{MOMENTS}/mean")
        return _Loaded(layers, mean, None if mean is None else 1.0 / weights[f"{MOMENTS}/std"])

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def _outputs(self, observation: Observation, mask: np.ndarray | None) -> tuple[np.ndarray, _Loaded]:
        """The network's outputs [N, A], and the weights that gave them."""
        if mask is not None:
            raise ValueError(
                f"allowed actions are given as the observation's entry {MASK!r}, where the learner sees them as well, "
                "but a mask came beside the observation"
            )
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("the policy needs weights before its first step: call load")
        x = flat_inputs(observation, self._inputs)
        if loaded.mean is not None:
            x = x - loaded.mean
            x *= loaded.scale
            np.clip(x, -OBSERVATION_LIMIT, OBSERVATION_LIMIT, out=x)
        last = self._num_layers - 1
        for i, (weight, bias) in enumerate(loaded.layers):
            x = x @ weight
            x += bias
            if i < last:
                np.tanh(x, out=x)
        return x, loaded


class CategoricalPolicy(MLPPolicy):
    """One choice out of n for each of k components: Discrete is k = 1, MultiBinary n = 2 for each bit.

    Args:
        choices: n of each component. lowest: its lowest action, in the action's own numbering.
        shape, dtype: of one action.
    """

    def __init__(
        self,
        seed: int,
        deterministic: bool,
        inputs: Layout,
        num_layers: int,
        choices: Sequence[int],
        lowest: Sequence[int],
        shape: Sequence[int],
        dtype: str,
    ):
        super().__init__(seed, deterministic, inputs, num_layers)
        self._ends = np.cumsum([0, *choices]).tolist()
        self._lowest, self._shape, self._dtype = np.asarray(lowest, np.int64), tuple(shape), np.dtype(dtype)

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …] in the space's own numbering and dtype, log-probabilities float32 [N], and the empty state.

        Raises:
            EnvironmentFault: the observation's ``action_mask`` allows a row nothing.
        """
        outputs, _ = self._outputs(observation, mask)
        if MASK in observation:
            allowed = observation[MASK].reshape(outputs.shape).astype(bool, copy=False)
            if not np.logical_or.reduceat(allowed, self._ends[:-1], axis=1).all():
                raise EnvironmentFault(f"the observation's {MASK!r} allows a row no action at all", kind="protocol")
            outputs = np.where(allowed, outputs, np.float32(LOWEST))
        logits = np.ascontiguousarray(outputs.T)  # [A, N]: sums over few choices are sums of rows
        num_rows = logits.shape[1]
        action = np.empty((num_rows, len(self._lowest)), np.int64)
        log_prob = np.zeros(num_rows, np.float32)
        for i, (begin, end) in enumerate(zip(self._ends[:-1], self._ends[1:], strict=True)):
            chosen, its = self._choose(logits[begin:end])
            action[:, i] = chosen
            log_prob += its
        action += self._lowest
        return action.astype(self._dtype, copy=False).reshape(num_rows, *self._shape), log_prob, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself."""
        return action

    def _choose(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One choice for each column of logits [n, N], and its log-probability; overwrites them."""
        logits -= logits.max(axis=0)
        cumulated = np.exp(logits)
        for i in range(1, len(cumulated)):
            cumulated[i] += cumulated[i - 1]
        total = cumulated[-1]
        if self._deterministic:
            chosen = logits.argmax(axis=0)
        else:
            # u < 1 is a multiple of 2⁻²⁴, so that u · total rounds below total: the choice has a probability above 0
            u = self._rng.random(len(total), dtype=np.float32)
            u *= total
            chosen = (cumulated <= u).sum(axis=0)
        return chosen, logits[chosen, np.arange(len(total))] - np.log(total)


class GaussianPolicy(MLPPolicy):
    """a ~ N(c + h · μ(o), (h · σ)²), unbounded, with σ the same for all observations (Huang et al. 2022, continuous
    details 1 to 3); the environment is given the action clipped to the Box (detail 5).

    With c the centre and h the half width of the Box where it is bounded, else 0 and 1: so the untrained network
    explores all of any Box, whatever its units. For a Box of [−1, 1] that is the plain Gaussian.

    Args:
        low, high: action bounds, nested lists in the action's shape; infinite ones are none.
        dtype: of the actions.
    """

    def __init__(
        self,
        seed: int,
        deterministic: bool,
        inputs: Layout,
        num_layers: int,
        low: Sequence,
        high: Sequence,
        dtype: str,
    ):
        super().__init__(seed, deterministic, inputs, num_layers)
        self._low, self._high = np.asarray(low, dtype), np.asarray(high, dtype)
        center, half = action_units(self._low, self._high)
        self._center, self._half = center.astype(np.float32), half.astype(np.float32)

    def _prepared(self, weights: Weights) -> _Loaded:
        loaded = super()._prepared(weights)
        weight, bias = loaded.layers[-1]
        loaded.layers[-1] = (weight * self._half, bias * self._half + self._center)
        return loaded._replace(std=np.exp(weights["log_std"]) * self._half)

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …] in the Box's units and dtype but not within its bounds, log-probabilities float32 [N] of the
        density there, and the empty state."""
        action, loaded = self._outputs(observation, mask)
        assert loaded.std is not None
        log_prob = np.full(len(action), -np.log(loaded.std * math.sqrt(2.0 * math.pi)).sum(), np.float32)
        if not self._deterministic:
            noise = self._rng.standard_normal(action.shape, np.float32)
            log_prob -= 0.5 * np.einsum("na,na->n", noise, noise)
            noise *= loaded.std
            action += noise
        return action.astype(self._low.dtype, copy=False).reshape(len(action), *self._low.shape), log_prob, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action within the Box."""
        return np.clip(action, self._low, self._high)


def action_units(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width of a Box, float64 [A] each; 0 and 1 where a bound is infinite."""
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (low, high))
    bounded = np.isfinite(low) & np.isfinite(high)
    center = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0.0)
    half = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1.0)
    return center, half
