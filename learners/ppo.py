"""A rollout flows in, minibatches of it and their gradients flow out, and back in to be applied: PPO, APPO and IMPALA.

Once for each rollout, at the parameters it begins with, advantages A and value targets R are computed
(``distrl.learners.returns``); then each minibatch is a gradient of

    mean(−c J) + value_cost · mean(½ c (V(o) − R)²) − entropy_cost · mean(c H(π(·|o)))

with c what the transition counts (``Rollout.weight``), r = π(a|o) / π_old(a|o) and one of

    clipped           J = w · min(r A, clip(r, 1 − ε, 1 + ε) A)     Schulman et al. 2017, arXiv 1707.06347, equation 7
    policy_gradient   ∇J = min(ρ̄, r) · A · ∇ log π(a|o)             Espeholt et al. 2018, arXiv 1802.01561, section 4.2
    tapered           ∇J = A · ∇ log π(a|o) where A ≥ 0,            Le Roux et al. 2025, arXiv 2503.14286 (TOPR; theirs
                           min(1, r) · A · ∇ log π(a|o) elsewhere   are whole trajectories, and A their returns)

π_old is the behaviour policy μ and w = 1; where ``decoupled``, π_old is the policy that the rollout begins with and
w = min(ρ̄, π_old(a|o) / μ(a|o)) (AReaL, arXiv 2505.24298, section 5.2; after Hilton et al. 2022, arXiv 2110.00641).

With a ``central_critic``, V(o, s) sees the global state s as well, π(·|o) does not: MAPPO, Yu et al. 2022, arXiv
2103.01955. What V sees is their agent-specific global state: the agent's own observation beside the state of all.

Details that the papers leave open are CleanRL's, numbered as in Huang et al. 2022, "The 37 Implementation Details of
Proximal Policy Optimization".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distrl.core.errors import ConfigError, RunFailed
from distrl.core.types import EnvSpec, PolicySpec, Weights
from distrl.learners.actor_critic import ActorCritic, Inputs, Network
from distrl.learners.actor_policies import MEMORY, MOMENTS, OBSERVATION_LIMIT, action_units
from distrl.learners.bonus import Bonus, with_bonus
from distrl.learners.distributions import Categorical, Distribution, Gaussian
from distrl.learners.graphs import Captured
from distrl.learners.inputs import MASK, flat_inputs, image_paths, input_layout, input_size
from distrl.learners.moments import RewardScale, RunningMoments
from distrl.learners.networks import FlatParameters
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.recurrent import Memory, RecurrentLayer
from distrl.learners.returns import gae, next_values, vtrace
from distrl.learners.rollout import Rollout
from distrl.learners.shared_network import SharedActorCritic, TanhEncoder
from distrl.learners.together import Together


class Minibatch(NamedTuple):
    """S transitions.

    Attributes:
        inputs: of the networks, [S, …] each. action: [k, S]. allowed: bool [A, S], or None.
        log_prob: float32 [S], of π_old. weight, counts: w and c, float32 [S], or None for 1.
        advantage, target: float32 [S]. value: float32 [S], the critic's before the rollout.
        memory: of a recurrent network, whose S transitions are whole rows, time by time; else None.
    """

    inputs: Inputs
    action: Tensor
    allowed: Tensor | None
    log_prob: Tensor
    weight: Tensor | None
    counts: Tensor | None
    advantage: Tensor
    target: Tensor
    value: Tensor
    memory: Memory | None

    def select(self, chosen: Tensor) -> Minibatch:
        """Some of the transitions, by number; where there is memory, some of the rows."""
        memory, index = None, chosen
        if self.memory is not None:
            memory = Memory(*(part.index_select(1, chosen) for part in self.memory))
            num_steps, num_rows = memory.given.shape[0], self.memory.given.shape[1]
            index = (torch.arange(num_steps, device=chosen.device).unsqueeze(1) * num_rows + chosen).reshape(-1)
        return Minibatch(
            tuple(part.index_select(0, index) for part in self.inputs),
            self.action.index_select(1, index),
            None if self.allowed is None else self.allowed.index_select(1, index),
            self.log_prob.index_select(0, index),
            None if self.weight is None else self.weight.index_select(0, index),
            None if self.counts is None else self.counts.index_select(0, index),
            self.advantage.index_select(0, index),
            self.target.index_select(0, index),
            self.value.index_select(0, index),
            memory,
        )


class PPO:
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

        for minibatch in algorithm.minibatches(rollout, rng):
            gradients, metrics = algorithm.gradients(minibatch, rng)
            algorithm.apply(gradients)

    Args:
        config: hyperparameters.
        env_spec: with Boxes, Discrete, MultiDiscrete or MultiBinary to observe and one of them to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vector "parameters", and "bonus" where there is one. transitions: of the rollouts so far.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config = config
        self.device = torch.device(device)
        self.transitions = 0
        self._policy_spec = config.policy_spec(env_spec)
        self._distribution, self.network = self._parts(env_spec, seed)
        generator = torch.Generator().manual_seed(seed)
        initial = self.network.initial(generator) | self._distribution.initial()
        self.parameters = FlatParameters(initial, self.device)
        rule = Rule(config.learning_rate, epsilon=1e-5, max_gradient_norm=config.max_gradient_norm)  # details 3 and 11
        self._bonus = None if config.bonus is None else Bonus(config.bonus, self._num_flat, self.device, seed + 1)
        self.optimizer = Optimizer(with_bonus({"parameters": Trained(self.parameters.flat, rule)}, self._bonus))
        self._rate = 1.0
        self._moments = RunningMoments(self._num_flat) if config.normalize_observations else None
        self._reward_scale = RewardScale(config.gamma) if config.scale_rewards else None
        self._computed = Captured(self._compute, self.device)
        self._explained = torch.zeros((), device=self.device)
        self._kl = torch.zeros((), device=self.device)  # of the newest minibatch

    def minibatches(self, rollout: Rollout, rng: torch.Generator) -> Iterator[Minibatch]:
        """What a rollout is trained on, minibatch after minibatch; each is to be applied before the next is drawn.

        Taking the first one counts the rollout, and moves the running moments of observations and rewards.

        Args:
            rng: on the algorithm's device; decides the order (detail 6).

        Raises:
            ConfigError: a recurrent network needs more rows. RunFailed: the networks have become infinite.
        """
        number = rollout.reward.shape[1] if self.network.recurrent else rollout.reward.size
        if number < self.config.minibatches:
            raise ConfigError(
                f"a policy with memory is trained on whole rows: algorithm.minibatches ({self.config.minibatches}) "
                f"must not exceed the rollout's {number}, algorithm.batch_size / actors.fragment_steps"
            )
        transitions, minibatches = self._begin(rollout), self.config.minibatches
        if not self.network.recurrent and (left := len(transitions.advantage)) < number:  # as large, but fewer
            number, minibatches = left, -(-left * minibatches // number)
        for _ in range(self.config.epochs if number else 0):
            order = torch.randperm(number, generator=rng, device=self.device)
            for chosen in order.tensor_split(minibatches):
                yield transitions.select(chosen)
            if self.config.target_kl is not None:  # detail 12
                together = self.optimizer.together
                if float(together.sum(self._kl)) > self.config.target_kl * together.size:
                    return

    def gradients(self, batch: Minibatch, rng: torch.Generator | None = None) -> tuple[Gradients, dict[str, Tensor]]:
        """The loss's gradient, and metrics as tensors of one element (reading one waits for a GPU: do it seldom); on a
        GPU both are valid until the next call.

        Args:
            rng: on the algorithm's device; for a bonus alone.
        """
        # what is common to learners in step goes through the host
        compute = self._computed if self.optimizer.together.size == 1 else self._compute
        gradients, metrics = compute(batch)
        self._kl = metrics["approx_kl"]
        if self._bonus is not None:
            assert rng is not None
            gradients = gradients | {"bonus": self._bonus.gradient(batch.inputs[0], rng)}
        return gradients, metrics | {"explained_variance": self._explained}

    def _compute(self, batch: Minibatch) -> tuple[Gradients, dict[str, Tensor]]:
        config, named, size = self.config, self.parameters.frozen, len(batch.advantage)
        outputs, value, context = self.network.forward(self.parameters, batch.inputs, batch.memory)
        log_prob, entropy, drawn = self._distribution.forward(named, outputs, batch.action, batch.allowed)

        advantage = batch.advantage
        if config.normalize_advantages and size > 1:  # detail 7
            std, mean = _std_mean(advantage, self.optimizer.together)
            advantage = (advantage - mean) / (std + 1e-8)
        log_ratio = log_prob - batch.log_prob
        ratio = log_ratio.exp()
        beyond = (ratio - 1.0).abs() > config.clip
        if config.surrogate == "clipped":  # detail 8
            gain = ratio * advantage
            least = torch.minimum(gain, ratio.clamp(1.0 - config.clip, 1.0 + config.clip) * advantage)
            d_log_prob = torch.where(gain <= least, gain, 0.0)
            if batch.weight is not None:
                d_log_prob, least = d_log_prob * batch.weight, least * batch.weight
        elif config.surrogate == "policy_gradient":
            d_log_prob = least = ratio.clamp(max=config.rho_max) * advantage
        else:
            d_log_prob = least = torch.where(advantage < 0, ratio.clamp(max=1.0), 1.0) * advantage

        error = value - batch.target
        d_value = error
        if config.value_clip is not None:  # detail 9
            change = value - batch.value
            clipped = batch.value + change.clamp(-config.value_clip, config.value_clip) - batch.target
            d_value = torch.where(error.square() >= clipped.square(), error, 0.0)
            d_value = torch.where(change.abs() < config.value_clip, error, d_value)
            error = torch.maximum(error.abs(), clipped.abs())

        gradients: dict[str, Tensor] = {}
        share = 1.0 / size if batch.counts is None else batch.counts / size
        d_entropy = torch.full_like(entropy, -config.entropy_cost).mul_(share)
        d_outputs = self._distribution.backward(drawn, d_log_prob.mul(-share), d_entropy, gradients)
        self.network.backward(self.parameters, context, d_outputs, d_value.mul(config.value_cost * share), gradients)
        metrics = {
            "policy_loss": -(least.mean() if batch.counts is None else torch.dot(least, batch.counts) / size),
            "value_loss": torch.dot(error, error * share) * 0.5,
            "entropy": entropy.mean(),
            # detail 12; Schulman 2020, "Approximating KL Divergence", k3
            "approx_kl": (ratio - 1.0 - log_ratio).mean(),
            "clip_share": beyond.float().mean(),
        }
        return {"parameters": self.parameters.join(gradients)}, metrics

    def apply(self, gradients: Gradients) -> None:
        """One step of Adam."""
        self.optimizer.step(gradients, self._rate)

    def _begin(self, rollout: Rollout) -> Minibatch:
        """Everything that is computed once for a rollout; its T · N transitions, time by time, or some of them."""
        config, together = self.config, self.optimizer.together
        num_steps, num_rows = rollout.reward.shape
        size = num_steps * num_rows
        if config.anneal_steps is not None:  # detail 4
            self._rate = max(0.0, 1.0 - self.transitions / config.anneal_steps)
        self.transitions += size

        reward = rollout.reward
        if self._reward_scale is not None:
            ended = rollout.terminated | rollout.truncated
            reward = self._reward_scale.scale(reward, ended, rollout.is_first, rollout.row, together)
        inputs, final = self._inputs(rollout)
        index = torch.from_numpy(rollout.final_index.astype(np.int64)).to(self.device)
        memory = self._memory(rollout)
        corrects = config.advantages == "vtrace" or config.decoupled
        outputs, value, final_value = self.network.evaluate(self.parameters, inputs, final, index, memory, corrects)
        if not bool(value.isfinite().all()):
            raise RunFailed(
                f"the networks are not finite after {self.optimizer.updates} updates: lower "
                "algorithm.learning_rate, or set algorithm.normalize_observations and algorithm.scale_rewards"
            )
        value = value.view(num_steps + 1, num_rows)
        rewards = self._tensor(reward)
        if self._bonus is not None:
            following = inputs[0].view(num_steps + 1, num_rows, -1)[1:].clone()
            following[index[:, 0], index[:, 1]] = final[0]
            rewards = rewards + self._bonus.rollout_rewards(following, rollout.is_first[:-1], rollout.row, together)
        steps = (
            rewards,
            value[:-1],
            next_values(value, final_value, index),
            self._tensor(rollout.terminated),
            self._tensor(rollout.truncated),
        )
        action = self._distribution.actions(rollout.action.reshape(size, *rollout.action.shape[2:]), self.device)
        allowed = self._allowed(rollout, size)
        log_prob, weight = self._tensor(rollout.log_prob).reshape(size), None
        if outputs is not None:
            newest, _, _ = self._distribution.forward(self.parameters.frozen, outputs[:, :size], action, allowed)
            ratio = (newest - log_prob).exp()
            if config.decoupled:
                log_prob, weight = newest, ratio.clamp(max=config.rho_max)
        if config.advantages == "vtrace":
            ratio = ratio.view(num_steps, num_rows)
            target, advantage = vtrace(*steps, ratio, config.gamma, config.gae_lambda, config.rho_max, config.c_max)
        else:  # detail 5
            advantage = gae(*steps, config.gamma, config.gae_lambda)
            target = advantage + value[:-1]
        self._explained = 1.0 - (target - value[:-1]).var() / (target.var() + 1e-8)
        return Minibatch(
            tuple(part[:size] for part in inputs),
            action,
            allowed,
            log_prob,
            weight,
            None if rollout.weight is None else self._tensor(rollout.weight).reshape(size),
            advantage.reshape(size),
            target.reshape(size),
            value[:-1].reshape(size),
            memory and Memory(memory.given[:-1], memory.state[:-1]),
        )

    def _parts(self, env_spec: EnvSpec, seed: int) -> tuple[Distribution, Network]:
        """What the actions are drawn from, and what it follows from."""
        recipe = self._policy_spec.kwargs
        actions, network = recipe["actions"], recipe["network"]
        self._layout = input_layout(env_spec.observation_space, has_mask="choices" in actions)
        self._images = image_paths(self._layout)
        self._num_flat = input_size(env_spec.observation_space, self._layout)
        self._num_seen = input_size(env_spec.observation_space, network["inputs"])  # by the actor
        if "choices" in actions:
            distribution: Distribution = Categorical(actions["choices"], actions["lowest"])
        else:
            center, half = action_units(env_spec.action_space.low, env_spec.action_space.high)
            distribution = Gaussian(center, half, self.config.initial_log_std)
        return distribution, self._network(network, distribution.num_outputs)

    def _network(self, recipe: Mapping[str, Any], num_outputs: int) -> Network:
        memory = recipe["memory"]
        if self._images:
            from distrl.learners.images import shared_network

            return shared_network(recipe, num_outputs)
        if memory is not None:
            layer, hidden = RecurrentLayer(*memory), self.config.hidden
            central = (
                TanhEncoder((self._num_flat + layer.size, *hidden), "critic") if self.config.central_critic else None
            )
            return SharedActorCritic(TanhEncoder((self._num_seen, *hidden)), layer, num_outputs, central)
        return ActorCritic(self._num_flat, self._num_seen, num_outputs, self.config.hidden)

    def _inputs(self, rollout: Rollout) -> tuple[Inputs, Inputs]:
        """Observations, time by time, as the networks take them, and the final ones [K, …]."""
        ordered = {path: array.reshape(-1, *array.shape[2:]) for path, array in rollout.observation.items()}
        parts = [[self._tensor(found[path]) for path in self._images] for found in (ordered, rollout.final_observation)]
        if self._num_flat:
            flat, final = (flat_inputs(found, self._layout) for found in (ordered, rollout.final_observation))
            if self._moments is not None:
                self._moments.add(flat[: rollout.reward.size], self.optimizer.together)
            for part, array in zip(parts, (flat, final), strict=True):
                part.insert(0, self._normalised(array))
        return tuple(parts[0]), tuple(parts[1])

    def _memory(self, rollout: Rollout) -> Memory | None:
        if not self.network.recurrent:
            return None
        given, state = rollout.is_first.copy(), rollout.state[MEMORY]
        given[0], given[-1] = True, False  # the bootstrap row's own state is not stored …
        state = np.concatenate([state, np.zeros_like(state[:1])])  # … and only asked for where no episode has ended
        return Memory(self._tensor(given), self._tensor(state))

    def _normalised(self, flat: np.ndarray) -> Tensor:
        inputs = self._tensor(flat)
        if self._moments is None:
            return inputs
        mean, std = (self._tensor(part.astype(np.float32)) for part in (self._moments.mean, self._moments.std))
        return (inputs - mean).mul_(1.0 / std).clamp_(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)

    def _allowed(self, rollout: Rollout, size: int) -> Tensor | None:
        mask = rollout.observation.get(MASK)
        if mask is None or not isinstance(self._distribution, Categorical):
            return None
        flat = mask[:-1].reshape(size, -1).astype(bool, copy=False)
        return torch.from_numpy(np.ascontiguousarray(flat.T)).to(self.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        # what came through Ray's object store cannot be written to, which torch warns about
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def policy_spec(self) -> PolicySpec:
        """See ``Config.policy_spec``."""
        return self._policy_spec

    def policy_weights(self) -> Weights:
        """What ``distrl.learners.actor_policies`` load: the actor's layers, ``log_std`` of a Gaussian, and the running
        moments of the observations; one copy from the device."""
        host = self.parameters.flat.to("cpu", copy=True)
        weights = {
            name: view.numpy() for name, view in self.parameters.split(host).items() if not name.startswith("critic/")
        }
        if self._moments is not None:
            for name, moment in (("mean", self._moments.mean), ("std", self._moments.std)):
                weights[f"{MOMENTS}/{name}"] = moment[: self._num_seen].astype(np.float32)
        return weights

    def state(self) -> dict[str, Any]:
        """Everything that an update reads or writes: tensors are copied to the CPU."""
        return {
            "optimizer": self.optimizer.state(),
            "transitions": self.transitions,
            "observation_moments": self._moments and self._moments.state(),
            "reward_scale": self._reward_scale and self._reward_scale.state(),
            "bonus": self._bonus and self._bonus.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: the state is of other networks, or with other options of normalisation.
        """
        parts = {"observation_moments": self._moments, "reward_scale": self._reward_scale, "bonus": self._bonus}
        for name, part in parts.items():
            if (part is None) != (state.get(name) is None):
                has = "none" if state.get(name) is None else "some"
                raise ValueError(f"the state has {has} of {name!r}: use the options that it was trained with")
        self.optimizer.load_state(state.get("optimizer", {}))
        for name, part in parts.items():
            if part is not None:
                part.load_state(state[name])
        self.transitions = int(state["transitions"])


def _std_mean(values: Tensor, together: Together) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of all learners' values [S]."""
    if together.size == 1:
        return torch.std_mean(values)
    mean = together.sum(values.mean()) / together.size
    square = together.sum((values - mean).square().sum()) / (together.size * len(values) - 1)
    return square.sqrt(), mean
