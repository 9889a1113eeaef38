"""Hyperparameters of the algorithms for logged data flow in from a run configuration, the algorithm flows out of
``build`` (it loads torch): behaviour cloning, and implicit Q-learning.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.actor_recipes import mlp_recipe
from distrl.learners.registry import AlgorithmConfig

Hidden = Annotated[
    tuple[Annotated[int, Field(ge=1, le=16384)], ...],
    Field(min_length=1, max_length=8, description="Widths of the hidden layers of every network."),
]
BatchSize = Annotated[
    int, Field(ge=1, le=1 << 20, description="Transitions in one update; larger is steadier and slower.")
]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0, description="Adam's step size.")]


class BC(AlgorithmConfig):
    """Behaviour cloning: the policy under which the logged actions are most probable. Rewards are not looked at."""

    offline_only: ClassVar[bool] = True
    n_step: ClassVar[int] = 1  # of the replay's sums, which are not used
    gamma: ClassVar[float] = 1.0

    hidden: Hidden = (256, 256)
    batch_size: BatchSize = 256
    learning_rate: LearningRate = 3e-4

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        return mlp_recipe(env_spec, self.hidden)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners import bc

        return bc.BC(self, env_spec, device, seed)


class IQL(AlgorithmConfig):
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): values of the better of the logged actions, and
    the policy of those that did better than that. It never asks what an action that is not in the data is worth."""

    tells_errors: ClassVar[bool] = True

    hidden: Hidden = (256, 256)
    batch_size: BatchSize = 256
    gamma: float = Field(
        default=0.99, ge=0.0, le=1.0, description="Discount per env step; about 1 / (1 − gamma) steps are looked ahead."
    )
    n_step: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Rewards summed before bootstrapping; more spreads rewards faster, but values what was done there.",
    )
    tau: float = Field(
        default=0.005, gt=0.0, le=1.0, description="Share of the critics that the target networks take over per update."
    )
    learning_rate: LearningRate = 3e-4
    expectile: float = Field(
        default=0.7,
        gt=0.0,
        lt=1.0,
        description="How much better than the mean of the logged actions a state's value is: 0.5 is their mean, near 1 "
        "the best of them.",
    )
    inverse_temperature: float = Field(
        default=3.0,
        ge=0.0,
        description="How much more an action counts that did better, in 1 / (return · `reward_scale`): 0 clones.",
    )
    max_weight: float = Field(default=100.0, gt=0.0, description="Most that an action counts.")
    reward_scale: float = Field(
        default=1.0, gt=0.0, le=1e6, description="Factor on rewards inside the losses; brings returns to order 1–100."
    )
    central_critic: bool = Field(
        default=False,
        description='Whether the observation\'s entry "state" (`env.agents.state`) is seen by values and critics '
        "alone. Otherwise it is an input of the actor like any other.",
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        return mlp_recipe(env_spec, self.hidden, self.central_critic)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners import iql

        return iql.IQL(self, env_spec, device, seed)
