"""Observations flow in, actions and their log-probabilities flow out, in numpy alone: for on-policy algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.core.types import Columns, Observation, Weights
from distrl.learners.inputs import MASK, Layout, flat_inputs

LOWEST = float(np.finfo(np.float32).min)  # in place of −∞ as the logit of what is not allowed: 0 · it is still 0
MOMENTS = "observation"  # weights entries <MOMENTS>/mean and <MOMENTS>/std where observations are normalised
OBSERVATION_LIMIT = 10.0  # of a normalised observation (Huang et al. 2022, continuous detail 7)
MEMORY = "memory"  # path of the recurrent state, and of the weights of the layer that keeps it
NUM_STATES = {"gru": 1, "lstm": 2}  # kind of recurrent layer → vectors of its size that it keeps


class Network(Protocol):
    """From observations to what a distribution of actions takes; keeps neither weights nor state."""

    def to(self, device: str) -> None:
        """Compute on a device, from the next ``prepared`` on."""

    def prepared(self, weights: Weights) -> Any:
        """Weights as ``outputs`` wants them."""

    def initial_state(self, num_rows: int) -> Columns:
        """path → [num_rows, …]; empty without memory."""

    def outputs(self, prepared: Any, observation: Observation, state: Columns) -> tuple[np.ndarray, Columns]:
        """[N, A], and the next state."""


class Head(Protocol):
    """A distribution of actions. Attributes: num_outputs: A."""

    num_outputs: int

    def prepared(self, weights: Weights) -> Any:
        """Weights as ``act`` wants them."""

    def act(
        self, prepared: Any, outputs: np.ndarray, observation: Observation, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions [N, …] and log-probabilities float32 [N], from a network's outputs [N, A].

        Args:
            rng: of the noise; None: what is most probable.
        """

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """See ``distrl.core.contracts.Policy``."""


class ActorPolicy:
    """A network and a distribution of actions; implements ``distrl.core.contracts.Policy``.

    The noise of a row is decided by the seed and the order of calls and rows.

    Args:
        seed: of the action noise.
        deterministic: act with what is most probable, for evaluation.
    """

    def __init__(self, seed: int, deterministic: bool, network: Network, head: Head):
        self._rng = None if deterministic else np.random.default_rng(seed)
        self._network, self._head = network, head
        self._loaded: tuple[Any, Any] | None = None

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights, which are the untrained network's."""
        return self._loaded is not None

    def to(self, device: str) -> None:
        """Compute on a device, from the next weights on."""
        self._network.to(device)

    def load(self, weights: Weights) -> None:
        """What the algorithm's ``policy_weights`` gave."""
        # one assignment: a step in another thread sees the old weights or the new
        self._loaded = (self._network.prepared(weights), self._head.prepared(weights))

    def initial_state(self, num_rows: int) -> Columns:
        """``memory`` float32 [num_rows, K] of zeros, or nothing."""
        return self._network.initial_state(num_rows)

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …], log-probabilities float32 [N], and the next state.

        Raises:
            EnvironmentFault: the observation's ``action_mask`` allows a row nothing.
        """
        if self._loaded is None:
            raise RuntimeError("the policy needs weights before its first step: call load")
        network, head = self._loaded
        outputs, state = self._network.outputs(network, observation, state)
        action, log_prob = self._head.act(head, outputs, observation, self._rng)
        return action, log_prob, state

    def probabilities(self, observation: Observation) -> np.ndarray:
        """Of each action of a Discrete space, float32 [N, n], at the first step of an episode."""
        assert self._loaded is not None
        assert isinstance(self._head, Choices)
        some = next(iter(observation.values()))
        outputs, _ = self._network.outputs(self._loaded[0], observation, self.initial_state(len(some)))
        return self._head.probabilities(outputs, observation)

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action within the Box where there is one, else itself."""
        return self._head.env_action(action)


def mlp_policy(seed: int, deterministic: bool, network: Mapping[str, Any], actions: Mapping[str, Any]) -> ActorPolicy:
    """An actor of linear layers. ``network``: arguments of ``MLPNetwork``. ``actions``: see ``head_of``."""
    return ActorPolicy(seed, deterministic, MLPNetwork(**network), head_of(actions))


def head_of(actions: Mapping[str, Any]) -> Head:
    """``Choices`` or ``GaussianActions``, by the arguments."""
    return Choices(**actions) if "choices" in actions else GaussianActions(**actions)


class _Layers(NamedTuple):
    """Attributes: layers: weight [in, out] and bias [out] of each. moments: see ``prepared_moments``. memory: weights
    and biases of the recurrent layer, or None.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    moments: tuple[np.ndarray, np.ndarray] | None
    memory: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None


class MLPNetwork:
    """Linear layers with tanh between, over flat inputs; with memory, a recurrent layer before the last.

    Its weights: ``actor/<i>/weight`` float32 [in, out], of the last layer [out, in], ``actor/<i>/bias`` float32 [out];
    ``memory/…`` as in ``distrl.learners.recurrent``; where observations are normalised, ``observation/mean`` and
    ``observation/std`` float32 [D].

    Args:
        inputs: the layout of the observations (distrl.learners.inputs).
        num_layers: linear layers. memory: kind and size of the recurrent layer, or None.
    """

    def __init__(self, inputs: Layout, num_layers: int, memory: tuple[str, int] | None = None):
        self._inputs, self._num_layers, self._memory = inputs, num_layers, memory

    def to(self, device: str) -> None:
        """It is numpy, wherever it is."""

    def prepared(self, weights: Weights) -> _Layers:
        """See ``Network``."""
        layers = [(weights[f"actor/{i}/weight"], weights[f"actor/{i}/bias"]) for i in range(self._num_layers)]
        layers[-1] = (np.ascontiguousarray(layers[-1][0].T), layers[-1][1])
        memory = None
        if self._memory is not None:
            parts = [weights[f"{MEMORY}/{side}/{kind}"] for side in ("input", "hidden") for kind in ("weight", "bias")]
            memory = (parts[0], parts[1], parts[2], parts[3])
        return _Layers(layers, prepared_moments(weights), memory)

    def initial_state(self, num_rows: int) -> Columns:
        """See ``Network``."""
        return initial_memory(self._memory, num_rows)

    def outputs(self, prepared: _Layers, observation: Observation, state: Columns) -> tuple[np.ndarray, Columns]:
        """See ``Network``."""
        x = normalised(flat_inputs(observation, self._inputs), prepared.moments)
        for weight, bias in prepared.layers[:-1]:
            x = x @ weight
            x += bias
            np.tanh(x, out=x)
        if prepared.memory is not None and self._memory is not None:
            kind, size = self._memory
            w_input, b_input, w_hidden, b_hidden = prepared.memory
            from_input = x @ w_input
            from_input += b_input
            from_hidden = state[MEMORY][:, :size] @ w_hidden
            from_hidden += b_hidden
            following = (gru if kind == "gru" else _lstm)(from_input, from_hidden, state[MEMORY])
            x, state = following[:, :size], {MEMORY: following}
        weight, bias = prepared.layers[-1]
        x = x @ weight
        x += bias
        return x, state


def prepared_moments(weights: Weights) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and inverse standard deviation of flat inputs, float32 [D] each; None where they are taken as they are."""
    mean = weights.get(f"{MOMENTS}/mean")
    return None if mean is None else (mean, 1.0 / weights[f"{MOMENTS}/std"])


def normalised(inputs: np.ndarray, moments: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Flat inputs [N, D] as the network takes them."""
    if moments is None:
        return inputs
    mean, scale = moments
    inputs = inputs - mean
    inputs *= scale
    return np.clip(inputs, -OBSERVATION_LIMIT, OBSERVATION_LIMIT, out=inputs)


def initial_memory(memory: tuple[str, int] | None, num_rows: int) -> Columns:
    """The state before an episode's first step, zeros [num_rows, K]; empty without memory."""
    if memory is None:
        return {}
    kind, size = memory
    return {MEMORY: np.zeros((num_rows, NUM_STATES[kind] * size), np.float32)}


def gru(from_input: np.ndarray, from_hidden: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The next state h [N, H]; see ``distrl.learners.recurrent``, also for the order of the gates [N, 3H]."""
    size = before.shape[1]
    gates = _logistic(from_input[:, : 2 * size] + from_hidden[:, : 2 * size])
    reset, keep = gates[:, :size], gates[:, size:]
    new = np.tanh(from_input[:, 2 * size :] + reset * from_hidden[:, 2 * size :])
    return new + keep * (before - new)


def _lstm(from_input: np.ndarray, from_hidden: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The next state h, c [N, 2H]; see ``distrl.learners.recurrent``, also for the order of the gates [N, 4H]."""
    size = before.shape[1] // 2
    from_input += from_hidden
    gates = _logistic(from_input[:, : 3 * size])
    write, forget, show = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
    following = np.empty_like(before)
    cell = following[:, size:]
    np.multiply(forget, before[:, size:], out=cell)
    cell += write * np.tanh(from_input[:, 3 * size :])
    np.multiply(show, np.tanh(cell), out=following[:, :size])
    return following


def _logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−x)), in place, as (1 + tanh(x / 2)) / 2, which cannot overflow."""
    x *= 0.5
    np.tanh(x, out=x)
    x += 1.0
    x *= 0.5
    return x


class Choices:
    """One choice out of n for each of k components: Discrete is k = 1, MultiBinary n = 2 for each bit.

    Args:
        choices: n of each component. lowest: its lowest action, in the action's own numbering.
        shape, dtype: of one action.
    """

    def __init__(self, choices: Sequence[int], lowest: Sequence[int], shape: Sequence[int], dtype: str):
        self._ends = np.cumsum([0, *choices]).tolist()
        self.num_outputs = sum(choices)
        self._lowest, self._shape, self._dtype = np.asarray(lowest, np.int64), tuple(shape), np.dtype(dtype)

    def prepared(self, weights: Weights) -> Any:
        """It has no weights."""

    def act(
        self, prepared: Any, outputs: np.ndarray, observation: Observation, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Head``; in the space's own numbering and dtype."""
        outputs = self.allowed(outputs, observation)
        logits = np.ascontiguousarray(outputs.T)  # [A, N]: sums over few choices are sums of rows
        num_rows = logits.shape[1]
        action = np.empty((num_rows, len(self._lowest)), np.int64)
        log_prob = np.zeros(num_rows, np.float32)
        for i, (begin, end) in enumerate(zip(self._ends[:-1], self._ends[1:], strict=True)):
            chosen, its = _choose(logits[begin:end], rng)
            action[:, i] = chosen
            log_prob += its
        return self.numbered(action), log_prob

    def numbered(self, action: np.ndarray) -> np.ndarray:
        """Choices [N, k] counted from 0 as actions in the space's own numbering, shape and dtype, [N, …]."""
        return (action + self._lowest).astype(self._dtype, copy=False).reshape(len(action), *self._shape)

    def probabilities(self, outputs: np.ndarray, observation: Observation) -> np.ndarray:
        """float32 [N, n], for one component."""
        assert len(self._lowest) == 1
        logits = self.allowed(outputs, observation)
        chances = np.exp(logits - logits.max(1, keepdims=True))
        return chances / chances.sum(1, keepdims=True)

    def allowed(self, outputs: np.ndarray, observation: Observation) -> np.ndarray:
        """Logits, or values, [N, A], the lowest number for what the mask forbids."""
        if MASK not in observation:
            return outputs
        allowed = observation[MASK].reshape(outputs.shape).astype(bool, copy=False)
        if not np.logical_or.reduceat(allowed, self._ends[:-1], axis=1).all():
            raise EnvironmentFault(f"the observation's {MASK!r} allows a row no action at all", kind="protocol")
        return np.where(allowed, outputs, np.float32(LOWEST))

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself."""
        return action


def _choose(logits: np.ndarray, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """One choice for each column of logits [n, N], and its log-probability; overwrites them."""
    logits -= logits.max(axis=0)
    cumulated = np.exp(logits)
    for i in range(1, len(cumulated)):
        cumulated[i] += cumulated[i - 1]
    total = cumulated[-1]
    if rng is None:
        chosen = logits.argmax(axis=0)
    else:
        # u < 1 is a multiple of 2⁻²⁴, so that u · total rounds below total: the choice has a probability above 0
        u = rng.random(len(total), dtype=np.float32)
        u *= total
        chosen = (cumulated <= u).sum(axis=0)
    return chosen, logits[chosen, np.arange(len(total))] - np.log(total)


class GaussianActions:
    """a ~ N(c + h · μ, (h · σ)²), unbounded, with μ from the network and σ the same for all observations (Huang et al.
    2022, continuous details 1 to 3); the environment is given the action clipped to the Box (detail 5).

    With c the centre and h the half width of the Box where it is bounded, else 0 and 1: so the untrained network
    explores all of any Box, whatever its units. For a Box of [−1, 1] that is the plain Gaussian. log σ are the weights
    ``log_std`` float32 [A].

    Args:
        low, high: action bounds, nested lists in the action's shape; infinite ones are none.
        dtype: of the actions.
    """

    def __init__(self, low: Sequence, high: Sequence, dtype: str):
        self._low, self._high = np.asarray(low, dtype), np.asarray(high, dtype)
        center, half = action_units(self._low, self._high)
        self.num_outputs = len(center)
        self._center, self._half = center.astype(np.float32), half.astype(np.float32)

    def prepared(self, weights: Weights) -> tuple[np.ndarray, np.float32]:
        """h σ [A], and the log-density of the mean."""
        std = np.exp(weights["log_std"]) * self._half
        return std, -np.log(std * math.sqrt(2.0 * math.pi)).sum()

    def act(
        self, prepared: Any, outputs: np.ndarray, observation: Observation, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Head``; in the Box's units and dtype but not within its bounds."""
        std, log_prob_of_mean = prepared
        action = outputs * self._half
        action += self._center
        log_prob = np.full(len(action), log_prob_of_mean, np.float32)
        if rng is not None:
            noise = rng.standard_normal(action.shape, np.float32)
            log_prob -= 0.5 * np.einsum("na,na->n", noise, noise)
            noise *= std
            action += noise
        return action.astype(self._low.dtype, copy=False).reshape(len(action), *self._low.shape), log_prob

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action within the Box."""
        return np.clip(action, self._low, self._high)


def action_units(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width of a Box, float64 [A] each; 0 and 1 where a bound is infinite."""
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (low, high))
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (low + high) / 2, (high - low) / 2
