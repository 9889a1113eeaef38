"""Sample batches flow in, gradients of actor, critics and temperature flow out, and back in to be applied.

Soft actor-critic with twin critics and automatic temperature: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and
Applications", arXiv 1812.05905. With π the actor, Q₁ and Q₂ the critics, Q̄ the target networks, α the temperature,
actions scaled to [−1, 1] inside, R and d the batch's n-step reward and discount, a' ~ π(·|o') and ã ~ π(·|o):

    y   = R + d · (min_i Q̄_i(o', a') − α log π(a'|o'))        equations 2 and 3, soft state value
    J_Q = Σ_i mean ½ (Q_i(o, a) − y)²                           equation 5
    J_π = mean (α log π(ã|o) − min_i Q_i(o, ã))                 equation 9
    J_α = mean (−α log π(ã|o) − α H̄)                           equation 18

Where the batch has weights, each sample's part is multiplied by its own before the mean.

Every loss is taken at the same parameters (in the paper's algorithm 1 the critics step first; the difference is of
the second order in the learning rate), so that a gradient can be computed in one process and applied in another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import EnvSpec, PolicySpec, Weights
from distrl.learners.networks import MLP, FlatParameters, squashed_gaussian
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.policies import TRAINED
from distrl.learners.replay import SampleBatch
from distrl.learners.sac_config import Config
from distrl.learners.spaces import bounded_box, flat_size, observation_leaves


class SAC:
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor", "critic" and "log_temperature". target_entropy: H̄.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config = config
        self._env_spec = env_spec
        self.device = torch.device(device)
        self._box = box = bounded_box(env_spec.action_space, type(self).__name__)
        center, half = (box.high + box.low) / 2, (box.high - box.low) / 2
        self._center, self._half = (self._tensor(array.reshape(-1)) for array in (center, half))
        auto = config.target_entropy == "auto"
        self.target_entropy = -float(len(self._center)) if auto else float(config.target_entropy)
        self.actor_net, self.critic_net = self._networks()
        generator = torch.Generator().manual_seed(seed)
        self.actor = FlatParameters(self.actor_net.initial(generator), self.device)
        self.critic = FlatParameters(self.critic_net.initial(generator), self.device)
        self.log_temperature = torch.full((1,), math.log(config.initial_temperature), device=self.device)
        limit = config.max_gradient_norm
        critic = Trained(self.critic.flat, Rule(config.critic_learning_rate, max_gradient_norm=limit, tau=config.tau))
        assert critic.target is not None
        self._target = self.critic.split(critic.target)  # of the target networks
        self.optimizer = Optimizer(
            {
                "actor": Trained(self.actor.flat, Rule(config.actor_learning_rate, max_gradient_norm=limit)),
                "critic": critic,
                "log_temperature": Trained(self.log_temperature, Rule(config.temperature_learning_rate)),
            }
        )

    def gradients(self, batch: SampleBatch, rng: torch.Generator) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the three losses, and metrics as tensors of one element (reading one waits for a GPU: do it
        seldom).

        Args:
            batch: S transitions; numpy arrays or tensors.
            rng: on the algorithm's device; see ``randomness.update_generator``.
        """
        observation, next_observation = (self._seen(part) for part in (batch.observation, batch.next_observation))
        reward, discount = self._tensor(batch.reward), self._tensor(batch.discount)
        action = (self._tensor(batch.action).reshape(len(reward), -1) - self._center) / self._half
        weight = torch.ones_like(reward) if batch.weight is None else self._tensor(batch.weight)
        noise = torch.randn((2, *action.shape), generator=rng, device=self.device)
        temperature = self.log_temperature.exp()

        with torch.no_grad():
            next_action, next_log_prob = self._act(self.actor.frozen, next_observation, noise[0])
            next_value = self._least(self._target, next_observation, next_action) - temperature * next_log_prob
            target = self.config.reward_scale * reward + discount * next_value  # [S]

        values = self._values(self.critic.named, observation, action)  # [2, S]
        critic_loss = 0.5 * (weight * (values - target).square()).mean(1).sum()
        critic_gradient = self.critic.gradient(critic_loss)
        batch.error = (values.detach() - target).abs().mean(0)

        new_action, log_prob = self._act(self.actor.named, observation, noise[1])
        actor_loss = (
            weight * (temperature * log_prob - self._least(self.critic.frozen, observation, new_action))
        ).mean()
        actor_gradient = self.actor.gradient(actor_loss)

        surplus = -log_prob.detach() - self._wanted_entropy(observation)  # of entropy, [S]
        temperature_gradient = temperature * (weight * surplus).mean()  # ∂J_α/∂log α = J_α
        gradients = {"actor": actor_gradient, "critic": critic_gradient, "log_temperature": temperature_gradient}
        metrics = {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "value_mean": values.detach().mean(),
            "temperature": temperature,
            "entropy": -log_prob.detach().mean(),
        }
        return gradients, metrics

    def apply(self, gradients: Gradients) -> None:
        """One Adam step on each, then target ← target + τ (critic − target)."""
        self.optimizer.step(gradients)

    def policy_spec(self) -> PolicySpec:
        """See ``Config.policy_spec``."""
        return self.config.policy_spec(self._env_spec)

    def policy_weights(self) -> Weights:
        """``actor/<i>/weight`` float32 [in, out], ``actor/<i>/bias`` float32 [out], ``trained`` float32 []; one copy
        from the device."""
        host = self.actor.flat.detach().to("cpu", copy=True)
        weights = {f"actor/{name}": view.numpy() for name, view in self.actor.split(host).items()}
        weights[TRAINED] = np.array(self.optimizer.updates > 0, np.float32)
        return weights

    def state(self) -> dict[str, Any]:
        """Everything that an update reads or writes: see ``Optimizer.state``."""
        return self.optimizer.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: the state is of networks of another shape.
        """
        self.optimizer.load_state(state)

    def _networks(self) -> tuple[MLP, MLP]:
        """Actor and twin critics, whose sizes the spaces decide."""
        leaves = observation_leaves(self._env_spec.observation_space)
        self._paths = tuple(leaves)
        size, num_actions, hidden = flat_size(leaves), len(self._center), self.config.hidden
        return MLP((size, *hidden, 2 * num_actions)), MLP((size + num_actions, *hidden, 1), ensemble=2)

    def _seen(self, observation: dict[str, Any]) -> Any:
        """What ``_act`` and ``_values`` take, of path → [S, …]: float32 [S, D] in the order of the networks' inputs."""
        parts = [part.reshape(len(part), -1) for part in (self._tensor(observation[path]) for path in self._paths)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _act(self, actor: dict[str, Tensor], seen: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in [−1, 1], [S, A], and their log-density [S]."""
        return squashed_gaussian(self.actor_net(actor, seen), noise)

    def _values(self, critic: dict[str, Tensor], seen: Any, action: Tensor) -> Tensor:
        """Q_i(o, a), [2, S]."""
        return self.critic_net(critic, torch.cat([seen, action], 1)).squeeze(-1)

    def _least(self, critic: dict[str, Tensor], seen: Any, action: Tensor) -> Tensor:
        """min_i Q_i(o, a), [S]."""
        first, second = self._values(critic, seen, action)
        return torch.minimum(first, second)

    def _wanted_entropy(self, seen: Any) -> float | Tensor:
        """H̄ of each sample, [S], or of all."""
        return self.target_entropy

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
