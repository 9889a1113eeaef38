"""DSAC-T's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.sac_config import EntropyConfig
from distrl.learners.spaces import bounded_box


class Config(EntropyConfig):
    """Distributional soft actor-critic with three refinements (Duan et al. 2025, arXiv 2310.05858): as SAC, but the
    critics say how returns are spread, and their gradients are in units of that; so rewards need no scaling."""

    policy_delay: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Updates of the critics for one of actor and temperature; the target networks move with theirs.",
    )
    clip_range: float = Field(
        default=3.0,
        gt=0.0,
        le=1e3,
        description="Returns are at most so many standard deviations from the mean where the spread is learned: ξ.",
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        bounded_box(env_spec.action_space, "DSAC-T")
        return super().policy_spec(env_spec)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.dsact import DSACT

        return DSACT(self, env_spec, device, seed)
