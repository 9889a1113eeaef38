"""A trial of a sweep: values of the space in, a run in the sweep's folder out, and a result at each of its evaluations.

SWEEP/runs/TRIAL-0/, and TRIAL-1/ … each time it went on from another trial's state: then networks and optimizers come
from that trial's checkpoint, its experience is referred to (``replay.warm_start``), and every hyperparameter is this
trial's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune

from distrl.cluster import checks
from distrl.cluster.components import count_leftovers
from distrl.cluster.launch import LiveRun
from distrl.core.checkpoint import list_checkpoints, load_checkpoint
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.metrics import write_json
from distrl.core.run_directory import RunDirectory
from distrl.core.sweep import LEARNER, METRICS, SweepConfig
from distrl.monitor.session import monitored

_POLL_S = 0.5
_END_S = 300.0  # within which a run that is told to stop has written its checkpoint
_TRIAL = "trial.json"  # in a trial's run: its values, where it began, what it has cost; run.json is the supervisor's
_ORIGIN = "origin.json"  # in a checkpoint of Tune's: which run it is of
_CHECKPOINT = "checkpoint"  # … and beside it that run's checkpoint


class SweepTrial(tune.Trainable):
    """A Tune ``Trainable``. It lives in the first bundle of the trial's placement group, and so does the run's
    supervisor; env workers have the others.
    """

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], sweep: dict[str, Any], directory: str
    ) -> None:
        """The run starts with the first step: Tune may load a checkpoint before.

        Args:
            config: the trial's values, flat. sweep: what ``SweepConfig.validated`` takes. directory: the sweep's.
        """
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a line for each checkpoint is too many
        self._sweep = SweepConfig.validated(sweep)
        self._values = self._sweep.decode(config)
        self._directory = Path(directory)
        self._live: LiveRun | None = None
        self._monitoring = contextlib.ExitStack()
        self._run: RunDirectory | None = None
        self._evaluations = 0
        self._settings = self._sweep.run_config(self._values)

    # -- what Tune calls -----------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """Train until the next evaluation, or the end; what ``distrl.core.sweep.METRICS`` lists, and "done".

        Raises:
            RunFailed: the run has failed; Tune begins it again from where it was. ConfigError: the trial's values
            cannot be run.
        """
        if self._live is None:
            self._start()
        assert self._live is not None
        while True:
            status = self._live.status()
            ended = status["phase"] == "ended"
            if ended or (status.get("num_evaluations", 0) > self._evaluations and status["evaluation"] is not None):
                break
            time.sleep(_POLL_S)
        self._evaluations = status["num_evaluations"]
        if status["evaluation"] is None:
            raise RunFailed("no evaluation had a finite return: every episode diverged")
        result = self._result(status)
        if ended:
            self._ended(status["summary"] | {"interrupted": False})
        metric = self._sweep.metric
        if metric not in result and (ended or status["metrics"]):
            came = ", ".join(f"{LEARNER}{name}" for name in status["metrics"]) or "none"
            raise RunFailed(f"the metric {metric!r} did not appear; the learner reports {came}")
        finished = ended or result["env_steps"] >= self._settings.run.steps
        return result | {"finished": finished, "done": finished}  # Tune sets done when it ends a trial, too

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Networks, optimizers and where the experience is; never the experience."""
        assert self._run is not None
        source = self._newest_checkpoint()
        shutil.copytree(source, Path(checkpoint_dir) / _CHECKPOINT)
        _, meta = load_checkpoint(source)
        # an on-policy algorithm has no replay that another's experience could fill
        referred = self._run.facts.get("logged", True) and not checks.algorithm_model(self._settings).on_policy
        origin = {
            "run": str(self._run.path),
            "run_id": self._run.id,
            "env_steps": self._before["env_steps"] + self._env_steps,
            "core_hours": self._before["core_hours"] + self._core_hours,
            # logs that its replay was filled from, and how many fragments of each; the last is its own
            "logs": [*self._settings.replay.warm_start, str(self._run.path)] if referred else [],
            "fragments": [*meta["warm_fragments"], meta["log_records"]],
        }
        write_json(Path(checkpoint_dir) / _ORIGIN, origin)

    def _newest_checkpoint(self) -> Path:
        """Of this moment; of its end where the run is over."""
        assert self._run is not None
        while self._live is not None and (phase := self._live.status()["phase"]) != "ended":
            if phase == "training":
                with contextlib.suppress(ConfigError):  # it has stopped training just now
                    return self._live.checkpoint()
            time.sleep(_POLL_S)
        return list_checkpoints(self._run.path / "checkpoints")[-1]

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Continue from a checkpoint: of this trial, its run goes on; of another, a new run begins there."""
        origin = json.loads((Path(checkpoint_dir) / _ORIGIN).read_text())
        if not self._reopen(origin):
            self._begin_from(origin, Path(checkpoint_dir) / _CHECKPOINT)

    def cleanup(self) -> None:
        """End the run, with a checkpoint."""
        if self._live is None:
            return
        try:
            finished = self._live.status()["phase"] == "ended"
            self._live.stop()
            deadline = time.monotonic() + _END_S
            while (status := self._live.status())["phase"] != "ended" and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if status["phase"] == "ended":
                self._ended(status["summary"] | {"interrupted": not finished})
        except RunFailed as failure:  # what was secured is in the run directory, and nobody waits for this trial
            print(failure)
        finally:
            self._live.kill()
            self._live = None
            self._monitoring.close()

    # -- the trial's runs ----------------------------------------------------------------------------------------------

    def _mine(self) -> list[Path]:
        """This trial's runs, oldest first."""
        found = (self._directory / "runs").glob(f"{self.trial_id}-*")
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def _reopen(self, origin: dict[str, Any] | None) -> bool:
        """Take up the trial's newest run with its present values, where that is what it should go on from: it may be
        further than Tune's checkpoint of it."""
        for path in reversed(self._mine()):
            run, facts = RunDirectory.open(path), _facts(path)
            same = origin is None or run.id == origin["run_id"] or facts["origin"] == origin
            if facts["values"] == self._values and same:
                self._take(run)
                return True
        return False

    def _begin_from(self, origin: dict[str, Any] | None, checkpoint: Path | None) -> None:
        """A new run; from the checkpoint of another one."""
        path = self._directory / "runs" / f"{self.trial_id}-{len(self._mine())}"
        group = self._settings.wandb.group or self._directory.name
        changes: dict[str, Any] = {"run": {"out": str(path)}, "wandb": {"group": group}}
        if origin is not None:
            changes["learner"] = {"start_from": str(checkpoint)}
            if origin["logs"]:
                changes["replay"] = {"warm_start": origin["logs"]}
        data = self._settings.model_dump()
        for section, keys in changes.items():
            data[section] |= keys
        config = RunConfig.validated(data)
        run = RunDirectory.create(path, config)
        write_json(path / _TRIAL, {"values": self._values, "origin": origin, "core_hours": 0.0})
        if origin is not None and origin["logs"]:
            run.note(warm_limits=origin["fragments"])
        self._take(run)

    def _take(self, run: RunDirectory) -> None:
        self._run, self._settings = run, run.config()
        origin = _facts(run.path)["origin"] or {"env_steps": 0, "core_hours": 0.0}
        self._before = {name: origin[name] for name in ("env_steps", "core_hours")}
        self._spent_before = sum(_facts(path)["core_hours"] for path in self._mine() if path != run.path)
        self._env_steps, self._core_hours = 0, 0.0

    def _start(self) -> None:
        if self._run is None and not self._reopen(None):
            self._begin_from(None, None)
        run, config = self._run, self._settings
        assert run is not None
        if run.facts["sessions"]:
            count_leftovers(run)  # of a killed session
        trial = checks.try_environment(config)
        hosted = checks.with_hosting(config, trial, local=False)
        policies = checks.policy_specs(hosted, trial.spec)
        if run.facts["sessions"] == 0:
            run.note(logged=checks.keeps_log(hosted))
        run.begin_session()
        self._monitoring.enter_context(monitored(run, config))
        inline = hosted.env.hosting != "process"
        self._live = LiveRun(hosted, run, trial.spec, policies, inline=inline)
        while (status := self._live.status())["phase"] == "starting":
            time.sleep(_POLL_S)
        self._evaluations = status["num_evaluations"]
        if status["phase"] == "training":
            self._check_hyperparameters()

    def _check_hyperparameters(self) -> None:
        """Whatever was restored, the algorithm must hold this trial's values."""
        assert self._live is not None
        try:
            held = self._live.options()
        except ConfigError:  # a short run, that has stopped training just now
            return
        for key, value in self._values.items():
            section, _, name = key.partition(".")
            for policy, options in held.items():
                own = self._settings.policies.get(policy)
                if own is not None and name in own.algorithm:  # which stands above [algorithm]
                    continue
                if section == "algorithm" and name in options and options[name] != json.loads(json.dumps(value)):
                    raise RunFailed(
                        f"policy {policy!r} trains with {key} = {options[name]!r}, but this trial has {value!r}: a "
                        "defect of distrl"
                    )

    def _result(self, status: dict[str, Any]) -> dict[str, Any]:
        self._env_steps, self._core_hours = status["env_steps"], status["core_hours"]
        assert self._run is not None
        write_json(self._run.path / _TRIAL, _facts(self._run.path) | {"core_hours": self._core_hours})
        known = status | {
            "return_mean": status["evaluation"],
            "best_return_mean": status["best"],
            "recent_return_mean": status["recent_return"],
            "env_steps": self._before["env_steps"] + self._env_steps,
            "core_hours": self._before["core_hours"] + self._core_hours,
        }
        result = {name: known[name] for name in METRICS if known.get(name) is not None}
        learner = {f"{LEARNER}{name}": value for name, value in status["metrics"].items() if math.isfinite(value)}
        spent = self._spent_before + self._core_hours
        return result | learner | {"spent_core_hours": spent, "directory": str(self._run.path)}

    def _ended(self, summary: dict[str, Any]) -> None:
        assert self._run is not None
        write_json(self._run.path / "summary.json", summary)
        shutil.rmtree(self._run.scratch(), ignore_errors=True)


def _facts(run: Path) -> dict[str, Any]:
    return json.loads((run / _TRIAL).read_text())
