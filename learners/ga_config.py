"""Hyperparameters of the genetic algorithm flow in from a run configuration, the algorithm flows out of ``build``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import gymnasium
from pydantic import Field, model_validator

from distrl.core.contracts import Algorithm
from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.actor_recipes import action_recipe, actor_inputs
from distrl.learners.inputs import image_paths, input_size
from distrl.learners.registry import AlgorithmConfig
from distrl.learners.spaces import bounded_box


class Config(AlgorithmConfig):
    """A genetic algorithm with novelty search (Such et al. 2017, arXiv 1712.06567): no gradients, no values; parents
    are published as lists of seeds."""

    on_policy: ClassVar[bool] = True
    episodic: ClassVar[bool] = True

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=16384)], ...],
        Field(max_length=8, description="Widths of the hidden layers, with tanh; none: actions are linear."),
    ] = (32, 32)
    population: int = Field(
        default=64,
        ge=2,
        le=1 << 20,
        description="Episodes of a generation. It is over when so many have ended, whoever acted in them; no "
        "environment waits for it.",
    )
    parents: int = Field(
        default=8, ge=1, le=1 << 16, description="Individuals that the next generation comes from; less is greedier."
    )
    sigma: float = Field(
        default=0.1, gt=0.0, le=1e3, description="Standard deviation of a mutation, of every parameter."
    )
    reevaluated: float = Field(
        default=0.3,
        ge=0.0,
        lt=1.0,
        description="Share of episodes in which a parent acts itself, so that luck in one episode does not last.",
    )
    doubt: float = Field(
        default=2.0,
        ge=0.0,
        le=1e4,
        description="Episodes with the generation's mean return that an individual's own are averaged with when the "
        "elite is chosen, who acts in evaluations: so one lucky episode makes nobody the elite. 0 where returns have "
        "no chance in them.",
    )
    novelty_weight: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="What the rank of an individual's novelty counts beside the rank of its return: 0 not at all, 1 "
        "alone (Lehman & Stanley 2011; Conti et al. 2018, arXiv 1712.06560).",
    )
    behaviour: Literal["final", "mean"] = Field(
        default="final",
        description="What novelty is of: an episode's final observation, or the mean of those that it acted on.",
    )
    neighbours: int = Field(
        default=10, ge=1, le=10_000, description="Nearest behaviours of the archive that novelty is the distance to."
    )
    archive_size: int = Field(
        default=2000, ge=1, le=1 << 20, description="Behaviours that novelty is measured against, the newest."
    )

    @property
    def batch_size(self) -> int:
        """Episodes of an update."""
        return self.population

    @model_validator(mode="after")
    def _parents_are_some_of_the_population(self) -> Config:
        if self.parents > self.population:
            raise ValueError(
                f"algorithm.parents ({self.parents}) must not exceed algorithm.population ({self.population})"
            )
        return self

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        space, actions = env_spec.action_space, action_recipe(env_spec)
        if isinstance(space, gymnasium.spaces.Box):
            bounded_box(space, "ga")
        inputs = actor_inputs(env_spec.observation_space, actions, central_critic=False)
        if images := image_paths(inputs):
            raise ConfigError(
                f"ga takes observations that are numbers, but {', '.join(images)} is an image: reduce it to features "
                "in a wrapper"
            )
        outputs = sum(actions["choices"]) if "choices" in actions else int(space.low.size)
        kwargs: dict[str, Any] = {
            "inputs": inputs,
            "sizes": [input_size(env_spec.observation_space, inputs), *self.hidden, outputs],
            "sigma": self.sigma,
            "reevaluated": self.reevaluated,
            "actions": actions,
        }
        return PolicySpec("distrl.learners.lineage_policy:LineagePolicy", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``; seeds are drawn by those who act."""
        from distrl.learners import ga

        return ga.GA(self, env_spec)
