"""A sweep's space and scheduler in, what Ray Tune searches with out."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from distrl.core.sweep import Parameter, SweepConfig

_RUNGS = 2  # of successive halving, below the whole run
_PERIODS = 10  # comparisons of a trial in the whole run


def space(sweep: SweepConfig) -> dict[str, Any]:
    """Key → Tune's domain, where a population begins; nothing where a searcher draws."""
    return {key: _domain(sweep, parameter) for key, parameter in sweep.space.items()} if _is_population(sweep) else {}


def searcher(sweep: SweepConfig) -> Searcher | SearchAlgorithm:
    """Draws each trial's values, where they have a condition only if it holds."""
    if _is_population(sweep):  # its scheduler takes no other, and finds values by itself
        return BasicVariantGenerator(max_concurrent=sweep.max_concurrent or 0, random_state=sweep.seed)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    sampler: optuna.samplers.BaseSampler
    if sweep.searcher == "random":
        sampler = optuna.samplers.RandomSampler(seed=sweep.seed)
    else:
        startup = max(3, min(10, sweep.samples // 3))
        sampler = optuna.samplers.TPESampler(seed=sweep.seed, n_startup_trials=startup)
    found = OptunaSearch(_Draw(sweep), metric=sweep.metric, mode=sweep.mode, sampler=sampler)
    return ConcurrencyLimiter(found, sweep.max_concurrent) if sweep.max_concurrent else found


class _Draw:
    """Draws a trial's values one after the other; Tune pickles it."""

    def __init__(self, sweep: SweepConfig):
        self._sweep = sweep

    def __call__(self, trial: Any) -> None:
        values: dict[str, Any] = {}
        for key, parameter in self._sweep.space.items():
            if parameter.is_there(self._sweep.decode(values)):
                values[key] = _suggest(self._sweep, trial, key, parameter)


def _suggest(sweep: SweepConfig, trial: Any, key: str, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return trial.suggest_categorical(key, [sweep.encode(value) for value in parameter.choice])
    low, high = parameter.examples
    if parameter.integer is not None:
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=parameter.loguniform is not None)


def _domain(sweep: SweepConfig, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return tune.choice([sweep.encode(value) for value in parameter.choice])
    low, high = parameter.examples
    if parameter.integer is not None:
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if parameter.loguniform is not None else tune.uniform(low, high)


def _is_population(sweep: SweepConfig) -> bool:
    return sweep.scheduler.name in ("pbt", "pb2")


def scheduler(sweep: SweepConfig) -> TrialScheduler:
    """What ends trials early, or lets them go on from another's checkpoint."""
    found, length = sweep.scheduler, sweep.length()
    grace = found.grace if found.grace is not None else length / found.reduction_factor**_RUNGS
    aim: dict[str, Any] = {"time_attr": found.by, "metric": sweep.metric, "mode": sweep.mode}
    if found.name == "asha":
        return ASHAScheduler(**aim, max_t=length, grace_period=grace, reduction_factor=found.reduction_factor)  # type: ignore[arg-type]
    if found.name == "median":
        return MedianStoppingRule(**aim, grace_period=grace)
    if not _is_population(sweep):
        return FIFOScheduler()
    population: dict[str, Any] = {
        **aim,
        "perturbation_interval": found.period if found.period is not None else length / _PERIODS,
        "quantile_fraction": found.quantile,
    }
    if found.name == "pb2":
        from ray.tune.schedulers.pb2 import PB2

        bounds: dict[str, Any] = {key: list(parameter.examples) for key, parameter in sweep.space.items()}
        return PB2(**population, hyperparam_bounds=bounds)
    mutations = {
        key: [sweep.encode(value) for value in parameter.choice] if parameter.choice is not None else domain
        for (key, parameter), domain in zip(sweep.space.items(), space(sweep).values(), strict=True)
    }

    def within(values: dict[str, Any]) -> dict[str, Any]:
        """Tune multiplies values by 0.8 or 1.2, also beyond the space."""
        found = dict(values)
        for key, parameter in sweep.space.items():
            if parameter.choice is None:
                low, high = parameter.examples
                found[key] = min(max(values[key], low), high)
        return found

    return PopulationBasedTraining(
        **population, hyperparam_mutations=mutations, resample_probability=found.resample, custom_explore_fn=within
    )
