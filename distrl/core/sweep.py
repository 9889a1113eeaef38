"""A sweep's TOML file in, a validated ``SweepConfig`` out: which runs there may be, and which of them go on.

    config = "ks"                                # every trial is this run …
    set.run.core_hours = 0.05                    # … with this changed,
    space.algorithm.actor_learning_rate = { loguniform = [1e-4, 1e-2] }     # and with a value of each of these

A *trial* is one run with values drawn from the space, flat: {"algorithm.actor_learning_rate": 3e-3}.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from distrl.core.config import RunConfig
from distrl.core.config_input import apply_override, explain, read_toml
from distrl.core.errors import ConfigError
from distrl.core.sections import Section

FOLDER = "sweeps"  # of the shipped ones, beside the presets
LEARNER = "learner/"  # before the name of one of the learner's metrics
METRICS = {
    "return_mean": "of the newest evaluation on held-out seeds",
    "best_return_mean": "of the best evaluation so far",
    "recent_return_mean": "of the newest training episodes",
    "env_steps": "of the trial's policy",
    "updates": "of the trial's runs",
    "core_hours": "behind the trial's policy",
    "wall_s": "of the trial's runs",
    "env_steps_per_s": "of the session",
    "busy": "share of the environments' lives",
    "staleness_p50": "in updates",
    "staleness_p99": "in updates",
}
_KINDS = ("uniform", "loguniform", "int", "choice")
Budget = Literal["env_steps", "core_hours", "wall_s"]


class Parameter(Section):
    """One dimension of the space: exactly one of uniform, loguniform, int and choice."""

    uniform: tuple[float, float] | None = Field(None, description="A number between two, all equally likely.")
    loguniform: tuple[float, float] | None = Field(None, description="A positive number whose logarithm is uniform.")
    integer: tuple[int, int] | None = Field(
        None, alias="int", description="A whole number from the first to the second, both included."
    )
    choice: list[Any] | None = Field(None, min_length=1, description="One of these, of any type.")
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="Other parameters of the space, which come before, and the value, or list of values, at which this "
        "one is there; else the configuration's own value is kept.",
    )

    @model_validator(mode="before")
    @classmethod
    def _flat_condition(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("when"), dict):
            data = {**data, "when": dict(_leaves(data["when"], lambda value: not isinstance(value, dict)))}
        return data

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        given = [kind for kind in _KINDS if self._of(kind) is not None]
        if len(given) != 1:
            came = " and ".join(given) or "none"
            raise ValueError(f"a parameter of a space has one of {', '.join(_KINDS)}, but {came} came")
        if given[0] != "choice":
            low, high = self._of(given[0])
            if not low < high or (self.loguniform is not None and low <= 0):
                rule = "two numbers above 0" if self.loguniform is not None else "two numbers"
                raise ValueError(f"{given[0]} takes {rule}, the smaller first, but [{low:g}, {high:g}] came")
        return self

    @property
    def kind(self) -> str:
        """Which of the four."""
        return next(kind for kind in _KINDS if self._of(kind) is not None)

    @property
    def examples(self) -> list[Any]:
        """All choices, or both ends."""
        return list(self._of(self.kind))

    def _of(self, kind: str) -> Any:
        return self.integer if kind == "int" else getattr(self, kind)

    def is_there(self, values: Mapping[str, Any]) -> bool:
        """Whether its condition holds, given the (decoded) values of the parameters before it."""
        return all(
            key in values and values[key] in (wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in self.when.items()
        )


class SchedulerSection(Section):
    """Which trials are ended early, or go on from another's state."""

    name: Literal["asha", "median", "pbt", "pb2", "none"] = Field(
        "asha",
        description="asha: successive halving, asynchronously (arXiv 1810.05934); median: end what is below the median "
        "of the others (Golovin et al. 2017); pbt: the worst take over networks, experience and, changed, values of "
        "the best (arXiv 1711.09846); pb2: the same, values chosen by a Gaussian process (arXiv 2002.02518); none: "
        "every trial runs to its end.",
    )
    by: Budget = Field("env_steps", description="What trials are compared at equal amounts of.")
    grace: float | None = Field(
        None, gt=0, description="No trial is ended before so much of it; by default a ninth of a run."
    )
    reduction_factor: float = Field(3.0, gt=1, description="asha: of so many trials, one goes on at each rung.")
    period: float | None = Field(
        None, gt=0, description="pbt, pb2: between two comparisons of a trial; by default a tenth of a run."
    )
    quantile: float = Field(0.25, gt=0, le=0.5, description="pbt, pb2: this share copies, and this share is copied.")
    resample: float = Field(0.25, ge=0, le=1, description="pbt: probability that a value is drawn anew, not changed.")


class SweepConfig(Section):
    """Everything that decides a sweep. Load one with ``SweepConfig.load("ks")``."""

    config: str = Field(description="What every trial is: a preset or a TOML file, from the sweep's own folder on.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="Keys of that configuration that are others in this sweep."
    )
    space: dict[str, Parameter] = Field(min_length=1, description="Key of the configuration → how its value is drawn.")
    metric: str = Field("best_return_mean", description="What is best, of those that `distrl tune --help` lists.")
    mode: Literal["max", "min"] = Field("max", description="Whether more of it is better.")
    samples: int = Field(16, ge=1, le=100_000, description="Trials.")
    core_hours: float | None = Field(
        None, gt=0, description="Core-hours of all trials together after which the sweep ends, whatever is missing."
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Trials at a time; by default as many as the cluster, or this machine's cores, hold."
    )
    searcher: Literal["optuna", "random"] = Field(
        "optuna", description="optuna: tree-structured Parzen estimator, learns from finished trials; random: does not."
    )
    scheduler: SchedulerSection = Field(default_factory=SchedulerSection)
    seed: int = Field(0, ge=0, lt=2**31, description="Decides what is drawn; run.seed, what a trial draws.")
    max_failures: int = Field(2, ge=0, description="How often a trial that has failed goes on from its checkpoint.")
    out: str | None = Field(None, description="The sweep's folder; without it a new one under sweeps/.")

    @field_validator("space", mode="before")
    @classmethod
    def _by_key(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        return dict(_leaves(space, lambda value: not isinstance(value, dict) or bool(set(value) & set(_KINDS))))

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS and not metric.startswith(LEARNER):
            near = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"no trial reports the metric {metric!r}; did you mean {near!r}? There are {', '.join(METRICS)}, and "
                f"{LEARNER}NAME for what an algorithm reports"
            )
        return metric

    @model_validator(mode="after")
    def _fits(self) -> SweepConfig:
        seen: dict[str, Parameter] = {}
        for key, parameter in self.space.items():
            for condition in parameter.when:
                if condition not in seen:
                    raise ValueError(
                        f"space.{key}.when names {condition}, which is not in the space before it: move it "
                        "up, or leave the condition out"
                    )
            seen[key] = parameter
        if self.scheduler.name in ("pbt", "pb2"):
            kinds = ("uniform", "loguniform") if self.scheduler.name == "pb2" else _KINDS
            for key, parameter in self.space.items():
                if parameter.kind not in kinds or parameter.when:
                    what = "a condition" if parameter.when else parameter.kind
                    raise ValueError(
                        f"scheduler {self.scheduler.name} changes values while a trial runs: its space has "
                        f"{', '.join(kinds)} without conditions, but space.{key} has {what}; use another scheduler"
                    )
            if self.searcher != "random":
                self.__dict__["searcher"] = "random"  # the scheduler itself searches
        return self

    @staticmethod
    def load(source: str | Path, overrides: Iterable[str] = ()) -> SweepConfig:
        """A shipped sweep's name or a TOML file, with ``key.path=value`` overrides of the sweep's own keys.

        Raises:
            ConfigError: no such sweep, an unknown key, a wrong value, or a space that the runs' configuration refuses.
        """
        data = read_toml(source, FOLDER)
        for override in overrides:
            apply_override(data, override)
        base = data.get("config")
        if isinstance(base, str) and base.endswith(".toml"):
            data["config"] = str(Path(source).absolute().parent / base)
        return SweepConfig.validated(data)

    @staticmethod
    def validated(data: Mapping[str, Any]) -> SweepConfig:
        """From nested plain data; every end and choice of the space is tried in the runs' configuration.

        Raises:
            ConfigError: see ``load``.
        """
        try:
            sweep = SweepConfig.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, SweepConfig)) from None
        for example in sweep.examples():
            sweep.run_config(example)
        sweep.length()
        return sweep

    def examples(self) -> Iterator[dict[str, Any]]:
        """Values of trials that between them have every end and choice, each with what its condition wants."""
        yield {}
        for key, parameter in self.space.items():
            wanted = {name: value[0] if isinstance(value, list) else value for name, value in parameter.when.items()}
            for value in parameter.examples:
                yield {**wanted, key: value}

    def run_config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of the run of a trial with these (decoded) values.

        Raises:
            ConfigError: it refuses one of them.
        """
        data = read_toml(self.config)
        _merge(data, self.set)
        for key, value in values.items():
            *parents, last = key.split(".")
            table = data
            for parent in parents:
                table = table.setdefault(parent, {})
            table[last] = value
        return RunConfig.validated(data)

    def encode(self, value: Any) -> Any:
        """A choice as Tune can compare it: what is no number, string or truth value becomes JSON."""
        return value if isinstance(value, str | int | float | bool) else json.dumps(value)

    def decode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Tune's values as the configuration takes them."""
        found = {}
        for key, value in values.items():
            choices = self.space[key].choice or []
            found[key] = next((choice for choice in choices if self.encode(choice) == value), value)
        return found

    def length(self) -> float:
        """How much of ``scheduler.by`` a run has at most.

        Raises:
            ConfigError: nothing bounds it.
        """
        run = self.run_config({}).run
        limits = {"env_steps": run.steps, "core_hours": run.core_hours, "wall_s": run.wall_limit_s}
        found = limits[self.scheduler.by]
        if found is None:
            key = {"core_hours": "run.core_hours", "wall_s": "run.wall_limit_s"}[self.scheduler.by]
            raise ConfigError(
                f'scheduler.by = "{self.scheduler.by}" needs runs that end at some: give set.{key}, or compare by '
                "env_steps"
            )
        return float(found)


def _leaves(table: Mapping[str, Any], is_leaf: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of nested tables."""
    for key, value in table.items():
        if is_leaf(value):
            yield prefix + key, value
        else:
            yield from _leaves(value, is_leaf, f"{prefix}{key}.")


def _merge(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value
