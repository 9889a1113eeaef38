"""MASAC's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners import sac_config
from distrl.learners.spaces import bounded_box
from distrl.learners.team_policies import team_of


class Config(sac_config.Config):
    """Soft actor-critic for a team (`env.agents.team`): one actor for all agents, each of which sees its own
    observation, and twin critics of what all of them do together."""

    takes_tensors: ClassVar[bool] = False

    agent_id: bool = Field(
        default=True,
        description="Whether the actor also sees which agent it acts for, one-hot; without, agents that observe the "
        "same do the same.",
    )
    target_entropy: float | Literal["auto"] = Field(
        default="auto",
        description="Entropy of each living agent that the temperature keeps, in nats of its action in [−1, 1]; auto: "
        "−(numbers in its action).",
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        team_of(env_spec, "MASAC")
        box = bounded_box(env_spec.action_space, "MASAC")
        kwargs = {
            "agent_id": self.agent_id,
            "low": box.low[0].tolist(),  # the agents' spaces are equal
            "high": box.high[0].tolist(),
            "dtype": str(box.dtype),
            "num_layers": len(self.hidden) + 1,
            "uniform_until_trained": self.uniform_until_trained,
        }
        return PolicySpec("distrl.learners.team_policies:SquashedGaussianTeam", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.masac import MASAC

        return MASAC(self, env_spec, device, seed)
