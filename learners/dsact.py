"""Sample batches flow in, gradients of actor, critics and temperature flow out, and back in to be applied.

Distributional soft actor-critic with three refinements: Duan et al. 2025, "Distributional Soft Actor-Critic with Three
Refinements", arXiv 2310.05858. Each critic i says that the soft return of an action is N(Q_i(o, a), σ_i(o, a)²). With π
the actor, bars for target networks, α the temperature, actions scaled to [−1, 1] inside, R and d the batch's n-step
reward and discount, a' ~ π̄(·|o'), ã ~ π(·|o), i* = argmin_i Q̄_i(o', a') and Z' ~ N(Q̄_i*(o', a'), σ̄_i*(o', a')²):

    y_q = R + d · (Q̄_i*(o', a') − α log π̄(a'|o'))       twin value distributions, and their expected value …
    y_z = R + d · (Z' − α log π̄(a'|o'))                 … substituted where the mean is learned
    ∇J_Q = Σ_i (ω_i + ε) mean( −(y_q − Q_i) / (σ_i² + ε) ∇Q_i
                               −((C_i(y_z) − Q_i)² − σ_i²) / (σ_i³ + ε) ∇σ_i )
    J_π = mean (α log π(ã|o) − min_i Q_i(o, ã))
    J_α = mean (−α log π(ã|o) − α H̄)

Where the batch has weights, each sample's part is multiplied by its own before the mean. C_i(y) is y within Q_i ± b_i.
b_i and ω_i are running averages of ξ σ_i and σ_i², which move by the target networks' τ (variance-based critic gradient
adjustment). ε = 0.1. σ_i is the softplus of an output, and Z' within three standard deviations, as in the authors'
implementation. Actor, temperature and target networks move at every ``policy_delay``-th update. Every loss is taken at
the same parameters, so that a gradient can be computed in one process and applied in another. Left out are the paper's
schedule of the learning rates, and GELU in place of ReLU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distrl.core.types import EnvSpec, Weights
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.box_batches import BoxBatches, Tensors
from distrl.learners.dsact_config import Config
from distrl.learners.graphs import Captured
from distrl.learners.networks import MLP, FlatParameters, squashed_gaussian
from distrl.learners.optimized import Optimized, actor_weights
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch

_EPSILON = 0.1  # ε
_MOST = 3.0  # standard deviations that a drawn return is from its mean


class DSACT(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor", "critic" and "log_temperature", and "bonus" where there is one.
        target_entropy: H̄.
        spread: float32 [2, 2], running averages of σ_i (row 0) and σ_i² (row 1); NaN before the first update.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self._policy_spec = config.policy_spec(env_spec)
        self._tensors = BoxBatches(env_spec, "DSAC-T", self.device)
        size, num_actions, hidden = self._tensors.num_inputs, self._tensors.num_actions, config.hidden
        auto = config.target_entropy == "auto"
        self.target_entropy = -float(num_actions) if auto else float(config.target_entropy)
        self.actor_net = MLP((size, *hidden, 2 * num_actions))
        self.critic_net = MLP((size + num_actions, *hidden, 2), ensemble=2)
        generator = torch.Generator().manual_seed(seed)
        self.actor = FlatParameters(self.actor_net.initial(generator), self.device)
        self.critic = FlatParameters(self.critic_net.initial(generator), self.device)
        self.log_temperature = torch.full((1,), math.log(config.initial_temperature), device=self.device)
        limit, tau, delay = config.max_gradient_norm, config.tau, config.policy_delay
        actor = Trained(self.actor.flat, Rule(config.actor_learning_rate, max_gradient_norm=limit, tau=tau))
        rule = Rule(config.critic_learning_rate, max_gradient_norm=limit, tau=tau, target_period=delay)
        critic = Trained(self.critic.flat, rule)
        assert actor.target is not None
        assert critic.target is not None
        self._target_actor, self._target_critic = self.actor.split(actor.target), self.critic.split(critic.target)
        temperature = Trained(self.log_temperature, Rule(config.temperature_learning_rate))
        self._bonus = None if config.bonus is None else Bonus(config.bonus, size, self.device, seed + 1)
        self.optimizer = Optimizer(
            with_bonus({"actor": actor, "critic": critic, "log_temperature": temperature}, self._bonus)
        )
        self.spread = torch.full((2, 2), math.nan, device=self.device)
        self._next_spread = self.spread
        self._computed = Captured(self._compute, self.device)

    def gradients(self, batch: SampleBatch, rng: torch.Generator) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the critics' loss, and of the others where it is their turn; metrics as tensors of one element
        (reading one waits for a GPU: do it seldom); on a GPU both are valid until the next call.

        Args:
            batch: S transitions.
            rng: on the algorithm's device; see ``randomness.update_generator``.
        """
        tensors = self._tensors(batch)
        noise = torch.randn((2, *tensors.action.shape), generator=rng, device=self.device)
        drawn = torch.randn((2, len(tensors.reward)), generator=rng, device=self.device)
        if self._bonus is not None:
            tensors = tensors._replace(reward=tensors.reward + self._bonus.rewards(tensors.following))
        improves = (self.optimizer.updates + 1) % self.config.policy_delay == 0
        # what is common to learners in step goes through the host
        compute = self._computed if self.optimizer.together.size == 1 else self._compute
        found = compute(noise, drawn, self.spread, tensors, improves=improves)
        gradients, metrics, batch.error, self._next_spread = found
        if self._bonus is not None:
            gradients = gradients | {"bonus": self._bonus.gradient(tensors.following, rng)}
        return gradients, metrics

    def _compute(
        self, noise: Tensor, drawn: Tensor, spread: Tensor, tensors: Tensors, improves: bool
    ) -> tuple[Gradients, dict[str, Tensor], Tensor, Tensor]:
        """``gradients`` of the batch's parts, the mean size of the critics' errors, [S], and the next ``spread``.

        Args:
            noise: [2, S, A], for o' and for o. drawn: [2, S], of the critics' returns. spread: see there.
            improves: actor and temperature, too.
        """
        config = self.config
        observation, action, reward, discount, following, weight = tensors
        temperature = self.log_temperature.exp()
        mean, std = self._returns(self.critic.named, observation, self._tensors.scaled(action))  # [2, S] each

        with torch.no_grad():
            next_action, next_log_prob = squashed_gaussian(self.actor_net(self._target_actor, following), noise[0])
            next_mean, next_std = self._returns(self._target_critic, following, next_action)
            least = next_mean.argmin(0, keepdim=True)
            next_value = next_mean.gather(0, least)[0]
            next_return = (next_mean + next_std * drawn.clamp(-_MOST, _MOST)).gather(0, least)[0]
            reward, entropy_cost = config.reward_scale * reward, temperature * next_log_prob
            target = reward + discount * (next_value - entropy_cost)  # y_q [S]
            target_return = reward + discount * (next_return - entropy_cost)  # y_z [S]

            now = torch.stack([std.mean(1), std.square().mean(1)])
            now = self.optimizer.together.sum(now) / self.optimizer.together.size
            spread = torch.where(spread.isnan(), now, spread.lerp(now, config.tau))
            bound = config.clip_range * spread[0].unsqueeze(1)  # b [2, 1]
            beyond = (target_return - mean).clamp(-bound, bound)  # C(y_z) − Q [2, S]
            scale = weight * (spread[1].unsqueeze(1) + _EPSILON) / len(reward)
            error = (target - mean).abs().mean(0)
            d_mean = -scale * (target - mean) / (std.square() + _EPSILON)
            d_std = -scale * (beyond.square() - std.square()) / (std.pow(3) + _EPSILON)
        gradients = {"critic": self.critic.gradient((d_mean * mean + d_std * std).sum())}
        metrics = {
            "td_error": error.mean(),
            "value_mean": mean.detach().mean(),
            "std_mean": now[0].mean(),
            "temperature": temperature,
        }
        if improves:
            new_action, log_prob = squashed_gaussian(self.actor_net(self.actor.named, observation), noise[1])
            value, _ = self._returns(self.critic.frozen, observation, new_action)
            gradients["actor"] = self.actor.gradient((weight * (temperature * log_prob - value.amin(0))).mean())
            surplus = -log_prob.detach() - self.target_entropy  # of entropy, [S]
            gradients["log_temperature"] = temperature * (weight * surplus).mean()  # ∂J_α/∂log α = J_α
        return gradients, metrics, error, spread

    def policy_weights(self) -> Weights:
        """See ``actor_weights``; the layers are ``<i>/weight`` [in, out] and ``<i>/bias`` [out]."""
        return actor_weights(self.actor, self.optimizer.updates)

    def state(self) -> dict[str, Any]:
        """See ``Optimized.state``."""
        return super().state() | {"spread": self.spread.to("cpu", copy=True)}

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Optimized.load_state``."""
        super().load_state(state)
        self.spread = state["spread"].to(self.device, copy=True)

    def _stepped(self) -> None:
        super()._stepped()
        self.spread = self._next_spread.clone()  # which is valid until the next gradients

    def _returns(self, critic: dict[str, Tensor], observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the soft return, [2, S] each."""
        outputs = self.critic_net(critic, torch.cat([observation, action], 1))
        return outputs[..., 0], softplus(outputs[..., 1])
