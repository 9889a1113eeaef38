"""Sample batches flow in, gradients of actor and critics flow out, and back in to be applied.

Twin delayed deep deterministic policy gradient: Fujimoto et al. 2018, "Addressing Function Approximation Error in
Actor-Critic Methods", arXiv 1802.09477, algorithm 1. With μ the actor, Q₁ and Q₂ the critics, μ̄ and Q̄ the target
networks, actions scaled to [−1, 1] inside, R and d the batch's n-step reward and discount, ε ~ N(0, σ²):

    a'  = clip(μ̄(o') + clip(ε, −c, c), −1, 1)        target policy smoothing, equation 14
    y   = R + d · min_i Q̄_i(o', a')                    clipped double Q-learning, equation 10
    J_Q = Σ_i mean loss(Q_i(o, a), y)                   ½ (Q − y)², or that of ``distrl.learners.hl_gauss``
    J_μ = −mean Q₁(o, μ(o))                             at every ``policy_delay``-th update

Where the batch has weights, each sample's part is multiplied by its own before the mean.

The target networks move at every ``policy_delay``-th update too. Both losses are taken at the same parameters (in the
paper the critics step first), so that a gradient can be computed in one process and applied in another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.box_batches import BoxBatches, Tensors
from distrl.learners.graphs import Captured
from distrl.learners.hl_gauss import value_loss
from distrl.learners.networks import MLP, FlatParameters
from distrl.learners.optimized import Optimized, actor_weights
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch
from distrl.learners.td3_config import Config


class TD3(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor" and "critic", and "bonus" where there is one.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self._policy_spec = config.policy_spec(env_spec)
        self._tensors = BoxBatches(env_spec, "TD3", self.device)
        size, num_actions = self._tensors.num_inputs, self._tensors.num_actions
        self._loss = value_loss(config, self.device)
        self._computed = Captured(self._compute, self.device)
        self.actor_net = MLP((size, *config.hidden, num_actions))
        self.critic_net = MLP((size + num_actions, *config.hidden, self._loss.num_outputs), ensemble=2)
        generator = torch.Generator().manual_seed(seed)
        self.actor = FlatParameters(self.actor_net.initial(generator), self.device)
        self.critic = FlatParameters(self.critic_net.initial(generator), self.device)
        limit, tau, delay = config.max_gradient_norm, config.tau, config.policy_delay
        actor = Trained(self.actor.flat, Rule(config.actor_learning_rate, max_gradient_norm=limit, tau=tau))
        rule = Rule(config.critic_learning_rate, max_gradient_norm=limit, tau=tau, target_period=delay)
        critic = Trained(self.critic.flat, rule)
        assert actor.target is not None
        assert critic.target is not None
        self._target_actor, self._target_critic = self.actor.split(actor.target), self.critic.split(critic.target)
        self._bonus = None if config.bonus is None else Bonus(config.bonus, size, self.device, seed + 1)
        self.optimizer = Optimizer(with_bonus({"actor": actor, "critic": critic}, self._bonus))

    def gradients(self, batch: SampleBatch, rng: torch.Generator) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the critics' loss, and of the actor's where it is its turn; metrics as tensors of one element
        (reading one waits for a GPU: do it seldom); on a GPU both are valid until the next call.

        Args:
            batch: S transitions.
            rng: on the algorithm's device; see ``randomness.update_generator``.
        """
        tensors = self._tensors(batch)
        noise = torch.randn(tensors.action.shape, generator=rng, device=self.device)
        if self._bonus is not None:
            tensors = tensors._replace(reward=tensors.reward + self._bonus.rewards(tensors.following))
        improves = (self.optimizer.updates + 1) % self.config.policy_delay == 0
        gradients, metrics, batch.error = self._computed(noise, tensors, improves=improves)
        if self._bonus is not None:
            gradients = gradients | {"bonus": self._bonus.gradient(tensors.following, rng)}
        return gradients, metrics

    def _compute(self, noise: Tensor, tensors: Tensors, improves: bool) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the mean size of the critics' errors, [S]; ``improves``: the actor,
        too. Args: noise: [S, A]."""
        config = self.config
        observation, action, reward, discount, following, weight = tensors
        action = self._tensors.scaled(action)
        with torch.no_grad():
            limit = config.target_noise_limit
            noise = (config.target_noise * noise).clamp(-limit, limit)
            next_action = (torch.tanh(self.actor_net(self._target_actor, following)) + noise).clamp(-1.0, 1.0)
            next_outputs = self._outputs(self._target_critic, following, next_action)
            target = config.reward_scale * reward + discount * self._loss.values(next_outputs).amin(0)

        outputs = self._outputs(self.critic.named, observation, action)  # [2, S, m]
        critic_loss = (weight * self._loss.loss(outputs, target)).mean(1).sum()
        values = self._loss.values(outputs.detach())
        gradients = {"critic": self.critic.gradient(critic_loss)}
        metrics = {
            "critic_loss": critic_loss.detach(),
            "value_mean": values.mean(),
            "target_min": target.amin(),
            "target_max": target.amax(),
        }
        if improves:
            own_action = torch.tanh(self.actor_net(self.actor.named, observation))
            first = {name: part[:1] for name, part in self.critic.frozen.items()}
            inputs = torch.cat([observation, own_action], 1)
            own_outputs = MLP(self.critic_net.sizes, ensemble=1)(first, inputs)
            gradients["actor"] = self.actor.gradient(-(weight * self._loss.values(own_outputs)).mean())
        return gradients, metrics, (values - target).abs().mean(0)

    def policy_weights(self) -> Weights:
        """See ``actor_weights``; the layers are ``<i>/weight`` [in, out] and ``<i>/bias`` [out]."""
        return actor_weights(self.actor, self.optimizer.updates)

    def _outputs(self, critic: dict[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """What the critics say of actions, [2, S, m]."""
        return self.critic_net(critic, torch.cat([observation, action], 1))
