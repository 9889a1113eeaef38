"""A preset or TOML file plus overrides in, a validated ``RunConfig`` out; an unknown key names the nearest known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from distrl.core.config_input import apply_override, explain, read_toml
from distrl.core.errors import ConfigError
from distrl.core.learning_sections import (
    AlgorithmSection,
    LeagueSection,
    LearnerSection,
    OfflineSection,
    PolicySection,
    ReplaySection,
)
from distrl.core.sections import (
    ActorsSection,
    CheckpointSection,
    EnvSection,
    EvaluationSection,
    FidelitySection,
    MonitorSection,
    RunSection,
    Section,
    WandbSection,
)


class RunConfig(Section):
    """Everything that decides a run. Build one with ``RunConfig.load("fin-ray")`` or from keyword arguments.

    Example:
        RunConfig(env={"id": "Pendulum-v1"}, run={"steps": 20_000})
    """

    run: RunSection = Field(default_factory=RunSection)
    env: EnvSection
    fidelity: FidelitySection = Field(default_factory=FidelitySection)
    actors: ActorsSection = Field(default_factory=ActorsSection)
    algorithm: AlgorithmSection = Field(default_factory=AlgorithmSection)
    policies: dict[str, PolicySection] = Field(
        default_factory=dict, description="By name; none: one policy acts for all agents."
    )
    league: LeagueSection | None = Field(
        None, description="Policies of an environment of several agents that meet each other and their own past."
    )
    replay: ReplaySection = Field(default_factory=ReplaySection)
    offline: OfflineSection = Field(default_factory=OfflineSection)
    learner: LearnerSection = Field(default_factory=LearnerSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)
    monitor: MonitorSection = Field(default_factory=MonitorSection)
    wandb: WandbSection = Field(default_factory=WandbSection)

    @model_validator(mode="after")
    def _has_target(self) -> RunConfig:
        if self.fidelity.schedule and self.env.fidelity is None:
            raise ValueError(
                "fidelity.schedule needs env.fidelity, the level that the policy is for and is evaluated at, and it "
                f"was not given: set it to one of {', '.join(self.fidelity.levels())}, or another of the environment's"
            )
        return self

    @field_validator("policies")
    @classmethod
    def _named(cls, policies: dict[str, PolicySection]) -> dict[str, PolicySection]:
        for name in policies:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"a policy's name becomes part of file names: letters, digits, - and _; got {name!r}")
        return policies

    @staticmethod
    def load(source: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
        """A preset's name or a TOML file, with ``key.path=value`` overrides (values in TOML, bare words are strings).

        Raises:
            ConfigError: no such preset or file, not TOML, an unknown key or a wrong value.
        """
        data = read_toml(source)
        for override in overrides:
            apply_override(data, override)
        return RunConfig.validated(data)

    @staticmethod
    def validated(data: Mapping[str, Any]) -> RunConfig:
        """From nested plain data.

        Raises:
            ConfigError: an unknown key (naming the nearest known one) or a wrong value.
        """
        try:
            return RunConfig.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, RunConfig)) from None


def to_toml(config: RunConfig) -> str:
    """The config as TOML that ``RunConfig.load`` reads back; what is None is left out."""

    def given(data: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: given(value) for key, value in data.items() if value is not None}
        return [given(value) for value in data] if isinstance(data, list | tuple) else data

    data = config.model_dump()
    if data["replay"]["samples_per_insert"] is None:
        data["replay"]["samples_per_insert"] = "unlimited"
    try:
        return tomli_w.dumps(given(data))
    except TypeError as error:
        raise ConfigError(f"a config holds numbers, strings, lists and tables: {error}") from None
