"""Observations flow in, the actions of greatest value or random ones flow out, in numpy alone but for images: DQN's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.actor_policies import LOWEST, ActorPolicy, Choices
from distrl.learners.inputs import Layout, flat_inputs
from distrl.learners.policies import mlp

EPSILON = "epsilon"  # weights entry, float32 []: share of random actions


def epsilon_greedy(
    seed: int,
    deterministic: bool,
    network: Mapping[str, Any],
    actions: Mapping[str, Any],
    histogram: tuple[float, float, int] | None,
) -> ActorPolicy:
    """An actor that does what it values most.

    Args:
        seed, deterministic: see ``ActorPolicy``.
        network: arguments of ``ReluNetwork``, or of ``distrl.learners.images.ImageNetwork`` but the last.
        actions: arguments of ``Choices``. histogram: see ``EpsilonGreedy``.
    """
    head = EpsilonGreedy(actions, histogram)
    if "images" in network:
        from distrl.learners.images import ImageNetwork  # which loads torch

        return ActorPolicy(seed, deterministic, ImageNetwork(network, head.num_outputs), head)
    return ActorPolicy(seed, deterministic, ReluNetwork(**network), head)


class ReluNetwork:
    """Linear layers with ReLU between, over flat inputs; implements ``distrl.learners.actor_policies.Network``.

    Its weights: ``actor/<i>/weight`` float32 [in, out] and ``actor/<i>/bias`` float32 [out].

    Args:
        inputs: the layout of the observations (distrl.learners.inputs). num_layers: linear layers.
    """

    def __init__(self, inputs: Layout, num_layers: int):
        self._inputs, self._num_layers = inputs, num_layers

    def to(self, device: str) -> None:
        """It is numpy, wherever it is."""

    def prepared(self, weights: Weights) -> list[tuple[np.ndarray, np.ndarray]]:
        """See ``Network``."""
        return [(weights[f"actor/{i}/weight"], weights[f"actor/{i}/bias"]) for i in range(self._num_layers)]

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def outputs(self, prepared: Any, observation: Observation, state: Columns) -> tuple[np.ndarray, Columns]:
        """See ``Network``."""
        return mlp(flat_inputs(observation, self._inputs), prepared), {}


class EpsilonGreedy(Choices):
    """What is valued most of what is allowed, but with probability ε anything that is. ε comes with the weights, so
    that it is decided in one place, by how far the run has come.

    Args:
        actions: arguments of ``Choices``, of one component.
        histogram: lowest edge, highest edge and number of bins where a value is the mean of one; None: a number.
    """

    def __init__(self, actions: Mapping[str, Any], histogram: tuple[float, float, int] | None):
        super().__init__(**actions)
        self._centers: np.ndarray | None = None
        if histogram is not None:
            low, high, number = histogram
            edges = np.linspace(low, high, number + 1)
            self._centers = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
            self.num_outputs *= number

    def prepared(self, weights: Weights) -> Any:
        """ε."""
        return float(weights[EPSILON])

    def act(
        self, prepared: Any, outputs: np.ndarray, observation: Observation, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``Head``."""
        values = self.allowed(self.values(outputs), observation)
        action, log_prob = values.argmax(axis=1), np.zeros(len(values), np.float32)
        if rng is not None:
            action, probability = explored(action, values > LOWEST, prepared, rng)
            log_prob = np.log(probability).astype(np.float32)
        return self.numbered(action[:, None]), log_prob

    def probabilities(self, outputs: np.ndarray, observation: Observation) -> np.ndarray:
        """Of each action without random ones, float32 [N, n]."""
        values = self.allowed(self.values(outputs), observation)
        return np.eye(values.shape[1], dtype=np.float32)[values.argmax(axis=1)]

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """Q(o, ·) float32 [N, n] of a network's outputs [N, n · m]."""
        if self._centers is None:
            return outputs
        logits = outputs.reshape(len(outputs), -1, len(self._centers))
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        return (weights @ self._centers) / weights.sum(axis=2)


def explored(
    greedy: np.ndarray, allowed: np.ndarray, epsilon: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Actions that are, with probability ε, any of the allowed ones, and how probable each was; both of greedy's shape.

    Args:
        greedy: int64 […]. allowed: bool […, n].
    """
    number = allowed.sum(axis=-1)
    chosen = (rng.random(number.shape) * number).astype(np.int64)  # the how-manieth of the allowed
    anything = (allowed.cumsum(axis=-1) > chosen[..., None]).argmax(axis=-1)
    action = np.where(rng.random(number.shape) < epsilon, anything, greedy)
    return action, epsilon / number + (1.0 - epsilon) * (action == greedy)
