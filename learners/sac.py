"""Sample batches flow in, gradients of actor, critics and temperature flow out, and back in to be applied.

Soft actor-critic with twin critics and automatic temperature: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and
Applications", arXiv 1812.05905. With π the actor, Q₁ and Q₂ the critics, Q̄ the target networks, α the temperature,
actions scaled to [−1, 1] inside, R and d the batch's n-step reward and discount, a' ~ π(·|o') and ã ~ π(·|o):

    y   = R + d · (min_i Q̄_i(o', a') − α log π(a'|o'))        equations 2 and 3, soft state value
    J_Q = Σ_i mean ½ (Q_i(o, a) − y)²                           equation 5, or a loss of ``distrl.learners.hl_gauss``
    J_π = mean (α log π(ã|o) − min_i Q_i(o, ã))                 equation 9
    J_α = mean (−α log π(ã|o) − α H̄)                           equation 18

Where the batch has weights, each sample's part is multiplied by its own before the mean.

Every loss is taken at the same parameters (in the paper's algorithm 1 the critics step first; the difference is of
the second order in the learning rate), so that a gradient can be computed in one process and applied in another.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.device import joined, to_device
from distrl.learners.graphs import Captured
from distrl.learners.hl_gauss import value_loss
from distrl.learners.networks import MLP, FlatParameters, squashed_gaussian, squashed_gaussian_backward
from distrl.learners.optimized import Optimized, actor_weights
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch
from distrl.learners.sac_config import Config
from distrl.learners.spaces import bounded_box, flat_size, observation_leaves


class Seen(NamedTuple):
    """What networks take of S observations of A actors; in a team several, else one.

    Attributes:
        own: float32 [S · A, D], what the actor sees.
        together: [S, C], what the critics see beside the actions; None: the same.
        lives: [S, A], 1 or 0; None: all do.
    """

    own: Tensor
    together: Tensor | None = None
    lives: Tensor | None = None

    def joined(self, action: Tensor) -> Tensor:
        """The critics' inputs, for actions [S, all of a sample]: of who does not live, zeros."""
        if self.lives is not None:
            action = (action.view(*self.lives.shape, -1) * self.lives.unsqueeze(2)).view_as(action)
        return torch.cat([self.own if self.together is None else self.together, action], 1)

    def total(self, log_prob: Tensor) -> Tensor:
        """Log-density of a sample, [S], from those of its actors, [S, A]."""
        return (log_prob if self.lives is None else log_prob * self.lives).sum(1)

    def shared(self, d_action: Tensor, d_log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of ``joined``'s action and of ``total``, [S · A, …], from those of what they gave."""
        if self.lives is None:
            return d_action, d_log_prob
        lives = self.lives.reshape(-1)
        return d_action.reshape(len(lives), -1) * lives.unsqueeze(1), (d_log_prob.unsqueeze(1) * self.lives).reshape(-1)


class SAC(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor", "critic" and "log_temperature", and "bonus" where there is one.
        target_entropy: H̄.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config = config
        self._env_spec, self._policy_spec = env_spec, config.policy_spec(env_spec)
        self.device = torch.device(device)
        self._box = box = bounded_box(env_spec.action_space, type(self).__name__)
        center, half = (box.high + box.low) / 2, (box.high - box.low) / 2
        self._center, self._half = (self._tensor(array.reshape(-1)) for array in (center, half))
        auto = config.target_entropy == "auto"
        self.target_entropy = -float(len(self._center)) if auto else float(config.target_entropy)
        self._loss = value_loss(config, self.device)
        self.actor_net, self.critic_net = self._networks()
        generator = torch.Generator().manual_seed(seed)
        self.actor = FlatParameters(self.actor_net.initial(generator), self.device)
        self.critic = FlatParameters(self.critic_net.initial(generator), self.device)
        self.log_temperature = torch.full((1,), math.log(config.initial_temperature), device=self.device)
        limit = config.max_gradient_norm
        critic = Trained(self.critic.flat, Rule(config.critic_learning_rate, max_gradient_norm=limit, tau=config.tau))
        assert critic.target is not None
        self._computed = Captured(self._compute, self.device)
        self._actor = self.actor_net.members(self.actor.frozen)
        self._critics = self.critic_net.members(self.critic.frozen)
        self._target = self.critic_net.members(self.critic.split(critic.target))  # the target networks
        trained = {
            "actor": Trained(self.actor.flat, Rule(config.actor_learning_rate, max_gradient_norm=limit)),
            "critic": critic,
            "log_temperature": Trained(self.log_temperature, Rule(config.temperature_learning_rate)),
        }
        if config.bonus is not None:
            size = self.critic_net.sizes[0] - len(self._center)  # of what the critics see beside the actions
            self._bonus = Bonus(config.bonus, size, self.device, seed + 1)
        self.optimizer = Optimizer(with_bonus(trained, self._bonus))

    def gradients(self, batch: SampleBatch, rng: torch.Generator) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the three losses, and metrics as tensors of one element (reading one waits for a GPU: do it
        seldom); on a GPU both are valid until the next call.

        Args:
            batch: S transitions.
            rng: on the algorithm's device; see ``randomness.update_generator``.
        """
        parts = [batch.action.reshape(len(batch.reward), -1), batch.reward, batch.discount, batch.weights()]
        parts += [*self._seen(batch.observation), *self._seen(batch.next_observation)]
        action, reward, discount, weight, *seen = to_device(parts, self.device)
        before, after = Seen(*seen[: len(seen) // 2]), Seen(*seen[len(seen) // 2 :])
        noise = torch.randn((2, *action.shape), generator=rng, device=self.device)
        following = after.own if after.together is None else after.together
        if self._bonus is not None:
            reward = reward + self._bonus.rewards(following)
        with torch.no_grad():
            found = self._computed(noise, action, reward, discount, weight, before, after)
        gradients, metrics, batch.error = found
        if self._bonus is not None:
            gradients = gradients | {"bonus": self._bonus.gradient(following, rng)}
        return gradients, metrics

    def _compute(
        self, noise: Tensor, action: Tensor, reward: Tensor, discount: Tensor, weight: Tensor, before: Seen, after: Seen
    ) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the mean size of the critics' errors, [S].

        Args:
            noise: [2, S, actions], for o' and for o. before, after: o and o'.
        """
        action = (action - self._center) / self._half
        weight = weight / len(weight)
        size, num_actions = action.shape
        temperature = self.log_temperature.exp()

        # The actor on o' and o at once: a' and ã.
        outputs, actor_context = self.actor_net.forward(self._actor, torch.cat([after.own, before.own]))
        noise = noise.view(len(outputs), -1)
        drawn, each_log_prob = squashed_gaussian(outputs, noise)
        next_action, new_action = drawn.view(2, size, num_actions)
        next_log_prob, log_prob = each_log_prob.view(2, size, -1)
        next_log_prob, log_prob = after.total(next_log_prob), before.total(log_prob)

        next_outputs, _ = self.critic_net.forward(self._target, after.joined(next_action))  # [2, S, m]
        next_values = self._loss.values(next_outputs)
        next_value = torch.minimum(next_values[0], next_values[1]) - temperature * next_log_prob
        target = self.config.reward_scale * reward + discount * next_value

        # The critics on (o, a) and (o, ã) at once; their parameters follow the first loss alone.
        judged = torch.cat([before.joined(action), before.joined(new_action)])
        both, critic_context = self.critic_net.forward(self._critics, judged)
        outputs_of_both = both.split(size, 1)  # [2, S, m] each
        values, new_values = map(self._loss.values, outputs_of_both)  # [2, S]
        errors = values - target
        second = (new_values[1] < new_values[0]).to(weight.dtype) * weight  # where it is the least
        d_new_values = torch.stack([second - weight, -second])
        d_judged = self._loss.loss_backward(outputs_of_both[0], target, weight.expand_as(errors))
        d_both = torch.cat([d_judged, self._loss.values_backward(outputs_of_both[1], d_new_values)], 1)
        new_actions = slice(size, None), slice(judged.shape[1] - num_actions, None)
        critic_gradient, d_action = self.critic_net.backward(
            self._critics, critic_context, d_both, rows=slice(size), wanted=new_actions
        )
        assert d_action is not None

        # The actor's, through the Gaussian and on o alone.
        half = slice(len(before.own), None)
        d_action, d_log_prob = before.shared(d_action, temperature * weight)
        d_outputs = squashed_gaussian_backward(outputs[half], noise[half], drawn[half], d_action, d_log_prob)
        context = [[part[half] for part in inputs] for inputs in actor_context]
        actor_gradient, _ = self.actor_net.backward(self._actor, context, d_outputs)

        wanted = self.target_entropy if before.lives is None else self.target_entropy * before.lives.sum(1)
        surplus = -log_prob - wanted  # of entropy, [S]
        gradients = {
            "actor": actor_gradient,
            "critic": critic_gradient,
            "log_temperature": temperature * torch.dot(weight, surplus),  # ∂J_α/∂log α = J_α
        }
        least = torch.minimum(new_values[0], new_values[1])
        metrics = {
            "critic_loss": torch.mv(self._loss.loss(outputs_of_both[0], target), weight).sum(),
            "actor_loss": torch.dot(weight, temperature * log_prob - least),
            "value_mean": values.mean(),
            "target_min": target.amin(),
            "target_max": target.amax(),
            "temperature": temperature,
            "entropy": -log_prob.mean(),
        }
        return gradients, metrics, errors.abs().mean(0)

    def policy_weights(self) -> Weights:
        """See ``actor_weights``; the layers are ``<i>/weight`` [in, out] and ``<i>/bias`` [out]."""
        return actor_weights(self.actor, self.optimizer.updates)

    def _networks(self) -> tuple[MLP, MLP]:
        """Actor and twin critics, whose sizes the spaces decide."""
        leaves = observation_leaves(self._env_spec.observation_space)
        self._layout = dict.fromkeys(leaves)  # numbers all of them
        size, num_actions, hidden = flat_size(leaves), len(self._center), self.config.hidden
        return MLP((size, *hidden, 2 * num_actions)), MLP(
            (size + num_actions, *hidden, self._loss.num_outputs), ensemble=2
        )

    def _seen(self, observation: dict[str, Any]) -> tuple[Any, ...]:
        """What ``Seen`` takes, arrays or tensors."""
        return (joined(observation, self._layout),)

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
