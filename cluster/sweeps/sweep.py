"""A sweep's configuration in, its trials run by Ray Tune, a row for each out.

SWEEP/runs/        a run directory for each trial (see trial.py)
SWEEP/tune/        Ray Tune's own state, from which a killed sweep goes on
SWEEP/spent.json   core-hours by trial
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.logger import JsonLoggerCallback

from distrl.cluster import placement, resources
from distrl.cluster.sweeps import search
from distrl.cluster.sweeps.trial import SweepTrial
from distrl.core.config import RunConfig
from distrl.core.errors import DistrlError, RunFailed
from distrl.core.metrics import write_json
from distrl.core.sweep import LEARNER, METRICS, SweepConfig

_SPENT = "spent.json"
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the caller's ends the sweep in order
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run directory is what a trial logs to
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


Show = Callable[[str, dict[str, Any], dict[str, Any]], None]


class _Caller:
    """Who runs the sweep in this process. Tune pickles callbacks and stoppers, and takes them up again on a restore."""

    show: Show = staticmethod(lambda trial, values, result: None)
    stop: Callable[[], bool] = staticmethod(lambda: False)


@dataclass(frozen=True)
class TrialRow:
    """One trial as it ended.

    Attributes:
        trial: its id. status: "finished", "ended early", or what it failed of.
        values: of the space. result: its last, by the names of ``METRICS``; empty where it never had one.
        directory: its newest run.
    """

    trial: str
    status: str
    values: dict[str, Any]
    result: dict[str, Any]
    directory: Path | None


def run(
    sweep: SweepConfig,
    directory: Path,
    *,
    resume: bool,
    show: Show,
    stop: Callable[[], bool],
) -> list[TrialRow]:
    """All trials on the Ray that is connected; best first.

    Args:
        resume: go on with the sweep in that folder.
        show: called with (trial, values, result) at each of its results; a failure is {"failure": sentence}.
        stop: ends the sweep, each trial with a checkpoint.

    Raises:
        ConfigError: a trial is larger than the cluster. RunFailed: every trial failed.
    """
    os.environ.update(_QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told in a sentence, by ``show``
    _Caller.show, _Caller.stop = staticmethod(show), staticmethod(stop)
    gpus = _check(sweep)
    plain = sweep.model_dump(by_alias=True)
    trial = tune.with_parameters(SweepTrial, sweep=plain, directory=str(directory))
    sized = tune.with_resources(trial, lambda values: _group(sweep.run_config(sweep.decode(values)), gpus))
    if resume:
        tuner = tune.Tuner.restore(str(directory / "tune"), trainable=sized, resume_errored=True)
    else:
        tuner = tune.Tuner(
            sized,
            param_space=search.space(sweep),
            tune_config=tune.TuneConfig(
                search_alg=search.searcher(sweep),
                scheduler=search.scheduler(sweep),
                num_samples=sweep.samples,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(directory),
                failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
                callbacks=[JsonLoggerCallback(), _Shown(sweep)],
                stop=_Budget(directory, sweep.core_hours),
                verbose=0,
            ),
        )
    rows = [_row(sweep, result) for result in list(tuner.fit())]  # type: ignore[call-overload]
    sign = 1.0 if sweep.mode == "max" else -1.0
    rows.sort(key=lambda row: sign * row.result.get(sweep.metric, -sign * math.inf), reverse=True)
    if not any(row.result for row in rows) and not stop():
        raise RunFailed(f"every trial failed: {rows[0].status if rows else 'none began'}; see {directory}")
    return rows


def _check(sweep: SweepConfig) -> float:
    """Refuse a trial that the connected cluster can never hold, at any end of the space; the cluster's GPUs."""
    nodes, grows = placement.nodes(), placement.grows()
    gpus = sum(node.resources.get("GPU", 0.0) for node in nodes)
    for values in sweep.examples():
        config = sweep.run_config(values)
        resources.check_shares(config)
        resources.check_group(resources.bundles(config, gpus), nodes, grows=grows)
    return gpus


def _group(config: RunConfig, gpus: float) -> PlacementGroupFactory:
    """What a trial reserves."""
    bundles, labels = resources.bundles(config, gpus), resources.bundle_labels(config, gpus)
    labelled = {"bundle_label_selector": labels} if any(labels) else {}
    return PlacementGroupFactory(bundles, strategy=(config.actors.placement or "pack").upper(), **labelled)


def _row(sweep: SweepConfig, result: Any) -> TrialRow:
    found = result.metrics or {}
    config = {key: value for key, value in (result.config or {}).items() if key in sweep.space}
    if result.error is not None:
        status = _sentence(result.error)
    else:
        status = (
            "finished" if found.get("finished") or found.get(sweep.scheduler.by, 0) >= sweep.length() else "ended early"
        )
    kept = {name: value for name, value in found.items() if name in METRICS or name.startswith(LEARNER)}
    directory = Path(found["directory"]) if "directory" in found else None
    return TrialRow(Path(result.path).name, status, sweep.decode(config), kept, directory)


def _sentence(error: BaseException) -> str:
    """Ray wraps a trial's own error in one whose text is a traceback."""
    cause = getattr(error, "cause", None) or error
    text = " ".join(str(cause).split())[:500]
    return text if isinstance(cause, DistrlError) else f"{type(cause).__name__}: {text}"


class _Budget(Stopper):
    """Ends the sweep once its trials have spent their core-hours, or when asked to."""

    def __init__(self, directory: Path, core_hours: float | None):
        self._file, self._limit = directory / _SPENT, core_hours or math.inf

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        spent = self._spent() | {trial_id: result.get("spent_core_hours", 0.0)}
        write_json(self._file, spent)  # a sweep that goes on after a kill has spent it too
        return False

    def stop_all(self) -> bool:
        """Tune asks after every event."""
        return _Caller.stop() or sum(self._spent().values()) >= self._limit

    def _spent(self) -> dict[str, float]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


class _Shown(Callback):
    """Passes each result on."""

    def __init__(self, sweep: SweepConfig):
        self._sweep = sweep

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good."""
        self._tell(trial, {"failure": _sentence(trial.get_error())})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It goes on from its checkpoint."""
        self._tell(trial, {"failure": f"{_sentence(trial.get_pickled_error())} (it goes on from its checkpoint)"})

    def _tell(self, trial: Any, result: dict[str, Any]) -> None:
        values = {key: value for key, value in trial.config.items() if key in self._sweep.space}
        _Caller.show(trial.trial_id, self._sweep.decode(values), result)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """See ``ray.tune.Callback``."""
        self._tell(trial, result)
