"""Sample batches flow in, the gradient of a network of action values flows out, and back in to be applied.

Deep Q-learning with double Q-learning and n-step returns. With Q the network, Q̄ the target network, R and d the batch's
n-step reward and discount, o' what follows:

    u' = argmax_{u allowed} Q(o', u)             van Hasselt et al. 2016, arXiv 1509.06461, equation 4
    y  = R + d · Q̄(o', u')                       Mnih et al. 2015, doi 10.1038/nature14236, algorithm 1
    J  = mean loss(Q(o, a), y)                   ½ (Q − y)², or that of ``distrl.learners.hl_gauss``

Where the batch has weights, each sample's part is multiplied by its own before the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.actor_critic import Inputs
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.device import joined, to_device
from distrl.learners.dqn_config import Config
from distrl.learners.graphs import Captured
from distrl.learners.hl_gauss import value_loss
from distrl.learners.inputs import MASK, image_paths, input_size
from distrl.learners.mixing import part_of
from distrl.learners.networks import MLP, FlatParameters
from distrl.learners.optimized import Optimized
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch
from distrl.learners.value_policies import EPSILON


class _Network(Protocol):
    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Its parameters by name."""

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """[S, outputs]."""


class DQN(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with Boxes, images, Discrete, MultiDiscrete or MultiBinary to observe and Discrete actions.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vector "parameters", and "bonus" where there is one.
        transitions: of the run, as far as they have been seen.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self.transitions = 0
        self._policy_spec = config.policy_spec(env_spec)
        network, actions = self._policy_spec.kwargs["network"], self._policy_spec.kwargs["actions"]
        self._layout, self._lowest, self._num_actions = network["inputs"], actions["lowest"][0], actions["choices"][0]
        self._images = image_paths(self._layout)
        self._num_flat = input_size(env_spec.observation_space, self._layout)
        self._loss = value_loss(config, self.device)
        num_outputs = self._num_actions * self._loss.num_outputs
        self._network: _Network
        if self._images:
            self._network = _OfImages(network, num_outputs)
        else:
            self._network = _OfNumbers((self._num_flat, *config.hidden, num_outputs))
        self.parameters = FlatParameters(self._network.initial(torch.Generator().manual_seed(seed)), self.device)
        rule = Rule(
            config.learning_rate,
            max_gradient_norm=config.max_gradient_norm,
            tau=config.tau,
            target_period=config.target_period,
        )
        trained = Trained(self.parameters.flat, rule)
        assert trained.target is not None
        self._target = self.parameters.split(trained.target)  # of the target network
        self._bonus = None if config.bonus is None else Bonus(config.bonus, self._num_flat, self.device, seed + 1)
        self.optimizer = Optimizer(with_bonus({"parameters": trained}, self._bonus))
        self._computed = Captured(self._compute, self.device)

    @property
    def epsilon(self) -> float:
        """Share of random actions that env workers are to take now."""
        first, last = self.config.initial_epsilon, self.config.final_epsilon
        return first + (last - first) * min(1.0, self.transitions / self.config.epsilon_steps)

    def gradients(self, batch: SampleBatch, rng: torch.Generator | None = None) -> tuple[Gradients, dict[str, Any]]:
        """The loss's gradient, and metrics as tensors of one element, but for ``epsilon`` (reading one waits for a GPU:
        do it seldom); on a GPU both are valid until the next call.

        Args:
            batch: S transitions.
            rng: on the algorithm's device; for a bonus alone.
        """
        inputs, following = self._inputs(batch.observation), self._inputs(batch.next_observation)
        mask = [batch.next_observation[MASK]] if MASK in batch.next_observation else []
        parts = [batch.action - self._lowest, batch.reward, batch.discount, batch.weights(), *inputs, *following, *mask]
        action, reward, discount, weight, *seen = to_device(parts, self.device)
        inputs, following = tuple(seen[: len(inputs)]), tuple(seen[len(inputs) : 2 * len(inputs)])
        if self._bonus is not None:
            reward = reward + self._bonus.rewards(following[0])
        allowed = seen[-1] if mask else None
        found = self._computed(action, reward, discount, weight, inputs, following, allowed)
        gradients, metrics, batch.error = found
        if self._bonus is not None:
            assert rng is not None
            gradients = gradients | {"bonus": self._bonus.gradient(following[0], rng)}
        self.transitions = max(self.transitions, int(batch.number.max()) + 1)
        return gradients, metrics | {"epsilon": self.epsilon}

    def _compute(
        self,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        weight: Tensor,
        inputs: Inputs,
        following: Inputs,
        allowed: Tensor | None,
    ) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the sizes of the errors, [S].

        Args:
            action: [S], counted from 0. inputs, following: of o and o'. allowed: [S, n], zero where o' forbids.
        """
        with torch.no_grad():
            values = self._loss.values(self._outputs(self.parameters.frozen, following))
            if allowed is not None:
                values = values.masked_fill(allowed.view(values.shape) == 0, -torch.inf)
            next_outputs = _of(values.argmax(1), self._outputs(self._target, following))
            target = self.config.reward_scale * reward + discount * self._loss.values(next_outputs)

        outputs = _of(action.long(), self._outputs(self.parameters.named, inputs))  # [S, m]
        loss = (weight * self._loss.loss(outputs, target)).mean()
        values = self._loss.values(outputs.detach())
        metrics = {
            "loss": loss.detach(),
            "value_mean": values.mean(),
            "target_min": target.amin(),
            "target_max": target.amax(),
        }
        return {"parameters": self.parameters.gradient(loss)}, metrics, (values - target).abs()

    def policy_weights(self) -> Weights:
        """What ``distrl.learners.value_policies`` load: the network's layers, and ``epsilon`` float32 []; one copy from
        the device."""
        host = self.parameters.flat.to("cpu", copy=True)
        weights = {name: view.numpy() for name, view in self.parameters.split(host).items()}
        weights[EPSILON] = np.array(self.epsilon, np.float32)
        return weights

    def state(self) -> dict[str, Any]:
        """See ``Optimized.state``."""
        return super().state() | {"transitions": self.transitions}

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Optimized.load_state``."""
        super().load_state(state)
        self.transitions = int(state["transitions"])

    def _outputs(self, named: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """[S, n, m]."""
        return self._network(named, inputs).reshape(-1, self._num_actions, self._loss.num_outputs)

    def _inputs(self, observation: dict[str, Any]) -> tuple[Any, ...]:
        """What the network takes, arrays or tensors."""
        flat = [joined(observation, self._layout)] if self._num_flat else []
        return *flat, *(observation[path] for path in self._images)


def _of(action: Tensor, outputs: Tensor) -> Tensor:
    """Of actions [S] among outputs [S, n, m], [S, m]."""
    return outputs.gather(1, action.view(-1, 1, 1).expand(-1, 1, outputs.shape[2])).squeeze(1)


class _OfNumbers:
    """Linear layers of these widths; ``actor/<i>/weight`` and ``actor/<i>/bias`` as ``MLP`` has them."""

    def __init__(self, sizes: tuple[int, ...]):
        self._mlp = MLP(sizes)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {f"actor/{name}": value for name, value in self._mlp.initial(generator).items()}

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        return self._mlp(part_of(parameters, "actor"), inputs[0])


class _OfImages:
    """An actor of ``distrl.learners.images``, without the critic that may be beside it."""

    def __init__(self, network: Mapping[str, Any], num_outputs: int):
        from distrl.learners.images import shared_network

        self._shared = shared_network(network, num_outputs)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        initial = self._shared.initial(generator)
        return {name: value for name, value in initial.items() if not name.startswith("critic/")}

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        return self._shared.act(parameters, inputs, None)[0].t()
