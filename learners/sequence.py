"""Sample batches flow in, gradients of actor, critics, model and temperature flow out, and back in to be applied.

An actor that answers one observation with the actions of J steps: Patel & Siegelmann 2024, "Overcoming Slow Decision
Frequencies in Continuous Control: Model-Based Sequence Reinforcement Learning for Model-Free Control", arXiv
2410.08979. From the paper: the actor is recurrent and unrolls its actions from one state; critics judge single steps;
a model of the environment, used in training alone, says in which states the later actions will be done ("temporal
recall"). With π_k the density of action k given o and the actions before it, f the model, Q the critics, Q̄ their target
networks, α the temperature, actions scaled to [−1, 1] inside, r and d the batch's reward and discount, ã_k ~ π_k:

    J_f = mean ½ |o + f(o, a) − o'|²                        over transitions that do not terminate
    y   = r + d · (min_i Q̄_i(o', a') − α log π_0(a'|o'))     a' ~ π_0(·|o')
    J_Q = Σ_i mean ½ (Q_i(o, a) − y)²
    õ_0 = o,  õ_{k+1} = õ_k + f(õ_k, ã_k)
    J_π = Σ_{k<J} mean (α log π_k(ã_k) − min_i Q_i(õ_k, ã_k))
    J_α = mean_{k<J} mean (−α log π_k(ã_k) − α H̄)

Decisions of ours, where the paper leaves it open or may do otherwise:

- f says by how much the observation changes. It knows no end of an episode: õ goes on behind one.
- No gradient runs through õ_k, nor through the earlier actions that π_k is given: Q already counts what an action leads
  to, and would be counted twice.
- Values are those of looking at every step: y takes the first action of a new sequence.
- π_k is a squashed Gaussian. The state of its gated recurrent unit begins as the tanh of the embedded observation; its
  input is the action before, at first zeros: so a later action can make up for an earlier one's noise.
- H̄ is the entropy of one action.

Where the batch has weights, each sample's part is multiplied by its own before the mean. Every loss is taken at the
same parameters, so that a gradient can be computed in one process and applied in another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.box_batches import BoxBatches, Tensors
from distrl.learners.graphs import Captured
from distrl.learners.hl_gauss import value_loss
from distrl.learners.networks import MLP, FlatParameters, squashed_gaussian
from distrl.learners.optimized import Optimized, actor_weights
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.recurrent import RecurrentLayer
from distrl.learners.replay import SampleBatch
from distrl.learners.sequence_config import Config


class SequenceActor:
    """Linear layers with ReLU between and tanh behind embed the observation, a gated recurrent unit goes on from there.

    Parameters are ``embedding/…`` and ``head/…`` as of an ``MLP``, ``memory/…`` as in ``distrl.learners.recurrent``.

    Args:
        num_inputs: D. hidden: widths of the embedding; the last is the recurrent layer's. num_actions: A.
    """

    def __init__(self, num_inputs: int, hidden: tuple[int, ...], num_actions: int):
        self._num_actions = num_actions
        self._embedding, self._head = MLP((num_inputs, *hidden)), MLP((hidden[-1], 2 * num_actions))
        self._memory = RecurrentLayer("gru", hidden[-1])

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """On the CPU, so that a seed means the same on every device."""
        embedding, head = self._embedding.initial(generator), self._head.initial(generator)
        return {
            **{f"embedding/{name}": part for name, part in embedding.items()},
            **self._memory.initial(self._num_actions, generator),
            **{f"head/{name}": part for name, part in head.items()},
        }

    def unroll(self, named: Mapping[str, Tensor], observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [K, S, A] in [−1, 1] and their log-densities [K, S], each given those before it.

        Args:
            observation: [S, D]. noise: [K, S, A], standard normal.
        """
        h = torch.tanh(self._embedding(_part(named, "embedding/"), observation))
        head, before = _part(named, "head/"), torch.zeros_like(noise[0])
        actions, log_probs = [], []
        for epsilon in noise.unbind():
            h = self._memory.next_state(named, before, h)
            action, log_prob = squashed_gaussian(self._head(head, h), epsilon)
            actions.append(action)
            log_probs.append(log_prob)
            before = action.detach()
        return torch.stack(actions), torch.stack(log_probs)


class SequenceSAC(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vectors "actor", "critic", "model" and "log_temperature", and "bonus" where there is one.
        target_entropy: H̄.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self._policy_spec = config.policy_spec(env_spec)
        self._tensors = BoxBatches(env_spec, "sequence-sac", self.device)
        size, num_actions, hidden = self._tensors.num_inputs, self._tensors.num_actions, config.hidden
        auto = config.target_entropy == "auto"
        self.target_entropy = -float(num_actions) if auto else float(config.target_entropy)
        self.actor_net = SequenceActor(size, hidden, num_actions)
        self._loss = value_loss(config, self.device)
        self.critic_net = MLP((size + num_actions, *hidden, self._loss.num_outputs), ensemble=2)
        self.model_net = MLP((size + num_actions, *hidden, size))
        generator = torch.Generator().manual_seed(seed)
        self.actor, self.critic, self.model = (
            FlatParameters(net.initial(generator), self.device)
            for net in (self.actor_net, self.critic_net, self.model_net)
        )
        self.log_temperature = torch.full((1,), math.log(config.initial_temperature), device=self.device)
        limit = config.max_gradient_norm
        critic = Trained(self.critic.flat, Rule(config.critic_learning_rate, max_gradient_norm=limit, tau=config.tau))
        assert critic.target is not None
        self._target = self.critic.split(critic.target)
        trained = {
            "actor": Trained(self.actor.flat, Rule(config.actor_learning_rate, max_gradient_norm=limit)),
            "critic": critic,
            "model": Trained(self.model.flat, Rule(config.model_learning_rate, max_gradient_norm=limit)),
            "log_temperature": Trained(self.log_temperature, Rule(config.temperature_learning_rate)),
        }
        self._bonus = None if config.bonus is None else Bonus(config.bonus, size, self.device, seed + 1)
        self.optimizer = Optimizer(with_bonus(trained, self._bonus))
        self._computed = Captured(self._compute, self.device)

    def gradients(self, batch: SampleBatch, rng: torch.Generator) -> tuple[Gradients, dict[str, Tensor]]:
        """Gradients of the four losses, and metrics as tensors of one element (reading one waits for a GPU: do it
        seldom); on a GPU both are valid until the next call.

        Args:
            batch: S transitions of one step.
            rng: on the algorithm's device; see ``randomness.update_generator``.
        """
        tensors = self._tensors(batch)
        shape = 1 + self.config.sequence_length, *tensors.action.shape
        noise = torch.randn(shape, generator=rng, device=self.device)
        if self._bonus is not None:
            tensors = tensors._replace(reward=tensors.reward + self._bonus.rewards(tensors.following))
        gradients, metrics, batch.error = self._computed(noise, tensors)
        if self._bonus is not None:
            gradients = gradients | {"bonus": self._bonus.gradient(tensors.following, rng)}
        return gradients, metrics

    def _compute(self, noise: Tensor, tensors: Tensors) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the mean size of the critics' errors, [S].

        Args:
            noise: [1 + J, S, A], for o' and for the J actions from o on.
        """
        observation, action, reward, discount, following, weight = tensors
        action, temperature = self._tensors.scaled(action), self.log_temperature.exp()
        with torch.no_grad():
            next_actions, next_log_probs = self.actor_net.unroll(self.actor.frozen, following, noise[:1])
            next_value = self._values(self._target, following, next_actions[0]).amin(0)
            target = self.config.reward_scale * reward + discount * (next_value - temperature * next_log_probs[0])

        outputs = self._outputs(self.critic.named, observation, action)  # [2, S, m]
        critic_loss = (weight * self._loss.loss(outputs, target)).mean(1).sum()
        values = self._loss.values(outputs.detach())

        change = self.model_net(self.model.named, torch.cat([observation, action], 1))
        # what follows a terminated transition need not have been kept
        missed = torch.where((discount > 0).unsqueeze(1), observation + change - following, 0.0).square().sum(1)
        model_loss = 0.5 * (weight * missed).mean()

        actions, log_probs = self.actor_net.unroll(self.actor.named, observation, noise[1:])  # [J, S, A], [J, S]
        places = self._places(observation, actions.detach())
        least = self._values(self.critic.frozen, places.flatten(0, 1), actions.flatten(0, 1)).amin(0)
        actor_loss = (weight * (temperature * log_probs - least.view_as(log_probs))).mean(1).sum()
        surplus = -log_probs.detach() - self.target_entropy  # of entropy, [J, S]
        gradients = {
            "actor": self.actor.gradient(actor_loss),
            "critic": self.critic.gradient(critic_loss),
            "model": self.model.gradient(model_loss),
            "log_temperature": temperature * (weight * surplus).mean(),  # ∂J_α/∂log α = J_α
        }
        metrics = {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "model_loss": model_loss.detach(),
            "value_mean": values.mean(),
            "temperature": temperature,
            "entropy": -log_probs.detach().mean(),
        }
        return gradients, metrics, (values - target).abs().mean(0)

    def policy_weights(self) -> Weights:
        """See ``actor_weights``; the layers are those of ``SequenceActor``."""
        return actor_weights(self.actor, self.optimizer.updates)

    @torch.no_grad()
    def _places(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Where the model expects each of the actions [J, S, A] to be done, [J, S, D]."""
        places = [observation]
        for action in actions[:-1].unbind():
            here = places[-1]
            places.append(here + self.model_net(self.model.frozen, torch.cat([here, action], 1)))
        return torch.stack(places)

    def _values(self, critic: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """What the critics say of actions, [2, S]."""
        return self._loss.values(self._outputs(critic, observation, action))

    def _outputs(self, critic: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """[2, S, m]."""
        return self.critic_net(critic, torch.cat([observation, action], 1))


def _part(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with it, without it."""
    return {name.removeprefix(prefix): part for name, part in named.items() if name.startswith(prefix)}
