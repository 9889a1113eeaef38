"""The tables of a configuration that say what learns, and from what; the others are in ``sections.py``.

``algorithm.*`` is open: the algorithm's own model validates it (distrl.learners.registry).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distrl.core.sections import RunPath, Section


class AlgorithmSection(BaseModel):
    """The algorithm's name; all other keys belong to its own model."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(
        "sac",
        description="A registered algorithm, package.module:Config for one of your own, or rllib:PPO, SAC, APPO or "
        "IMPALA for RLlib's, whose keys are then RLlib's.",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keys other than ``name``."""
        return dict(self.model_extra or {})


class PolicySection(Section):
    """One policy of an environment of several agents."""

    agents: list[str] = Field(
        ["*"],
        description="Names of the agents that it acts for, or patterns of them (* and ?); an agent's policy is the "
        "first that names it.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=dict, description="Options of [algorithm] that are others for this policy."
    )
    frozen: RunPath | None = Field(
        None,
        description="A finished run whose best policy acts for these agents, and does not learn: its directory, and "
        "DIRECTORY:NAME where it has several.",
    )

    @model_validator(mode="after")
    def _does_not_learn(self) -> PolicySection:
        if self.frozen is not None and self.algorithm:
            raise ValueError(f"a frozen policy ({self.frozen}) does not learn: leave out its algorithm")
        return self


class LeagueSection(BaseModel):
    """Policies that meet each other and their own past; the keys belong to the league's own model."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """All keys."""
        return dict(self.model_extra or {})


class ReplaySection(Section):
    """Where transitions wait for the learner."""

    capacity: int = Field(1_000_000, ge=1, description="Transitions kept; the oldest make room.")
    min_size: int = Field(1000, ge=1, description="Transitions in the replay before the first update.")
    samples_per_insert: float | None = Field(
        256.0,
        gt=0,
        description="How often each transition is sampled on average: batch size × updates per env step. The learner "
        "waits when ahead. "
        'With "unlimited" it updates as fast as it can.',
    )
    device: Literal["auto", "host", "learner"] = Field(
        "auto",
        description="Where observations are kept: in memory (host), or on the learner's device, from where an update "
        "takes them without a copy. auto: on a GPU where they take at most half of what is free.",
    )

    priority_exponent: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Draw transitions by their newest temporal-difference error to this power, alpha of prioritised "
        "replay (Schaul et al. 2016, arXiv 1511.05952); 0.6 is usual. Unset: all alike.",
    )
    priority_correction: float = Field(
        0.4,
        ge=0,
        le=1,
        description="How far the losses make up for that at the start, beta; it grows linearly to 1, which is in full.",
    )
    priority_full_at: int = Field(
        100_000, ge=0, description="Transitions in the run after which they make up for it in full; 0: always."
    )

    warm_start: list[RunPath] = Field(
        default_factory=list,
        description="Run directories whose logs fill the replay before the first update, in this order.",
    )

    @model_validator(mode="before")
    @classmethod
    def _unlimited(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("samples_per_insert") == "unlimited":  # TOML has no null
            data = {**data, "samples_per_insert": None}
        return data

    @model_validator(mode="after")
    def _fits(self) -> ReplaySection:
        if self.min_size > self.capacity:
            raise ValueError(
                f"replay.min_size ({self.min_size}) must not exceed replay.capacity ({self.capacity}): learning would "
                "never start"
            )
        return self


class OfflineSection(Section):
    """Learning from logs alone: with `data`, a run has no env workers, and the environment is made for evaluations
    only."""

    data: list[RunPath] = Field(
        default_factory=list,
        description="Run directories, or those that `distrl log mix` writes, whose logs are all that is learned from; "
        "empty: the run makes its own experience.",
    )
    updates: int = Field(
        20_000,
        ge=1,
        description="Updates of each policy after which the run ends, over all resumes, in place of `run.steps`.",
    )


class LearnerSection(Section):
    """Where updates run and how often their result is published."""

    mode: Literal["single", "all_reduce", "parameter_server"] = Field(
        "single",
        description="How several learners train one policy. all_reduce: in step, each update along the mean of all "
        "their gradients; parameter_server: each at its own pace, gradients go to shards that hold the parameters.",
    )
    count: int = Field(
        1,
        ge=1,
        le=1024,
        description="Learners; each has its share of the env workers and of the replay, and samples "
        "`algorithm.batch_size` transitions of its own.",
    )
    shards: int = Field(
        1, ge=1, le=1024, description="Parameter server: parts that parameters and optimizer are cut into, by bytes."
    )
    staleness_bound: int | None = Field(
        None,
        ge=0,
        description="Parameter server: pushes that a learner may be ahead of the slowest one at work before it waits. "
        "0: all go in step, along the mean of their gradients. Without it nobody waits.",
    )
    stale_rate_limit: float | None = Field(
        None,
        ge=1,
        description="Parameter server: divide the learning rate by 1 + the gradient's staleness, at most by this. "
        "Gradients that are quick to compute are less stale, and then count more.",
    )
    delay_compensation: float | None = Field(
        None, gt=0, description="Parameter server: λ of DC-ASGD, which corrects a stale gradient to first order."
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes a GPU when there is one, else the CPU."
    )
    threads: int = Field(
        1, ge=1, le=256, description="CPU threads of the learner; the other cores are the environments'."
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest",
        description="Of matrix products: float32's, or, where that is faster, TensorFloat-32's (high) or bfloat16's "
        "(medium); see torch.set_float32_matmul_precision.",
    )
    start_from: RunPath | None = Field(
        None,
        description="A run, or one of its checkpoints, whose networks and optimizers a new run begins with; its "
        "experience comes along with `replay.warm_start`. Without it they are drawn from the seed.",
    )
    gpus: float = Field(1.0, gt=0, le=1, description="The share of a GPU that the learner reserves where it uses one.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Node labels that the learner asks for, in Ray's words."
    )
    publish_period: int = Field(50, ge=1, description="Updates between two publications of the policy's weights.")
    duration_weight_limit: float | None = Field(
        None,
        ge=1,
        description="Count each transition in the losses by how long its step took, over the batch's mean, and at most "
        "so much: against environments whose steps are short and so arrive more often (Yang et al. 2025, arXiv "
        "2509.01684). Unset: all count alike.",
    )
    finish_updates: bool = Field(
        True,
        description="After the last env step, do the updates that samples_per_insert still owes, so that runs of "
        "different speed compare.",
    )

    @model_validator(mode="after")
    def _of_the_mode(self) -> LearnerSection:
        if self.mode == "single" and self.count > 1:
            raise ValueError(
                f"learner.count = {self.count} needs learner.mode = all_reduce or parameter_server, but single came"
            )
        names = ("shards", "staleness_bound", "stale_rate_limit", "delay_compensation")
        fields = type(self).model_fields
        for name in names:
            if self.mode != "parameter_server" and (given := getattr(self, name)) != fields[name].default:
                raise ValueError(
                    f"learner.{name} = {given} is of learner.mode = parameter_server, but {self.mode} came"
                )
        return self
