"""Hyperparameters of VDN and QMIX flow in from a run configuration, the algorithm flows out of ``build`` (it loads
torch): one algorithm, two ways to mix the agents' values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from gymnasium import spaces
from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.registry import AlgorithmConfig
from distrl.learners.team_policies import Team, team_of


@dataclass(frozen=True)
class DiscreteTeam(Team):
    """Attributes: num_choices: n, of each. lowest: [A], each one's lowest action. dtype: of the actions."""

    num_choices: int
    lowest: tuple[int, ...]
    dtype: str


class VDN(AlgorithmConfig):
    """Value decomposition networks (Sunehag et al. 2017, arXiv 1706.05296): one value for a team (`env.agents.team`),
    the sum of its agents'; with double Q-learning and n-step returns."""

    tells_errors: ClassVar[bool] = True

    hidden: tuple[Annotated[int, Field(ge=1, le=16384)], ...] = Field(
        default=(128, 128),
        min_length=1,
        max_length=8,
        description="Widths of the hidden layers of the agents' network, which all of them share, with ReLU.",
    )
    agent_id: bool = Field(
        default=True,
        description="Whether the network also sees which agent it acts for, one-hot; without, agents that observe the "
        "same do the same.",
    )
    batch_size: int = Field(
        default=512, ge=1, le=1 << 20, description="Steps of a team in one update; larger is steadier and slower."
    )
    gamma: float = Field(
        default=0.99, ge=0.0, le=1.0, description="Discount per env step; about 1 / (1 − gamma) steps are looked ahead."
    )
    n_step: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Rewards summed before bootstrapping; more spreads rewards faster, but favours past policies.",
    )
    tau: float = Field(
        default=0.005,
        gt=0.0,
        le=1.0,
        description="Share of the networks that the target networks take over per update.",
    )
    learning_rate: float = Field(default=5e-4, gt=0.0, le=1.0, description="Adam's step size.")
    max_gradient_norm: float = Field(default=10.0, gt=0.0, description="Longer gradients are shortened to it.")
    reward_scale: float = Field(
        default=1.0, gt=0.0, le=1e6, description="Factor on rewards inside the loss; brings returns to order 1–10."
    )
    initial_epsilon: float = Field(
        default=1.0, ge=0.0, le=1.0, description="Share of random actions of each agent at the start."
    )
    final_epsilon: float = Field(
        default=0.05, ge=0.0, le=1.0, description="The same after `epsilon_steps`; between, it changes linearly."
    )
    epsilon_steps: int = Field(
        default=50_000, ge=1, description="Env steps, as far as the learner has seen them, after which it stays."
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        team = self.team(env_spec)
        kwargs = {
            "lowest": list(team.lowest),
            "dtype": team.dtype,
            "num_layers": len(self.hidden) + 1,
            "agent_id": self.agent_id,
        }
        return PolicySpec("distrl.learners.team_policies:EpsilonGreedyTeam", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners import qmix

        return qmix.QMIX(self, env_spec, device, seed)

    def team(self, env_spec: EnvSpec) -> DiscreteTeam:
        """What it learns from.

        Raises:
            ConfigError: no team, or actions that are not discrete.
        """
        team, actions = team_of(env_spec, type(self).__name__), env_spec.action_space
        if not isinstance(actions, spaces.MultiDiscrete):
            raise ConfigError(
                f"{type(self).__name__} needs agents with discrete actions; the team's are {actions}: take MASAC"
            )
        return DiscreteTeam(
            **vars(team),
            num_choices=int(actions.nvec[0]),
            lowest=tuple(int(low) for low in actions.start),
            dtype=str(actions.dtype),
        )


class QMIX(VDN):
    """QMIX (Rashid et al. 2018, arXiv 1803.11485): as VDN, but the agents' values are mixed by a network that depends
    on the global state (`env.agents.state`) and never falls where one of them rises."""

    mixer_size: int = Field(default=32, ge=1, le=16384, description="Width of the hidden layer of the mixing network.")
    hypernetwork_size: int = Field(
        default=64,
        ge=1,
        le=16384,
        description="Width of the hidden layer of the networks that make its weights from the state.",
    )

    def team(self, env_spec: EnvSpec) -> DiscreteTeam:
        """See ``VDN.team``."""
        team = super().team(env_spec)
        if not team.state_size:
            raise ConfigError(
                f"QMIX needs a global state to mix the agents' values by; {env_spec.id} has none: set "
                'env.agents.state to "env" or "joint", or take VDN'
            )
        return team
