"""Records of a run's files in, what every sink draws of them out: scalars and histograms with their place on three
axes, and the outcomes of environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

AXES = ("env_steps", "updates", "wall_s")
_MEANS = 20  # points that the episodes of one reading become: a cheap environment ends thousands a second
_STATUS = (
    "busy", "env_steps_per_s", "staleness_p50", "staleness_p99", "staleness_max", "recent_return", "env_workers",
    "num_envs", "faults", "core_hours",
)  # fmt: skip


@dataclass
class Reading:
    """One place in a run.

    Attributes:
        axes: ``AXES`` → value, as far as known.
        scalars: by name, "group/name". histograms: name → [the most that a bin holds, numbers in it] of each bin.
    """

    axes: dict[str, float]
    scalars: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[list[float]]] = field(default_factory=dict)


class Readings:
    """Follows a run through its records.

    Attributes:
        outcomes: how often episodes ended in which way, environments failed and processes were restarted.
    """

    def __init__(self, state: dict[str, Any]):
        """Args: state: plain data of a predecessor, from where this one continues; kept up to date."""
        self._state = state
        self._axes: dict[str, float] = state.setdefault("axes", dict.fromkeys(AXES, 0))
        self.outcomes: dict[str, int] = state.setdefault("outcomes", {})

    def take(self, records: Iterable[dict[str, Any]]) -> Iterator[Reading]:
        """Of records in the run's order. Episodes that follow each other become at most 20 means, so that no sink gets
        more than it can draw."""
        for is_episode, group in groupby(records, key=lambda record: record["kind"] == "episode"):
            if is_episode:
                yield from self._episodes(list(group))
            else:
                for record in group:
                    yield from self._record(record)

    def _record(self, record: dict[str, Any]) -> Iterator[Reading]:
        kind = record["kind"]
        if kind in ("fault", "restart"):
            self._count(f"fault: {record['fault']}" if kind == "fault" else f"restart: {record['role']}")
            return
        for axis in AXES:
            self._axes[axis] = max(self._axes[axis], record.get(axis, 0))
        if kind == "status":
            scalars = {f"run/{name}": record.get(name) for name in _STATUS}
            scalars |= {f"busy/worker {state['worker']}": state["busy"] for state in record.get("workers", [])}
            yield self._reading(scalars)
        elif kind == "learner":
            yield self._reading({f"learner/{name}": value for name, value in record.items() if name not in _NO_METRIC})
        elif kind == "evaluation" and "returns" in record:  # the other one has its wall time
            lengths = float(np.mean(record["lengths"])) if record["lengths"] else None
            if record["best"]:
                self._state["best_return"] = record["return_mean"]
            best = self._state.get("best_return")
            scalars = {"evaluation/return": record["return_mean"], "evaluation/best_return": best}
            yield self._reading(scalars | {"evaluation/length": lengths})
        elif kind == "histograms":
            found = {f"run/{name}": bins for name, bins in record.items() if isinstance(bins, list) and bins}
            yield Reading(dict(self._axes), histograms=found)

    def _episodes(self, episodes: list[dict[str, Any]]) -> Iterator[Reading]:
        for episode in episodes:
            self._count(_outcome(episode))
        for part in np.array_split(np.arange(len(episodes)), min(len(episodes), _MEANS)):
            some = [episodes[index] for index in part]
            self._axes["env_steps"] = max(self._axes["env_steps"], some[-1]["env_steps"])
            values: dict[str, list[float]] = {}
            for episode in some:
                for name, value in _numbers(episode):
                    values.setdefault(name, []).append(value)
            yield self._reading({name: float(np.mean(of)) for name, of in values.items()})

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _reading(self, scalars: Mapping[str, Any]) -> Reading:
        return Reading(dict(self._axes), {name: value for name, value in scalars.items() if value is not None})


_NO_METRIC = {"kind", *AXES}


def _outcome(episode: dict[str, Any]) -> str:
    info = episode.get("info", {})
    if info.get("failed"):
        return "cut by a fault"
    if info.get("diverged"):
        return "diverged"
    return "terminated" if episode.get("terminated") else "truncated"


def _numbers(episode: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What is drawn of an episode; returns of two fidelities are two curves."""
    level = episode.get("fidelity", "default")
    group = "episode" if level == "default" else f"episode {level}"
    for name in ("return", "length"):
        if episode[name] is not None:
            yield f"{group}/{name}", episode[name]
    for policy, value in episode.get("returns", {}).items():
        if value is not None:
            yield f"{group}/return of {policy}", value
    for name, value in episode.get("info", {}).items():
        if name.startswith("episode_") and isinstance(value, int | float):
            yield f"{group}/{name.removeprefix('episode_')}", value
