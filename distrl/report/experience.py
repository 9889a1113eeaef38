"""An experience log in; what every environment did at any time, and how long its steps took, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import StorageError
from distrl.core.experience_log import read_columns
from distrl.core.log_facts import read_facts

STATES = ("step", "wait", "reset", "recovery")
STEP, WAIT, RESET, RECOVERY = range(4)
_NOTHING = -1
MAX_ENVIRONMENTS = 128  # that a timeline shows
_TB = ("reward", "start_s", "end_s", "episode_uid", "step", "attempt", "terminated", "truncated", "fidelity")
_LATE_S = 3.0  # a fault is recorded at most so long after it has happened
_PAUSE_S = 5.0  # without any env worker: the run was not going on
_SHORTEST_BIN_S = 1e-3


@dataclass(frozen=True)
class Fault:
    """Attributes: environment: index into ``Timeline.names``. at_s: on the timeline. kind, message: as recorded."""

    environment: int
    at_s: float
    kind: str
    message: str


@dataclass(frozen=True)
class Timeline:
    """What each environment did: of each time bin, the share of each state.

    Attributes:
        names: of E environments, ``worker.environment``. omitted: environments that are not among them.
        start_s: Unix time of its beginning. span_s: its length, pauses left out. bin_s: of a bin.
        shares: uint8 [E, bins, 4], 255 for all of a bin, by ``STATES``; what is missing to 255 is no life.
        pauses: (where it was cut, on the timeline; seconds) while the run was not going on.
        faults: of these environments.
    """

    names: list[str]
    omitted: int
    start_s: float
    span_s: float
    bin_s: float
    shares: np.ndarray
    pauses: list[tuple[float, float]]
    faults: list[Fault]


@dataclass(frozen=True)
class Experience:
    """What a log says of the environments.

    Attributes:
        env_steps: in it, each once. terminated, truncated: of them.
        step_s: fidelity → float64 [N], wall seconds of each step. wait_s: float64 [N], from the end of a step to the
            beginning of the next of its episode.
        timeline: of the environments. damaged: a sentence for each part of the log that could not be read.
    """

    env_steps: int
    terminated: int
    truncated: int
    step_s: dict[str, np.ndarray]
    wait_s: np.ndarray
    timeline: Timeline
    damaged: list[str]


def read_experience(log: Path, events: Sequence[dict[str, Any]], cells: int) -> Experience | None:
    """What the log in this folder says; None where it holds no transition.

    Args:
        events: of the run. cells: environments × bins that the timeline may have.
    """
    damaged: list[str] = []
    steps = _steps(log, damaged)
    if steps is None:
        return None
    try:
        facts = read_facts(log)
    except StorageError as error:
        damaged.append(str(error))
        facts = None
    names = facts.fidelities if facts else ()
    level = steps["fidelity"]
    step_s = {
        names[index] if index < len(names) else str(index): (steps["end_s"] - steps["start_s"])[level == index]
        for index in np.unique(level).tolist()
    }
    return Experience(
        env_steps=len(level),
        terminated=int(steps["terminated"].sum()),
        truncated=int((steps["truncated"] & ~steps["terminated"]).sum()),
        step_s=step_s,
        wait_s=(steps["start_s"][1:] - steps["end_s"][:-1])[_goes_on(steps)],
        timeline=_timeline(steps, events, cells),
        damaged=damaged,
    )


def _steps(log: Path, damaged: list[str]) -> dict[str, np.ndarray] | None:
    """Columns [N] of every env step once, by environment and time, with ``worker``, ``env`` and ``life``."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*_TB, "env_index")}
    lives = []
    for fragment in read_columns(log, {*_TB, "env_index"}, damaged):
        shape, columns = fragment.columns["reward"].shape, fragment.columns
        for name in _TB:
            parts[name].append(columns[name].ravel())
        parts["env_index"].append(np.broadcast_to(columns["env_index"], shape).ravel())
        lives.append((fragment.worker, fragment.incarnation, shape[0] * shape[1]))
    if not lives:
        return None
    steps = {name: np.concatenate(arrays) for name, arrays in parts.items() if name != "reward"}
    worker, life, counts = np.array(lives).T
    steps |= {"worker": np.repeat(worker, counts), "life": np.repeat(life, counts)}
    order = np.lexsort((steps["start_s"], steps["env_index"], steps["worker"]))
    steps = {name: array[order] for name, array in steps.items()}
    again = np.zeros(len(order), bool)  # what several agents of an environment did in the same step
    again[1:] = ~_new_environment(steps) & (steps["start_s"][1:] == steps["start_s"][:-1])
    first = np.flatnonzero(~again)
    over = {name: np.logical_or.reduceat(steps[name], first) for name in ("terminated", "truncated")}
    return {name: array[first] for name, array in steps.items()} | over


def _new_environment(steps: dict[str, np.ndarray]) -> np.ndarray:
    """bool [N − 1]: the next step is another environment's."""
    return (np.diff(steps["worker"]) != 0) | (np.diff(steps["env_index"]) != 0)


def _goes_on(steps: dict[str, np.ndarray]) -> np.ndarray:
    """bool [N − 1]: the next step follows in the same episode, without a failure between."""
    uid, attempt = steps["episode_uid"], steps["attempt"]
    same = (uid[1:] == uid[:-1]) & (steps["step"][1:] == steps["step"][:-1] + 1)
    return same & (attempt[1:] == attempt[:-1]) & (steps["life"][1:] == steps["life"][:-1])


def _timeline(steps: dict[str, np.ndarray], events: Sequence[dict[str, Any]], cells: int) -> Timeline:
    start, end = steps["start_s"], steps["end_s"]
    firsts = np.flatnonzero(np.concatenate([[True], _new_environment(steps)]))
    lasts = np.append(firsts[1:], len(start))
    restarts = [event for event in events if event["kind"] == "restart" and event["role"] == "env_worker"]
    breaks = _breaks(steps, [event["time_s"] for event in restarts])
    begin = float(start.min())
    span = float(end.max()) - begin - sum(stop - at for at, stop in breaks)
    shown = np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), MAX_ENVIRONMENTS)).round().astype(int))
    shortest = max(_SHORTEST_BIN_S, float(np.median(end - start)) / 50)
    bins = int(np.clip(span / shortest, 1, max(cells // len(shown), 100)))
    edges = np.linspace(0.0, max(span, 1e-9), bins + 1)
    shares = np.zeros((len(shown), bins, len(STATES)), np.uint8)
    faults = [event for event in events if event["kind"] == "fault"]
    names, marks = [], []
    follows = _goes_on(steps)
    for place, index in enumerate(shown.tolist()):
        part = slice(firsts[index], lasts[index])
        worker, env = int(steps["worker"][part][0]), int(steps["env_index"][part][0])
        names.append(f"{worker}.{env}")
        lives = set(steps["life"][part].tolist())
        its = [event for event in faults if event["row"] == env and event["incarnation"] in lives]
        marks += [
            Fault(place, float(_without(np.array([e["time_s"]]), begin, breaks)[0]), e["fault"], e["message"])
            for e in its
        ]
        # behind its last step it may have failed for good, while its env worker lived on
        last = max(float(end[part][-1]), float(end[steps["life"] == steps["life"][part][-1]].max()))
        gaps = end[part], np.append(start[part][1:], last)
        state = np.append(np.where(follows[part][: len(gaps[0]) - 1], WAIT, RESET), _NOTHING)
        state[:-1][np.diff(steps["attempt"][part]) > 0] = RECOVERY
        changed = np.append(np.diff(steps["life"][part]) != 0, False)
        state[changed] = _NOTHING
        state[changed & _holds(gaps, [event["time_s"] for event in restarts if event["worker"] == worker])] = RECOVERY
        state[_failed(gaps, [event["time_s"] for event in its])] = RECOVERY
        for number in range(len(STATES)):
            own = state == number
            first, until = (start[part], end[part]) if number == STEP else (gaps[0][own], gaps[1][own])
            shares[place, :, number] = _occupied(_without(first, begin, breaks), _without(until, begin, breaks), edges)
    pauses = [(float(_without(np.array([at]), begin, breaks)[0]), stop - at) for at, stop in breaks]
    return Timeline(names, len(firsts) - len(shown), begin, span, float(edges[1]), shares, pauses, marks)


def _breaks(steps: dict[str, np.ndarray], restarts: list[float]) -> list[tuple[float, float]]:
    """(from, to), Unix time, while no env worker lived and none was being replaced."""
    lives = steps["life"]
    order = np.argsort(lives, kind="stable")
    begins = np.flatnonzero(np.diff(lives[order], prepend=-1))
    spans = sorted(
        zip(
            np.minimum.reduceat(steps["start_s"][order], begins).tolist(),
            np.maximum.reduceat(steps["end_s"][order], begins).tolist(),
            strict=True,
        )
    )
    found, reached = [], spans[0][1]
    for begin, end in spans:
        if begin - reached > _PAUSE_S and not any(reached <= at <= begin for at in restarts):
            found.append((reached, begin))
        reached = max(reached, end)
    return found


def _without(times: np.ndarray, begin: float, breaks: list[tuple[float, float]]) -> np.ndarray:
    """Unix times on the timeline, [N]: pauses take no room."""
    return times - begin - sum((np.clip(times - at, 0.0, stop - at) for at, stop in breaks), np.zeros(len(times)))


def _holds(gaps: tuple[np.ndarray, np.ndarray], times: list[float]) -> np.ndarray:
    """bool [N]: which of the gaps one of these times is in."""
    return (
        np.any([(gaps[0] <= at) & (at <= gaps[1]) for at in times], axis=0) if times else np.zeros(len(gaps[0]), bool)
    )


def _failed(gaps: tuple[np.ndarray, np.ndarray], times: list[float]) -> np.ndarray:
    """int [M]: the gap of each fault, which is recorded a little later than it has happened: the longest near it."""
    found = []
    for at in times:
        near = np.flatnonzero((gaps[0] <= at) & (gaps[1] >= at - _LATE_S))
        if len(near):
            found.append(near[np.argmax((gaps[1] - gaps[0])[near])])
    return np.array(found, np.int64)


def _occupied(begin: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """uint8 [bins]: the share of each bin inside the intervals, which do not overlap and are in order."""
    if not len(begin):
        return np.zeros(len(edges) - 1, np.uint8)
    knots = np.stack([begin, np.maximum(end, begin)], 1).ravel()
    lengths = np.stack([np.zeros(len(begin)), np.maximum(end - begin, 0.0)], 1).ravel()
    inside = np.interp(edges, np.maximum.accumulate(knots), np.cumsum(lengths))
    return np.clip(np.diff(inside) / np.diff(edges) * 255.0, 0.0, 255.0).round().astype(np.uint8)
