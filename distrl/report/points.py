"""A run's metrics and timing records in; returns against env steps, updates, wall time and core-hours out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Record = dict[str, Any]

CPU_TOTALS = ("core_s", "cpu_s", "learner_cpu_s")  # of environments, of env workers, of the learner


@dataclass(frozen=True)
class Points:
    """Returns, each with how far the run had come; all float64 [N], in the order in which they were recorded.

    Attributes:
        value: the return. env_steps: finished in all environments. updates: of the learner; NaN where not recorded.
        wall_s, core_hours: NaN where the run has no totals.
    """

    value: np.ndarray
    env_steps: np.ndarray
    updates: np.ndarray
    wall_s: np.ndarray
    core_hours: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def select(self, which: np.ndarray) -> Points:
        """Some of them: which, bool [N] or indices."""
        return Points(*(getattr(self, field.name)[which] for field in fields(self)))


class Clock:
    """How wall time and core-hours went with env steps, by a run's totals.

    Args:
        totals: the ``totals`` records of timing.jsonl, of all sessions.
    """

    def __init__(self, totals: Sequence[Record]):
        table = np.array(
            [(0.0, 0.0, 0.0)] + [(t["wall_s"], core_hours(t), t.get("env_steps") or 0.0) for t in totals], np.float64
        )
        # a session that was killed may have come further than its last record: the next one starts behind it
        self._wall_s, self._core_hours, self._env_steps = np.maximum.accumulate(table).T
        self.known = len(totals) > 0

    def core_hours(self, wall_s: np.ndarray) -> np.ndarray:
        """Core-hours by then."""
        return np.interp(wall_s, self._wall_s, self._core_hours) if self.known else np.full(np.shape(wall_s), np.nan)

    def wall_s(self, env_steps: np.ndarray) -> np.ndarray:
        """When the run had come so far."""
        if not self.known or not self._env_steps[-1]:
            return np.full(np.shape(env_steps), np.nan)
        return np.interp(env_steps, self._env_steps, self._wall_s)


def core_hours(totals: Record) -> float:
    """All CPU time of a ``totals`` record."""
    return sum(totals.get(name) or 0.0 for name in CPU_TOTALS) / 3600


def evaluations(metrics: Sequence[Record], timing: Sequence[Record], clock: Clock) -> Points:
    """The held-out evaluations with a return that is a number."""
    waiting = [record for record in timing if record["kind"] == "evaluation"]
    rows = []
    for record in metrics:
        if record["kind"] != "evaluation":
            continue
        wall_s = np.nan
        for place, timed in enumerate(waiting):  # a kill may have come between the two files
            if all(timed.get(name) == record.get(name) for name in ("env_steps", "return_mean")):
                wall_s = timed["wall_s"]
                del waiting[: place + 1]
                break
        if record["return_mean"] is not None:
            rows.append((record["return_mean"], record["env_steps"], record.get("updates", np.nan), wall_s))
    value, steps, updates, wall = np.array(rows, np.float64).reshape(-1, 4).T
    wall = np.where(np.isnan(wall), clock.wall_s(steps), wall)
    return Points(value, steps, updates, wall, clock.core_hours(wall))


def episodes(found: Sequence[tuple[float, float]], clock: Clock) -> Points:
    """Training episodes, from (return, env steps of the run when it ended) pairs."""
    returns, steps = np.array(found, np.float64).reshape(-1, 2).T
    wall = clock.wall_s(steps)
    return Points(returns, steps, np.full(len(steps), np.nan), wall, clock.core_hours(wall))
