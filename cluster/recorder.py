"""Reports of the components in, the run directory's metrics, timing and event files and the totals out: their sole
writer.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.accounting import Accounts, Ledger
from distrl.core.metrics import JsonLines, read_json_lines
from distrl.core.staleness import StalenessHistogram
from distrl.learners.league.payoffs import Match, MatchWriter

_POOL_TOTALS = ("step_s", "reset_s", "core_s", "lifetime_s", "cpu_s")
_LEVEL_TOTALS = ("env_steps_by_fidelity", "core_s_by_fidelity")
_RECENT = 20  # episodes
_BUSY_TICKS = 6  # over which an env worker's busy fraction is measured
_WORKERS_SHOWN = 64  # in a status; of more, the least busy ones
_HISTOGRAM_PERIOD_S = 60.0


class Recorder:
    """Keeps the newest report of every worker's life and of the learner, and writes what changed.

    Attributes:
        env_steps: steps that environments have finished, earlier sessions included.
        best_return: of the evaluations, or None.
        updates_in_all: after which the run ends, where updates decide that.
    """

    def __init__(
        self,
        directory: Path,
        record_period: int,
        target: str | None = None,
        league: bool = False,
        *,
        by_updates: bool = False,
    ):
        """
        Args:
            record_period: env steps between two records of the learner's metrics; with ``by_updates``, updates.
            target: the fidelity whose training returns are the run's; None where all episodes have the same.
            league: episodes are matches, whose results the learner reads; and the newest policy is taken for the best:
                a return against an equal says nothing.
        """
        self._by_updates = by_updates
        self.updates_in_all: int | None = None
        self._target = target
        self._matches = MatchWriter(directory / "league", "supervisor") if league else None
        self._metrics = JsonLines(directory / "metrics.jsonl")
        self._timing = JsonLines(directory / "timing.jsonl")
        self._events = JsonLines(directory / "events.jsonl")
        self._started = time.monotonic()
        self._record_period = record_period
        self._workers: dict[int, dict[str, Any]] = {}  # incarnation → newest report of this session
        self._live: set[int] = set()
        self._learner: dict[str, Any] = {
            "updates": 0,
            "secured": {},
            "rejected": {},
            "unsampled": 0,
            "evicted": 0,
            "duplicates": 0,
            "warm": 0,
            "metrics": {},
        }
        self._last_recorded = -1
        self._learner_life = 0
        self._shards: dict[str, dict[str, Any]] = {}
        self._first_step_s: float | None = None
        self._produced_before: dict[int, int] = {}
        self._steps_before = 0  # env steps of earlier sessions
        self._counted: dict[int, int] = {}  # incarnation → transitions that its environments counted, told by others
        self._committed: dict[int, int] = {}  # incarnation → transitions that its spool has held
        self._ticks: dict[
            int, deque[tuple[float, float]]
        ] = {}  # incarnation → (step_s, lifetime_s) at the newest ticks
        self._histograms_s = 0.0  # when they were written, in seconds of this session
        self._returns: dict[str, deque[float]] = {}  # fidelity → of its newest episodes
        self._inference: dict[int, dict[str, Any]] = {}  # by process id
        self.faults: Counter[str] = Counter()  # by kind
        self.restarts: Counter[str] = Counter()  # by role
        self.evaluations: list[dict[str, Any]] = [
            record for record in read_json_lines(directory / "metrics.jsonl") if record["kind"] == "evaluation"
        ]
        finite = [record["return_mean"] for record in self.evaluations if record["return_mean"] is not None]
        self.best_return: float | None = max(finite, default=None)
        totals = [record for record in read_json_lines(directory / "timing.jsonl") if record["kind"] == "totals"]
        self._before: dict[str, Any] = totals[-1] if totals else {}

    # -- what components report ----------------------------------------------------------------------------------------

    def began(self, learner: dict[str, Any], produced: dict[int, int], committed: dict[int, int]) -> None:
        """The learner is up. ``produced`` and ``committed``: by the lives of earlier sessions, where that is known; at
        least what was secured of them was produced.
        """
        self._learner = learner
        self._committed = committed | self._committed
        secured = {int(key): value for key, value in learner["secured"].items()}
        lives = set(produced) | set(secured)
        self._produced_before = {life: max(produced.get(life, 0), secured.get(life, 0)) for life in lives}
        self._steps_before = self.env_steps
        self._last_recorded = self._come // self._record_period

    def worker_reported(self, incarnation: int, report: dict[str, Any]) -> None:
        """A live worker's report; its episodes and faults are written."""
        self._live.add(incarnation)
        self._workers[incarnation] = report
        if self._first_step_s is None and report["env_steps"]:
            self._first_step_s = self.wall_s
        for episode in report["episodes"]:
            self._returns.setdefault(episode["fidelity"], deque(maxlen=_RECENT)).append(episode["return"])
            self._metrics.write({"kind": "episode", "env_steps": self.env_steps, **episode})
            if self._matches is not None:
                players, scores = episode["players"], episode["scores"]
                self._matches.add(Match(players, scores, episode["length"], time.time()))
        for fault in report["faults"]:
            self.faults[fault["fault"]] += 1
            self.event("fault", incarnation=incarnation, **fault)
        self._committed[incarnation] = report["committed"]

    def worker_ended(self, incarnation: int, produced: int | None = None) -> None:
        """A worker's life is over. ``produced``: what its environments counted, if it could not report that."""
        self._live.discard(incarnation)
        self._ticks.pop(incarnation, None)
        if produced is not None:
            self._counted[incarnation] = produced

    def adopted(self, committed: dict[int, int]) -> bool:
        """Spools of dead lives have been taken over: incarnation → transitions that each had committed. Whether that
        is news.
        """
        before = dict(self._committed)
        self._committed |= committed
        return self._committed != before

    def inference_reported(self, report: dict[str, Any]) -> None:
        """An inference server's totals."""
        self._inference[report["pid"]] = report

    def shard_reported(self, name: str, report: dict[str, Any]) -> None:
        """A parameter shard's counters."""
        self._shards[name] = report

    def learner_reported(self, report: dict[str, Any]) -> None:
        """The learner's counters and metrics."""
        self._learner = report
        if report["life"] != self._learner_life:
            self._learner_life = report["life"]
            self._metrics.write({"kind": "learner_began", "updates": report["began"], "life": report["life"]})
        due = self._come // self._record_period
        if due > self._last_recorded and report["metrics"]:
            self._last_recorded = due
            self._metrics.write(
                {
                    "kind": "learner",
                    "env_steps": self.env_steps,
                    "updates": report["metrics_updates"],
                    **report["metrics"],
                }
            )

    def evaluated(
        self, env_steps: int, updates: int, seeds: list[int], returns: list[float], lengths: list[int]
    ) -> bool:
        """An evaluation; returns whether it is the best so far."""
        finite = [value for value in returns if np.isfinite(value)]
        mean = float(np.mean(finite)) if finite else None
        best = mean is not None and is_best(mean, self.best_return, self._matches is not None)
        if best:
            self.best_return = mean
        record = {
            "kind": "evaluation",
            "env_steps": env_steps,
            "updates": updates,
            "return_mean": mean,
            "returns": returns,
        }
        record |= {"lengths": lengths, "seeds": seeds, "best": best}
        self.evaluations.append(record)
        self._metrics.write(record)
        self._timing.write(
            {"kind": "evaluation", "wall_s": self.total_wall_s, "env_steps": env_steps, "return_mean": mean}
        )
        return best

    def event(self, kind: str, **facts: Any) -> None:
        """Something that happened once."""
        if kind == "restart":
            self.restarts[facts["role"]] += 1
        self._events.write({"kind": kind, "time_s": time.time(), **facts})

    # -- what the run has come to --------------------------------------------------------------------------------------

    @property
    def wall_s(self) -> float:
        """Seconds since this session began, without those that ``stood_still``."""
        return time.monotonic() - self._started

    def stood_still(self, seconds: float) -> None:
        """The training has waited so long for something that is no part of it."""
        self._started += seconds

    @property
    def total_wall_s(self) -> float:
        """Wall seconds over all sessions."""
        return self._before.get("wall_s", 0.0) + self.wall_s

    @property
    def produced(self) -> dict[int, int]:
        """Incarnation → transitions its environments finished: as they counted, and at least what was secured of
        them."""
        reported = {life: report["produced"] for life, report in self._workers.items()}
        known = (self._produced_before, reported, self._counted, self._learner["secured"])
        return {life: max(counts.get(life, 0) for counts in known) for life in set().union(*known)}

    @property
    def committed(self) -> dict[int, int]:
        """Incarnation → transitions that its spool has held."""
        return dict(self._committed)

    @property
    def env_steps(self) -> int:
        """Env steps finished over all sessions: as env workers report them, and with as many transitions each where
        only transitions are known."""
        reports = [self._before, *self._workers.values()]
        steps, transitions = (sum(report.get(name, 0) for report in reports) for name in ("env_steps", "produced"))
        unreported = sum(self.produced.values()) - transitions
        return steps + (round(unreported * steps / transitions) if transitions else unreported)

    @property
    def _come(self) -> int:
        """How far the run has come, in what ``record_period`` counts."""
        return int(self._learner["updates"]) if self._by_updates else self.env_steps

    @property
    def known_env_steps(self) -> int:
        """At least so many: before the learner is up, what earlier sessions have recorded."""
        return max(self.env_steps, self._before.get("env_steps", 0))

    def accounts(self) -> Accounts:
        """Every transition in exactly one state."""
        learner = self._learner
        ledger = Ledger.from_state({name: learner[name] for name in ("secured", "duplicates", "rejected", "warm")})
        frozen = {life: report.get("frozen", 0) for life, report in self._workers.items()}
        return ledger.balance(self.produced, self._live, learner["unsampled"], learner["evicted"], frozen)

    def totals(self) -> dict[str, Any]:
        """The measured totals over all sessions."""
        sums = {
            name: self._before.get(name, 0.0) + sum(report.get(name, 0.0) for report in self._workers.values())
            for name in _POOL_TOTALS
        }
        by_level: dict[str, Counter[str]] = {}
        for name in _LEVEL_TOTALS:
            by_level[name] = Counter(self._before.get(name, {}))
            for report in self._workers.values():
                by_level[name].update(report.get(name, {}))
        learner_cpu_s = self._before.get("learner_cpu_s", 0.0) + self._learner.get("cpu_s", 0.0)
        update_wall_s = self._before.get("update_wall_s", 0.0) + self._learner.get("training_s", 0.0)
        return {
            **sums,
            **{name: dict(counts) for name, counts in by_level.items()},
            "env_steps": self.env_steps,
            "produced": sum(self.produced.values()),
            "learner_cpu_s": learner_cpu_s,
            "update_wall_s": update_wall_s,
            "wall_s": self.total_wall_s,
        }

    @property
    def core_hours(self) -> float:
        """CPU time of environments, env workers and learner over all sessions."""
        totals = self.totals()
        return (totals["core_s"] + totals["cpu_s"] + totals["learner_cpu_s"]) / 3600

    def recent_returns(self) -> dict[str, float]:
        """Fidelity → mean return of its newest training episodes: levels have returns of their own."""
        return {level: float(np.mean(returns)) for level, returns in self._returns.items()}

    def _recent_return(self) -> float | None:
        """The entry of the target."""
        found = self.recent_returns()
        return found.get(self._target) if self._target is not None else next(iter(found.values()), None)

    def status(self) -> dict[str, Any]:
        """What a progress display shows."""
        totals = self.totals()
        live = [self._workers[key] for key in self._live]
        return {
            "env_steps": self.env_steps,
            "updates": self._learner["updates"],
            "wall_s": self.total_wall_s,
            "session_s": self.wall_s,
            "busy": totals["step_s"] / totals["lifetime_s"] if totals["lifetime_s"] else 0.0,
            "env_steps_per_s": (self.env_steps - self._steps_before) / max(self.wall_s, 1e-9),
            **{name: self._learner.get(name, 0) for name in ("staleness_p50", "staleness_p99", "staleness_max")},
            "recent_return": self._recent_return(),
            "recent_return_by_fidelity": self.recent_returns(),
            "num_envs": sum(report.get("num_envs", 0) for report in live),
            "env_workers": len(live),
            "faults": self.faults.total(),
            "core_hours": self.core_hours,
            "num_evaluations": len(self.evaluations),
            "evaluation": self.evaluations[-1]["return_mean"] if self.evaluations else None,
            "best": self.best_return,
            "metrics": self._learner["metrics"],
            "waits_for": self._learner.get("waits_for"),
            "workers": self._worker_states(),
            **({} if self.updates_in_all is None else {"updates_in_all": self.updates_in_all}),
        }

    def _worker_states(self) -> list[dict[str, Any]]:
        """Of each live env worker: its number, environments, busy fraction of late, and what all of them wait for, or
        None; of many, those that are the least busy."""
        states = []
        for life in list(self._live):
            report, ticks = self._workers[life], self._ticks.get(life)
            step_s, lifetime_s = ticks[0] if ticks else (0.0, 0.0)
            lived_s = report["lifetime_s"] - lifetime_s
            state = {
                "worker": report["worker"],
                "num_envs": report["num_envs"],
                "busy": min((report["step_s"] - step_s) / lived_s, 1.0) if lived_s > 0 else 0.0,
                "waits_for": report["waits_for"],
            }
            states.append(state)
        states = sorted(states, key=lambda state: state["busy"])[:_WORKERS_SHOWN]
        return sorted(states, key=lambda state: state["worker"])

    def _histograms(self) -> dict[str, Any]:
        """Staleness over all sessions, and the times of the steps that have come in this life of the learner; each as
        [the most that a bin holds, numbers in it]. Of several policies, staleness also by ``staleness/NAME``."""
        by_policy = self._learner.get("staleness_by_policy", {})
        return {
            "env_steps": self.env_steps,
            "staleness": self._learner.get("staleness_counts", []),
            **{f"staleness/{name}": summary["staleness_counts"] for name, summary in by_policy.items()},
            "step_s": self._learner.get("step_s_counts", []),
        }

    def tick(self) -> None:
        """Write the measured quantities of this moment."""
        status = self.status()
        for life in self._live:
            report = self._workers[life]
            ticks = self._ticks.setdefault(life, deque(maxlen=_BUSY_TICKS))
            ticks.append((report["step_s"], report["lifetime_s"]))
        self._timing.write({"kind": "status", **{name: status[name] for name in status if name != "metrics"}})
        self._timing.write({"kind": "totals", **self.totals()})
        if self.wall_s - self._histograms_s > _HISTOGRAM_PERIOD_S:
            self._histograms_s = self.wall_s
            self._timing.write({"kind": "histograms", **self._histograms()})

    def summary(self) -> dict[str, Any]:
        """The run in numbers; the final evaluation adds its own (results.py)."""
        accounts, totals = self.accounts(), self.totals()
        training_s = totals["update_wall_s"]
        return {
            "env_steps": self.env_steps,
            "updates": self._learner["updates"],
            "wall_s": totals["wall_s"],
            "env_busy_fraction": totals["step_s"] / totals["lifetime_s"] if totals["lifetime_s"] else 0.0,
            "env_cpu_share": totals["core_s"] / totals["lifetime_s"] if totals["lifetime_s"] else 0.0,
            "env_reset_fraction": totals["reset_s"] / totals["lifetime_s"] if totals["lifetime_s"] else 0.0,
            "updates_per_s": self._learner["updates"] / training_s if training_s else 0.0,
            **StalenessHistogram().summary(),
            **{name: value for name, value in self._learner.items() if name.startswith("staleness_")},
            "transitions_produced": accounts.produced,
            "transitions_trained": accounts.trained,
            "transitions_queued": accounts.queued,
            "transitions_evicted": accounts.evicted,
            "transitions_rejected": accounts.rejected,
            "transitions_duplicated": self._learner["duplicates"],
            "transitions_warm": accounts.warm,
            "transitions_committed": sum(self._committed.values()),
            "transitions_lost": sum(
                max(count - self._learner["secured"].get(life, 0), 0) for life, count in self._committed.items()
            ),
            "steps_recomputed": sum(report.get("recomputed", 0) for report in self._workers.values()),
            "updates_undone": self._learner.get("updates_undone", 0),
            "episodes_diverged": sum(report.get("diverged", 0) for report in self._workers.values()),
            "faults": dict(self.faults),
            "restarts": dict(self.restarts),
            **self._inference_totals(),
            **self._shard_totals(),
            "best_return_mean": self.best_return,
            "recent_return_mean": self._recent_return(),
            "recent_return_mean_by_fidelity": self.recent_returns(),
            "env_steps_by_fidelity": totals["env_steps_by_fidelity"],
            "core_hours_by_fidelity": {level: core_s / 3600 for level, core_s in totals["core_s_by_fidelity"].items()},
            "first_env_step_s": self._first_step_s,
            "core_hours": self.core_hours,
        }

    def _inference_totals(self) -> dict[str, Any]:
        """What inference servers answered; nothing where there are none."""
        reports = list(self._inference.values())
        rows, batches = (sum(report[name] for report in reports) for name in ("rows", "batches"))
        if not batches:
            return {}
        inference_s = sum(report["inference_s"] for report in reports)
        return {
            "inference_rows": rows,
            "inference_rows_per_batch": rows / batches,
            "inference_batch_s": inference_s / batches,
        }

    def _shard_totals(self) -> dict[str, Any]:
        """What the parameter shards took in, since each started; nothing where there are none."""
        reports = list(self._shards.values())
        if not reports:
            return {}
        return {
            "shards": len(reports),
            "shard_nodes": len({report["node_id"] for report in reports}),
            "shard_pushes": sum(report["pushes"] for report in reports),
            "shard_bytes": sum(report["bytes"] for report in reports),
            "gradient_staleness_mean": max(report["gradient_staleness_mean"] for report in reports),
            "gradient_staleness_max": max(report["gradient_staleness_max"] for report in reports),
        }

    def close(self) -> None:
        """Write the last totals and close the files."""
        self._histograms_s = -_HISTOGRAM_PERIOD_S
        self.tick()
        for file in (self._metrics, self._timing, self._events):
            file.close()
        if self._matches is not None:
            self._matches.close()


def is_best(mean: float, best: float | None, league: bool) -> bool:
    """Whether an evaluation's policies take the place of the best ones so far; see ``Recorder``."""
    return league or best is None or mean > best
