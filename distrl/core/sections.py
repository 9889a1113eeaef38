"""The tables of a configuration, each a model: every field states its bounds and, in one sentence, what it decides.
Those that say what learns are in ``learning_sections.py``.

``env.kwargs`` is open: the environment validates it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from distrl.core.fidelity import Stage
from distrl.core.types import EnvRecipe

# Of another run: absolute, since actors may have another working directory, and a resume may begin in another folder.
RunPath = Annotated[str, AfterValidator(lambda path: str(Path(path).absolute()))]


class Section(BaseModel):
    """A table: an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class RunSection(Section):
    """How long a run lasts and where it leaves its results."""

    steps: int = Field(
        100_000, ge=1, description="Env steps after which the run ends, over all environments and resumes."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Decides every random number of the run.")
    out: str | None = Field(
        None,
        description="The run directory; without it a new one under runs/ named after the environment and the time.",
    )
    wall_limit_s: float | None = Field(
        None, gt=0, description="Wall seconds after which the run ends even if steps are missing."
    )
    core_hours: float | None = Field(
        None,
        gt=0,
        description="Core-hours (CPU time of environments, env workers and learner) after which the run ends even if "
        "steps are missing: the budget at which runs of different settings compare.",
    )
    durability: Literal["auto", "always", "off"] = Field(
        "auto",
        description="What env workers commit to their node's spool before they publish it, so that it survives their "
        "death. always: each transition; auto: each one where the mean step takes more than 100 ms, whole fragments "
        "down to 1 ms, nothing below; off: nothing.",
    )
    experience_log: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether every transition is kept in the run's log. An off-policy run needs it to resume; of an "
        "on-policy one auto keeps it where environments have processes of their own, since cheaper steps cost less "
        "than their record.",
    )
    sync: Literal["transition", "fragment", "seconds"] = Field(
        "seconds",
        description="When what was written is forced to the disk, so that it survives a loss of power: transition: the "
        "spool at each commit, the log at each fragment; fragment: both at each fragment; seconds: both once a second "
        "(fragments leave the spool only after that).",
    )
    spool_dir: str | None = Field(
        None,
        description="Folder for spools on each node's own disk (never a network file system); without it "
        "/var/tmp/distrl-<user>.",
    )


class DelaySection(Section):
    """Artificial step times and failures of training environments, for tests and benchmarks of asynchrony."""

    kind: Literal["constant", "lognormal"] = Field(
        "lognormal", description="The distribution that step times are drawn from."
    )
    median_s: float = Field(0.05, ge=0, description="Median of the added sleep in seconds.")
    sigma: float = Field(
        1.0, ge=0, le=4, description="Standard deviation of the logarithm of a lognormal one; 0 makes it constant."
    )
    straggler_share: float = Field(0.0, ge=0, le=1, description="Share of the steps that take many times as long …")
    straggler_factor: float = Field(10.0, ge=0, description="… namely so many times.")
    hang_share: float = Field(
        0.0, ge=0, le=1, description="Share of the steps that never return; see `actors.step_timeout_s`."
    )
    crash_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the steps that end their process by SIGKILL; an inline one takes its env worker with it.",
    )

    def config(self) -> dict[str, Any]:
        """What ``distrl.envs.delay.Delay`` takes."""
        return self.model_dump(exclude={"sigma"} if self.kind == "constant" else None)


class AgentsSection(Section):
    """How an environment of several agents is hosted."""

    state: Literal["none", "env", "joint"] = Field(
        "none",
        description="A global state beside each agent's observation, which a central critic sees: the environment's "
        "own, or all agents' observations together.",
    )
    identity: bool = Field(
        False,
        description='Tell each agent which one it is, one-hot, as the entry "agent" of its observation: so that agents '
        "of one policy who see the same need not do the same.",
    )
    team: bool = Field(
        False,
        description="Make all agents one row, for algorithms that choose for a team together (VDN, QMIX, MASAC).",
    )
    reward: Literal["sum", "mean"] = Field("sum", description="A team's reward, of its agents'.")
    policy_mapping: str | None = Field(
        None,
        description="package.module:function that is given an agent's name and returns its policy's, in place of "
        "`policies.….agents`.",
    )

    def recipe(self) -> dict[str, Any] | None:
        """What ``distrl.envs.multi_agent.adapt`` takes; None where all is as it comes."""
        given = self.model_dump(exclude={"policy_mapping"}, exclude_defaults=True)
        return given or None


class EnvSection(Section):
    """Which environment, and how it is hosted."""

    id: str = Field(description="A Gymnasium id, a distrl/… id, or package.module:Class.")
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the environment's constructor, which validates them."
    )
    fidelity: str | None = Field(
        None,
        description="Level of detail, one of those that `distrl envs` lists for the environment. With a "
        "`fidelity.schedule` it is the target: what evaluations, baseline and film are run at.",
    )
    hosting: Literal["process", "inline", "vector", "auto"] = Field(
        "auto",
        description="process: one process per environment, a slow one delays nobody; inline: one after the other in "
        "the env worker's process, for cheap environments; vector: there too, all at once, where Gymnasium has the "
        "environment vectorised (its episodes cannot be seeded one by one); auto: vector or inline when a measured "
        "step takes less than 0.2 ms, else process.",
    )
    delay: DelaySection | None = Field(None, description="Adds artificial step times.")
    max_episode_steps: int | None = Field(
        None, ge=1, description="A time limit in env steps, in place of a registered one."
    )
    agents: AgentsSection = Field(default_factory=AgentsSection)
    cores: float = Field(
        1.0,
        gt=0,
        description="Cores that one environment uses, all its MPI ranks together: asked of a Ray cluster, and its "
        "libraries' threads.",
    )
    memory_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Memory that one environment uses, in GB: asked of a Ray cluster."
    )
    gpus: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="GPUs that one environment uses, or its share of one."
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        description='Node labels that env workers ask for, in Ray\'s words: {"market" = "!spot"}.',
    )

    def recipe(self) -> EnvRecipe:
        """What travels to the environment processes."""
        delay = self.delay.config() if self.delay else None
        agents = self.agents.recipe()
        return EnvRecipe(self.id, self.kwargs, self.fidelity, delay, self.max_episode_steps, agents)


_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FidelityStage(Section):
    """A part of a run."""

    from_env_steps: int = Field(ge=0, description="Env steps of the run from which on it is in force.")
    mix: dict[str, _Weight] = Field(
        min_length=1, description="Level → weight: training episodes have levels in proportion to the weights."
    )

    @field_validator("mix")
    @classmethod
    def _something(cls, mix: dict[str, float]) -> dict[str, float]:
        if not any(mix.values()):
            raise ValueError(f"the mix of a fidelity stage needs a weight above 0, but {mix} came")
        return mix


class FidelitySection(Section):
    """Which level of detail training episodes have, where they do not all have `env.fidelity`."""

    schedule: list[FidelityStage] = Field(
        default_factory=list,
        description="Stages in order, the first from 0 env steps on. An episode has its level from the stage in force "
        "when it begins. Empty: all are at `env.fidelity`.",
    )

    @field_validator("schedule")
    @classmethod
    def _ordered(cls, schedule: list[FidelityStage]) -> list[FidelityStage]:
        begins = [stage.from_env_steps for stage in schedule]
        if begins and (begins[0] != 0 or begins != sorted(set(begins))):
            raise ValueError(
                f"fidelity.schedule needs stages whose from_env_steps begin with 0 and increase, but {begins} came"
            )
        return schedule

    def stages(self) -> tuple[Stage, ...]:
        """What travels to the environment processes."""
        return tuple(Stage(stage.from_env_steps, stage.mix) for stage in self.schedule)

    def levels(self) -> tuple[str, ...]:
        """Every level that the schedule names, each once."""
        return tuple(dict.fromkeys(level for stage in self.schedule for level in stage.mix))


class ActorsSection(Section):
    """How many environments there are and how their steps become fragments."""

    env_workers: int = Field(
        1, ge=1, le=10_000, description="EnvWorker actors; environments = env_workers × envs_per_worker."
    )
    envs_per_worker: int = Field(4, ge=1, le=4096, description="Environments each env worker hosts.")
    fragment_steps: int = Field(
        64, ge=1, le=100_000, description="A fragment is published after so many steps of one environment."
    )
    fragment_max_age_s: float = Field(
        5.0, gt=0, description="… or once its first step is so old, so that a slow environment delays nobody."
    )
    pull_period_s: float = Field(
        0.5, gt=0, description="How often an env worker asks for newer weights, in the background."
    )
    inference: Literal["local", "server", "auto"] = Field(
        "auto",
        description="Who chooses the actions. local: each env worker, with its own copy of the policy; server: "
        "inference servers, which answer the rows of all env workers together (while one is away, the own copy does); "
        "auto: servers where they are measured to serve all rows in less than half the time.",
    )
    inference_servers: int = Field(1, ge=1, le=1000, description="Inference servers, which share the env workers.")
    inference_batch: int = Field(256, ge=1, le=65_536, description="Rows that go through a server's policy together …")
    inference_wait_s: float = Field(
        0.002, ge=0, le=10, description="… and how long a request may wait for others until there are so many."
    )
    step_timeout_s: float = Field(
        1800.0, gt=0, description="A step or reset longer than this is a hang: the environment process is restarted."
    )
    hang_factor: float | None = Field(
        50.0,
        gt=1,
        description="… and so is a step longer than so many times the 99th percentile of that environment's own steps, "
        "once 50 are known and never below 10 s.",
    )
    snapshot_cost: float = Field(
        0.01,
        ge=0,
        le=0.5,
        description="Share of the step time spent on snapshots of environments that have snapshot and restore; 0 takes "
        "none.",
    )
    pin_cores: bool = Field(
        False,
        description="Bind each environment process, and the solver it starts, to env.cores cores of its own; refused "
        "where there are not enough.",
    )
    placement: Literal["pack", "spread"] | None = Field(
        None,
        description="pack: env workers go to as few nodes as possible; spread: to as many; without it Ray decides "
        "(half fills one node, then the next). Inside a Ray Tune trial its placement group decides.",
    )
    drain_grace_s: float = Field(
        30.0,
        ge=0,
        description="How long an env worker that leaves a running job waits for steps under way; then they are "
        "abandoned.",
    )
    max_unacknowledged_mb: float = Field(
        256.0,
        gt=0,
        description="Memory for fragments that the learner has not acknowledged; an env worker waits only when it is "
        "full.",
    )


class EvaluationSection(Section):
    """Deterministic episodes on held-out seeds beside the training."""

    period: int = Field(
        5000, ge=1, description="Env steps between two evaluations; of an offline run, updates of each policy."
    )
    episodes: int = Field(
        4, ge=1, le=1000, description="Episodes of each evaluation while training; always the same seeds."
    )
    final_episodes: int = Field(
        8, ge=1, le=1000, description="Episodes of the final evaluation, on seeds never used before it."
    )
    envs: int = Field(
        1, ge=1, le=64, description="Environments that run them side by side, at lower priority than the env workers'."
    )


class CheckpointSection(Section):
    """What a resume starts from."""

    period: int | None = Field(
        None,
        ge=1,
        description="Updates between two checkpoints, by default 5000, 100 of an on-policy algorithm, 10 of one whose "
        "updates are whole episodes; also written at the end and on Ctrl-C.",
    )
    keep: int = Field(3, ge=1, le=1000, description="Checkpoints kept beside the best policy.")


class MonitorSection(Section):
    """Where a run's metrics are shown while it lasts, beside the terminal and `distrl watch`."""

    sinks: list[Literal["tensorboard", "wandb", "prometheus"]] = Field(
        default_factory=list,
        description="tensorboard: event files in RUN/tensorboard; wandb: Weights & Biases, see `[wandb]`; prometheus: "
        "gauges at the metrics port of Ray's nodes.",
    )
    drain_s: float = Field(
        30.0, ge=0, le=3600, description="How long the end of a run waits for sinks that still have something to send."
    )


class WandbSection(Section):
    """How a run appears in Weights & Biases, where `monitor.sinks` names it. The key comes from `WANDB_API_KEY` or
    `wandb login`, and is kept nowhere else."""

    mode: Literal["online", "offline", "disabled"] | None = Field(
        None,
        description="online: recorded in RUN/wandb, and uploaded as far as the server can be reached; offline: "
        "recorded, for `wandb sync`; disabled: neither. Without it `WANDB_MODE`, else online.",
    )
    project: str | None = Field(None, description="Without it `WANDB_PROJECT`, else distrl.")
    entity: str | None = Field(None, description="A user or a team; without it the key's own.")
    name: str | None = Field(None, description="Of the run; without it the name of its directory.")
    group: str | None = Field(None, description="Runs that belong together, such as the seeds of one configuration.")
    tags: list[str] = Field(default_factory=list, description="To find the run by.")
    checkpoints: Literal["none", "best", "all"] = Field(
        "none",
        description="Checkpoints that are kept as artifacts: the best policy when a session ends, or each checkpoint "
        "too.",
    )
