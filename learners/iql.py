"""Sample batches of logged transitions flow in, gradients of values, critics and policy flow out, and back in.

Implicit Q-learning: Kostrikov et al. 2021, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv 2110.06169.
With V the value, Q₁ and Q₂ the critics, Q̄ the target networks, R and d the batch's n-step reward and discount, o' what
follows, a the action that was logged:

    u   = min_i Q̄_i(o, a) − V(o)
    J_V = mean |τ − 1(u < 0)| u²                          equation 5, the expectile τ
    J_Q = Σ_i mean (R + d · V(o') − Q_i(o, a))²           equation 6
    J_π = −mean min(exp(β u), w̄) log π(a|o)               equation 7, advantage-weighted regression

Where the batch has weights, each sample's part is multiplied by its own before the mean.

Every loss is taken at the same parameters (in the paper's algorithm 1 the value steps first), so that a gradient can be
computed in one process and applied in another. The weight's limit w̄, one learning rate for all networks, and π's
standard deviation being the same for all observations are those of the authors' implementation; its cosine schedule of
the policy's learning rate is left out. Discrete actions enter the critics one-hot.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.cloned_actor import ClonedActor
from distrl.learners.device import to_device
from distrl.learners.graphs import Captured
from distrl.learners.inputs import flat_inputs, input_layout, input_size
from distrl.learners.networks import MLP, FlatParameters
from distrl.learners.offline_config import IQL as Config
from distrl.learners.optimized import Optimized
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch


class IQL(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with Boxes, Discrete, MultiDiscrete or MultiBinary to observe and one of them to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor", "value" and "critic".
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self._policy_spec = config.policy_spec(env_spec)
        observed = env_spec.observation_space
        self._layout = input_layout(observed, has_mask="choices" in self._policy_spec.kwargs["actions"])
        size = input_size(observed, self._layout)
        generator = torch.Generator().manual_seed(seed)
        self.actor = ClonedActor(env_spec, self._policy_spec, config.hidden, self.device, generator)
        self._value_net = MLP((size, *config.hidden, 1))
        self._critic_net = MLP((size + self.actor.num_encoded, *config.hidden, 1), ensemble=2)
        self.value = FlatParameters(self._value_net.initial(generator), self.device)
        self.critic = FlatParameters(self._critic_net.initial(generator), self.device)
        rule = Rule(config.learning_rate)
        critic = Trained(self.critic.flat, replace(rule, tau=config.tau))
        assert critic.target is not None
        self._target = self.critic.split(critic.target)  # of the target networks
        self.optimizer = Optimizer(
            {
                "actor": Trained(self.actor.parameters.flat, rule),
                "value": Trained(self.value.flat, rule),
                "critic": critic,
            }
        )
        self._computed = Captured(self._compute, self.device)

    def gradients(self, batch: SampleBatch, rng: torch.Generator | None = None) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the three losses, and metrics (reading one waits for a GPU: do it seldom); on a GPU both are
        valid until the next call.

        Args:
            rng: nothing is drawn.
        """
        seen = [flat_inputs(part, self._layout) for part in (batch.observation, batch.next_observation)]
        tensors = to_device([*seen, batch.reward, batch.discount, batch.weights()], self.device)
        allowed, action = self.actor.allowed(batch.observation), self.actor.actions(batch.action)
        found = self._computed(allowed, action, self.actor.encoded(action), *tensors)
        gradients, metrics, batch.error = found
        return gradients, metrics

    def _compute(
        self,
        allowed: Tensor | None,
        action: Tensor,
        encoded: Tensor,
        inputs: Tensor,
        following: Tensor,
        reward: Tensor,
        discount: Tensor,
        counts: Tensor,
    ) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the mean size of the critics' errors, [S].

        Args:
            allowed, action, encoded: see ``ClonedActor``. inputs, following: o and o', [S, D]. counts: [S].
        """
        config = self.config
        judged = torch.cat([inputs, encoded], 1)
        with torch.no_grad():
            least = self._critic_net(self._target, judged).squeeze(-1).amin(0)
            next_value = self._value_net(self.value.frozen, following).squeeze(-1)
            target = config.reward_scale * reward + discount * next_value

        value = self._value_net(self.value.named, inputs).squeeze(-1)
        better = least - value
        side = (config.expectile - (better.detach() < 0).float()).abs()
        value_loss = (counts * side * better.square()).mean()
        values = self._critic_net(self.critic.named, judged).squeeze(-1)  # [2, S]
        critic_loss = (counts * (target - values).square()).mean(1).sum()

        weight = (config.inverse_temperature * better.detach()).exp().clamp(max=config.max_weight)
        seen = inputs[:, : self.actor.num_inputs]  # all but the state that only critics see, which is last
        actor_gradient, log_prob, entropy = self.actor.gradient(seen, allowed, action, counts * weight)
        gradients = {
            "actor": actor_gradient,
            "value": self.value.gradient(value_loss),
            "critic": self.critic.gradient(critic_loss),
        }
        metrics = {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": -(counts * weight * log_prob).mean(),
            "value_mean": value.detach().mean(),
            "weight_mean": weight.mean(),
            "entropy": entropy.mean(),
        }
        return gradients, metrics, (target - values.detach()).abs().mean(0)

    def policy_weights(self) -> Weights:
        """See ``ClonedActor.weights``."""
        return self.actor.weights()

    def _stepped(self) -> None:
        super()._stepped()
        self.actor.limit()
