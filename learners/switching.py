"""Rollouts flow in, gradients of two actors, their critics and a switch flow out: PPO whose central critic has a price.

After MANSA (Mguni et al. 2023, arXiv 2302.05910): a switching agent learns at which states learning is centralised, and
pays c for each. For each agent and step,

    g ~ π_S(·|o, s)     0: the agent's own actor acts, 1: the centralised one
    u ~ π_g(·|o)

with three learners that are PPO each (``distrl.learners.ppo``):

    π₀, V₀(o)       from the rewards r of all steps, with V-trace and the decoupled surrogate: others may have acted
    π₁, V₁(o, s)    from r, of steps with g = 1 alone. At others V₁ is not asked: there its advantages go on with V₀
    π_S, V_S(o, s)  from r − c g

There are two actors because of π_S: were there one, nothing that happens in an episode would depend on g, only how well
is learned from it later, and no reward could tell what a call is worth. That π₀ learns from what π₁ does is our choice:
it costs no call, and π₀ can so become as good without being chosen. What π_S knows is what both are worth now, not what
they would become.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import Columns, EnvSpec, PolicySpec, Weights
from distrl.learners.actor_critic import ActorCritic, Inputs, Network
from distrl.learners.inputs import MASK, flat_inputs
from distrl.learners.networks import FlatParameters
from distrl.learners.optimizer import Gradients
from distrl.learners.ppo import PPO, Minibatch
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.recurrent import Memory
from distrl.learners.rollout import Rollout
from distrl.learners.switching_policy import CENTRAL, OWN, SWITCH

_CALLED, _OWN_VALUE = "/called", "/value"  # g and V₀ beside a rollout's observations, by paths that none of them has

Batch = dict[str, Minibatch | None]  # of each learner; None: of that one, there are no more


class SwitchingPPO:
    """Implements ``distrl.core.contracts.Algorithm``.

    Args:
        config: with a ``switching_cost``. env_spec, device, seed: see ``PPO``.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        parts = config.parts(env_spec)
        self._own, self._switch = (_Part(*parts[name], device, seed) for name in (OWN, SWITCH))
        self._central = _Central(*parts[CENTRAL], device, seed + 1)  # the actors begin differently
        self.config = config
        self._parts: dict[str, PPO] = {OWN: self._own, CENTRAL: self._central, SWITCH: self._switch}
        self._policy_spec = config.policy_spec(env_spec)
        actions = self._policy_spec.kwargs[OWN]["actions"]
        self._lowest, self._choices = actions["lowest"][0], actions["choices"][0]
        self._cost = np.float32(config.switching_cost or 0.0)
        self._metrics: dict[str, Any] = {}

    def minibatches(self, rollout: Rollout, rng: torch.Generator) -> Iterator[Batch]:
        """See ``PPO.minibatches``."""
        apart = self._apart(rollout)
        streams = [part.minibatches(apart[name], rng) for name, part in self._parts.items()]
        for found in zip_longest(*streams):
            yield dict(zip(self._parts, found, strict=True))

    def gradients(
        self, batch: Batch, rng: torch.Generator | None = None
    ) -> tuple[dict[str, Gradients], dict[str, Any]]:
        """See ``PPO.gradients``: of each learner that has a minibatch; metrics are the newest of each."""
        gradients = {}
        for name, minibatch in batch.items():
            if minibatch is not None:
                gradients[name], metrics = self._parts[name].gradients(minibatch)
                self._metrics |= {f"{name}_{key}": value for key, value in metrics.items()}
        return gradients, dict(self._metrics)

    def apply(self, gradients: dict[str, Gradients]) -> None:
        """See ``PPO.apply``."""
        for name, gradient in gradients.items():
            self._parts[name].apply(gradient)

    def policy_spec(self) -> PolicySpec:
        """See ``Config.policy_spec``."""
        return self._policy_spec

    def policy_weights(self) -> Weights:
        """``own/…``, ``central/…``, ``switch/…``; see ``PPO.policy_weights``."""
        return {
            f"{name}/{key}": value for name, part in self._parts.items() for key, value in part.policy_weights().items()
        }

    def state(self) -> dict[str, Any]:
        """See ``PPO.state``."""
        return {name: part.state() for name, part in self._parts.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``PPO.load_state``."""
        for name, part in self._parts.items():
            part.load_state(state.get(name, {}))

    def _apart(self, rollout: Rollout) -> dict[str, Rollout]:
        """What each learner learns from; the networks are those that acted."""
        number = rollout.action - self._lowest
        called, action = number // self._choices, self._lowest + number % self._choices
        self._metrics["centralised_share"] = float(called.mean())

        shape = (called.shape[0] + 1, called.shape[1])
        ordered = {path: array.reshape(-1, *array.shape[2:]) for path, array in rollout.observation.items()}
        log_prob, final_log_prob = (self._log_probs(found) for found in (ordered, rollout.final_observation))
        log_prob = log_prob.reshape(2, *shape)
        of_the_switch = np.take_along_axis(log_prob[:, :-1], called[None], 0)[0]
        following = np.concatenate([called, log_prob[:, -1:].argmax(0)])  # nobody acts on the bootstrap row
        beside = {_CALLED: following, _OWN_VALUE: self._own.newest(ordered)[1].numpy(force=True).reshape(shape)}
        final_value = self._own.newest(rollout.final_observation)[1].numpy(force=True)
        final_beside = {_CALLED: final_log_prob.argmax(0), _OWN_VALUE: final_value}

        agents = replace(rollout, action=action, log_prob=rollout.log_prob - of_the_switch)
        central = replace(
            agents,
            observation=rollout.observation | beside,
            final_observation=rollout.final_observation | final_beside,
        )
        switch = replace(
            rollout,
            observation={path: array for path, array in rollout.observation.items() if path != MASK},
            action=called,
            reward=rollout.reward - self._cost * called.astype(np.float32),
            log_prob=of_the_switch,
        )
        return {OWN: agents, CENTRAL: central, SWITCH: switch}

    def _log_probs(self, observation: Columns) -> np.ndarray:
        """Of g = 0 and 1, [2, S]."""
        return torch.log_softmax(self._switch.newest(observation)[0], 0).numpy(force=True)


class _Part(PPO):
    def newest(self, observation: Columns) -> tuple[Tensor, Tensor]:
        """Outputs [A, S] and values [S], of path → [S, …]."""
        inputs = self._normalised(flat_inputs(observation, self._layout))
        outputs, value, _ = self.network.forward(self.parameters, (inputs,), None)
        return outputs, value


class _Central(PPO):
    """Trained on steps with g = 1 alone; inputs are [S, D], g [S] and V₀ [S]."""

    def _network(self, recipe: Any, num_outputs: int) -> Network:
        return _CalledCritic(self._num_flat, self._num_seen, num_outputs, self.config.hidden)

    def _inputs(self, rollout: Rollout) -> tuple[Inputs, Inputs]:
        parts = []
        for inputs, found in zip(
            super()._inputs(rollout), (rollout.observation, rollout.final_observation), strict=True
        ):
            parts.append(
                (*inputs, self._tensor(found[_CALLED].reshape(-1)), self._tensor(found[_OWN_VALUE].reshape(-1)))
            )
        return parts[0], parts[1]

    def _begin(self, rollout: Rollout) -> Minibatch:
        transitions = super()._begin(rollout)
        return transitions.select(torch.nonzero(transitions.inputs[1]).squeeze(1))


class _CalledCritic(ActorCritic):
    """An actor beside a critic that is asked where g = 1; elsewhere the value is V₀."""

    def evaluate(
        self,
        parameters: FlatParameters,
        inputs: Inputs,
        final: Inputs,
        final_index: Tensor,
        memory: Memory | None,
        with_outputs: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See ``Network``; outputs are not asked for."""
        values = []
        for flat, called, value in (inputs, final):
            rows = torch.nonzero(called).squeeze(1)
            asked = self._critic.forward(parameters.frozen, flat.index_select(0, rows))[0][0]
            values.append(value.index_copy(0, rows, asked))
        return None, values[0], values[1]
