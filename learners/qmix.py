"""Sample batches of a team's steps flow in, gradients of VDN's or QMIX's networks flow out, and back in to be applied.

With q_a(o_a, u) the agents' network, Q_tot their mix (``distrl.learners.mixing``), q̄_a and Q̄_tot those of the target
networks, R and d the batch's n-step reward and discount, o' and s' what follows:

    u'_a = argmax_{u allowed} q_a(o'_a, u)                      van Hasselt et al. 2016, arXiv 1509.06461, equation 4
    y    = R + d · Q̄_tot(q̄_1(o'_1, u'_1), …; s')                Rashid et al. 2018, arXiv 1803.11485, equation 6
    J    = mean ½ (Q_tot(q_1(o_1, u_1), …; s) − y)²

Where the batch has weights, each sample's part is multiplied by its own before the mean. The value of an agent that
does not live is zero. The agents have no memory: the papers' networks are recurrent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Observation, Weights
from distrl.learners.device import to_device
from distrl.learners.graphs import Captured
from distrl.learners.inputs import MASK, STATE
from distrl.learners.mixing import Mixer, MonotonicMixer, SumMixer, part_of
from distrl.learners.networks import MLP, FlatParameters
from distrl.learners.optimized import Optimized
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.qmix_config import QMIX as QMIXConfig
from distrl.learners.qmix_config import VDN as Config
from distrl.learners.replay import SampleBatch
from distrl.learners.team_policies import ALIVE, OBSERVATION, team_inputs
from distrl.learners.value_policies import EPSILON


class Seen(NamedTuple):
    """Of S observations of A agents.

    Attributes:
        inputs: float32 [S · A, D], of the agents' network. lives: [S, A], 1 or 0. state: [S, K], or None.
        allowed: [S, A, n], zero for what an agent must not do; None: all is allowed.
    """

    inputs: Tensor
    lives: Tensor
    state: Tensor | None
    allowed: Tensor | None


class QMIX(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters; a ``VDN`` that is no ``QMIX`` adds the values up.
        env_spec: of a team (distrl.envs.multi_agent.team).
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vector "parameters". env_steps: of the run, as far as it has been seen.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config = config
        self.device = torch.device(device)
        self.env_steps = 0
        self._team = team = config.team(env_spec)
        self._policy_spec = config.policy_spec(env_spec)
        self._lowest = torch.tensor(team.lowest, device=self.device)
        self._agent = MLP((team.size + team.num_agents * config.agent_id, *config.hidden, team.num_choices))
        self._mixer: Mixer = SumMixer()
        if isinstance(config, QMIXConfig):
            self._mixer = MonotonicMixer(team.num_agents, team.state_size, config.mixer_size, config.hypernetwork_size)
        generator = torch.Generator().manual_seed(seed)
        parts = {"agent": self._agent.initial(generator), "mixer": self._mixer.initial(generator)}
        initial = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
        self.parameters = FlatParameters(initial, self.device)
        rule = Rule(config.learning_rate, max_gradient_norm=config.max_gradient_norm, tau=config.tau)
        trained = Trained(self.parameters.flat, rule)
        assert trained.target is not None
        self._target = self.parameters.split(trained.target)  # of the target networks
        self.optimizer = Optimizer({"parameters": trained})
        self._computed = Captured(self._compute, self.device)

    @property
    def epsilon(self) -> float:
        """Share of random actions that env workers are to take now."""
        first, last = self.config.initial_epsilon, self.config.final_epsilon
        return first + (last - first) * min(1.0, self.env_steps / self.config.epsilon_steps)

    def gradients(self, batch: SampleBatch, rng: torch.Generator | None = None) -> tuple[Gradients, dict[str, Any]]:
        """The loss's gradient, and metrics (reading one waits for a GPU: do it seldom); on a GPU both are valid until
        the next call.

        Args:
            batch: S steps of the team.
            rng: nothing is drawn.
        """
        tensors = to_device([batch.action, batch.reward, batch.discount, batch.weights()], self.device)
        found = self._computed(*tensors, self._seen(batch.observation), self._seen(batch.next_observation))
        gradients, metrics, batch.error = found
        self.env_steps = max(self.env_steps, int(batch.number.max()) + 1)
        return gradients, metrics | {"epsilon": self.epsilon}

    def _compute(
        self, action: Tensor, reward: Tensor, discount: Tensor, weight: Tensor, before: Seen, after: Seen
    ) -> tuple[Gradients, dict[str, Tensor], Tensor]:
        """``gradients`` of the batch's parts, and the sizes of the errors, [S]."""
        with torch.no_grad():
            values = self._values(self.parameters.frozen, after)
            if after.allowed is not None:
                values = values.masked_fill(after.allowed == 0, -torch.inf)
            next_value = self._mixed(self._target, after, self._values(self._target, after), values.argmax(2))
            target = self.config.reward_scale * reward + discount * next_value

        named = self.parameters.named
        value = self._mixed(named, before, self._values(named, before), action.long() - self._lowest)
        loss = 0.5 * (weight * (value - target).square()).mean()
        metrics = {"loss": loss.detach(), "value_mean": value.detach().mean()}
        return {"parameters": self.parameters.gradient(loss)}, metrics, (value.detach() - target).abs()

    def policy_weights(self) -> Weights:
        """``agent/<i>/weight`` float32 [in, out], ``agent/<i>/bias`` float32 [out], ``epsilon`` float32 []; one copy
        from the device."""
        host = self.parameters.split(self.parameters.flat.to("cpu", copy=True))
        weights = {name: view.numpy() for name, view in host.items() if name.startswith("agent/")}
        weights[EPSILON] = np.array(self.epsilon, np.float32)
        return weights

    def state(self) -> dict[str, Any]:
        """See ``Optimized.state``."""
        return super().state() | {"env_steps": self.env_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Optimized.load_state``."""
        super().load_state(state)
        self.env_steps = int(state["env_steps"])

    def _seen(self, observation: Observation) -> Seen:
        """On the device."""
        team, size = self._team, len(observation[ALIVE])
        parts = [team_inputs(observation[OBSERVATION], self.config.agent_id), observation[ALIVE]]
        if team.state_size:
            parts.append(observation[STATE].reshape(size, -1))
        if MASK in observation:
            parts.append(observation[MASK].reshape(size, team.num_agents, team.num_choices))
        inputs, lives, *more = to_device(parts, self.device)
        state = more.pop(0) if team.state_size else None
        return Seen(inputs, lives, state, more[0] if more else None)

    def _values(self, named: dict[str, Tensor], seen: Seen) -> Tensor:
        """q_a(o_a, ·), [S, A, n]."""
        values = self._agent(part_of(named, "agent"), seen.inputs)
        return values.view(-1, self._team.num_agents, self._team.num_choices)

    def _mixed(self, named: dict[str, Tensor], seen: Seen, values: Tensor, action: Tensor) -> Tensor:
        """Q_tot of an action [S, A] of the agents, [S]."""
        chosen = values.gather(2, action.unsqueeze(2)).squeeze(2) * seen.lives
        return self._mixer(part_of(named, "mixer"), chosen, seen.state)
