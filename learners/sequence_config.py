"""Its hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners import sac_config
from distrl.learners.off_policy_config import LearningRate
from distrl.learners.spaces import bounded_box


class Config(sac_config.Config):
    """Sequence reinforcement learning (Patel & Siegelmann 2024, arXiv 2410.08979): as SAC, but the actor answers one
    observation with the actions of several steps, and a model of the environment, in training alone, says where each of
    them is done."""

    sequence_length: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Env steps from one observation that is looked at to the next; an update costs about so many times "
        "SAC's actor.",
    )
    gamma: float = Field(
        default=0.99, gt=0.0, le=1.0, description="Discount per env step; about 1 / (1 − gamma) steps are looked ahead."
    )
    n_step: int = Field(default=1, ge=1, le=1, description="1: the model learns from single steps.")
    model_learning_rate: LearningRate = Field(default=3e-4, description="Adam's step size for the model.")

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        bounded_box(env_spec.action_space, "sequence-sac")
        kwargs = dict(super().policy_spec(env_spec).kwargs)
        kwargs |= {"num_layers": len(self.hidden), "sequence_length": self.sequence_length}
        return PolicySpec("distrl.learners.sequence_policy:SequencePolicy", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.sequence import SequenceSAC

        return SequenceSAC(self, env_spec, device, seed)
