"""Sample batches of a team's steps flow in, gradients of actor, critics and temperature flow out: SAC for teams.

The losses are those of ``distrl.learners.sac``; actor and critics are others. All agents act by one squashed Gaussian,
each on its own observation o_a and on which agent it is; the critics value what they do together:

    π(u|o) = Π_a π(u_a|o_a) over the agents a that live,     Q_i(s, u_1, …, u_A)

Critics that see everything beside actors that do not are those of Lowe et al. 2017, MADDPG, arXiv 1706.02275; but here
there is one value for the team, whose reward all share, and the actor's loss draws what all agents do anew, as in Peng
et al. 2021, FACMAC, arXiv 2003.06709. s is the global state where there is one, else all observations; beside it is who
lives.

In the place of an agent that does not live the critics see zeros, whatever its action is: so it has no gradient. Nor
has its entropy: the temperature keeps that of those who live.
"""

from __future__ import annotations

import numpy as np

from distrl.core.types import EnvSpec, Observation
from distrl.learners.inputs import STATE
from distrl.learners.masac_config import Config
from distrl.learners.networks import MLP
from distrl.learners.sac import SAC
from distrl.learners.team_policies import ALIVE, OBSERVATION, team_inputs, team_of


class MASAC(SAC):
    """Implements ``distrl.core.contracts.Algorithm``; see ``SAC``.

    Args:
        config: hyperparameters.
        env_spec: of a team (distrl.envs.multi_agent.team) with a bounded Box of floats to act in.

    Attributes:
        target_entropy: of each agent that lives.
    """

    config: Config

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self._team = team_of(env_spec, "MASAC")
        super().__init__(config, env_spec, device, seed)
        if config.target_entropy == "auto":
            self.target_entropy /= self._team.num_agents

    def _networks(self) -> tuple[MLP, MLP]:
        team, num_actions, hidden = self._team, len(self._center), self.config.hidden
        own = team.size + team.num_agents * self.config.agent_id
        together = team.state_size or team.num_agents * team.size
        actor = MLP((own, *hidden, 2 * num_actions // team.num_agents))
        return actor, MLP((together + team.num_agents + num_actions, *hidden, self._loss.num_outputs), ensemble=2)

    def _seen(self, observation: Observation) -> tuple[np.ndarray, ...]:
        own, lives = observation[OBSERVATION], observation[ALIVE]
        together = (observation[STATE] if self._team.state_size else own).reshape(len(lives), -1)
        return team_inputs(own, self.config.agent_id), np.concatenate([together, lives], 1), lives
