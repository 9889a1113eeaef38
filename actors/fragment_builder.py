"""Requests and outcomes of a pool in, closed fragments out: each step is written once, into preallocated columns.

A row's open fragment lives in slots 0 … T of the columns. A request writes slot t (observation, action, provenance),
its outcome completes slot t and moves the row's cursor to t + 1. Whenever a row is cut, the slot that is still in
flight becomes slot 0 of the next fragment and its observation the bootstrap row of this one, so a fragment can be
closed at any time without losing a step.

A step can also be had before its fragment closes, as a *piece* (``pieces``): so each one can be committed on its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.core.contracts import Fault, Outcomes, Requests
from distrl.core.fragments import part
from distrl.core.types import COLUMNS, FINAL, OBSERVATION, STATE, Columns, Cursor, Fragment, Observation

_REQUEST_COLUMNS = ("log_prob", "policy_version", "episode_uid", "step", "seed", "fidelity")


@dataclass(frozen=True)
class Closed:
    """A closed fragment.

    Attributes:
        fragment: all of it.
        numbers: of each of its B rows' stretches, unique in the builder's life: what ``pieces`` called them.
        given: how many first steps of each row ``pieces`` has given out already.
    """

    fragment: Fragment
    numbers: list[int]
    given: list[int]

    def rest(self) -> list[tuple[int, Fragment]]:
        """(number, piece) of what ``pieces`` has not given out."""
        steps = self.fragment.num_steps
        return [
            (number, part(self.fragment, row, given, steps))
            for row, (number, given) in enumerate(zip(self.numbers, self.given, strict=True))
            if given < steps
        ]


class FragmentBuilder:
    """Builds the fragments of one pool.

    ``grouped=False`` (process pools): every row closes on its own, at the end of its episode, after ``max_steps`` or
    ``max_age_s``, and fragments have B = 1. ``grouped=True`` (inline pools, whose rows move in step): all rows close
    together after ``max_steps`` and fragments are [T, B], with episode ends inside.
    """

    def __init__(
        self,
        env_index: np.ndarray,
        agent_index: np.ndarray,
        observation: dict[str, tuple[tuple[int, ...], str]],
        action: tuple[tuple[int, ...], str],
        *,
        max_steps: int,
        max_age_s: float | None,
        grouped: bool = False,
        worker: int = 0,
        incarnation: int = 0,
    ):
        """
        Args:
            env_index, agent_index: int32 [R], of the pool's rows.
            observation: path → (shape, dtype) of one row. action: (shape, dtype).
            max_steps: T of a full fragment. max_age_s: None closes by age never.
        """
        rows, slots = len(env_index), max_steps + 1
        self._max_steps, self._max_age_s, self._grouped = max_steps, max_age_s, grouped
        self._origin: dict[str, Any] = {"worker": worker, "incarnation": incarnation}
        self._indices = {"env_index": np.asarray(env_index, np.int32), "agent_index": np.asarray(agent_index, np.int32)}
        # impossible values, so that a slot that was never written shows
        self._columns: Columns = {
            name: np.full((slots, rows), np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
            for name, (dtype, axes) in COLUMNS.items()
            if axes == "TB"
        }
        self._columns["action"] = _blank((slots, rows), *action)
        for path, (shape, dtype) in observation.items():
            self._columns[OBSERVATION + path] = _blank((slots, rows), shape, dtype)
        self._paths = list(observation)
        self._cursor = np.zeros(rows, np.int64)
        self._opened_at = np.full(rows, np.inf)  # when the row's first finished step came, in the caller's clock
        self._in_flight = np.zeros(rows, bool)  # slot `cursor` holds a request without an outcome
        self._numbers = itertools.count()
        self._number = [next(self._numbers) for _ in range(rows)]  # of each row's open stretch
        self._given = np.zeros(rows, np.int64)  # steps of it that ``pieces`` has given out
        self._episode_return = np.zeros(rows, np.float64)
        self._first_state: Columns = {}  # the policy's state before slot 0, path → [R, …] …
        self._flight_state: Columns = {}  # … and before the newest slot
        self._finals: list[
            tuple[int, int, Observation]
        ] = []  # grouped: (t, row, final observation) inside the open fragment
        self._closed: list[Closed] = []
        self.episodes: list[dict] = []  # finished episodes since the caller last emptied it

    def requested(
        self, requests: Requests, action: np.ndarray, log_prob: np.ndarray, version: int, state: Columns
    ) -> None:
        """Record the actions just chosen.

        Args:
            action: [N, …]. log_prob: float32 [N]. version: of the weights that chose. state: the policy's state
            *before* the
                step, path → [N, …].
        """
        rows = requests.rows
        self._episode_return[rows] = requests.episode_return
        slots = self._cursor[rows]
        for path in self._paths:
            self._columns[OBSERVATION + path][slots, rows] = requests.observation[path]
        self._columns["action"][slots, rows] = action
        values = (log_prob, version, requests.episode_uid, requests.step, requests.seed, requests.fidelity)
        for name, value in zip(_REQUEST_COLUMNS, values, strict=True):
            self._columns[name][slots, rows] = value
        self._in_flight[rows] = True
        opening = slots == 0
        for path, array in state.items():
            for store in (self._first_state, self._flight_state):
                store.setdefault(path, np.zeros((len(self._cursor), *array.shape[1:]), array.dtype))
            self._flight_state[path][rows] = array
            self._first_state[path][rows[opening]] = array[opening]
        if self._grouped:
            if (slots == self._max_steps).any():
                self.flush()
            return
        for row in rows[slots == self._max_steps]:
            self._close(np.array([row]))

    def close_aged(self, now: float) -> None:
        """Close every fragment whose first step finished more than ``max_age_s`` ago. ``now``: seconds, any clock."""
        if self._max_age_s is not None:
            for row in np.flatnonzero(now - self._opened_at > self._max_age_s):
                self._close(np.array([row]))

    def finished(self, outcomes: Outcomes, now: float) -> None:
        """Record what became of the actions."""
        rows = outcomes.rows
        if not len(rows):
            return
        slots = self._cursor[rows]
        for name in ("reward", "terminated", "truncated", "start_s", "end_s", "core_s", "attempt"):
            self._columns[name][slots, rows] = getattr(outcomes, name)
        self._cursor[rows] += 1
        self._in_flight[rows] = False
        self._opened_at[rows] = np.minimum(self._opened_at[rows], now)
        self._episode_return[rows] += outcomes.reward
        for k, position in enumerate(outcomes.ended):
            row = int(rows[position])
            final = {path: outcomes.final_observation[path][k] for path in self._paths}
            self._end_episode(row, outcomes.info[k])
            if self._grouped:
                self._finals.append((int(slots[position]), row, {path: array.copy() for path, array in final.items()}))
            else:
                for path in self._paths:
                    self._columns[OBSERVATION + path][self._cursor[row], row] = final[path]
                self._close(np.array([row]))

    def failed(self, faults: Sequence[Fault]) -> None:
        """Cut the episodes of environments that failed: their finished steps are kept, the last one as truncated."""
        for fault in faults:
            if fault.cut:
                self._cut(fault.row)
                self._close(np.array([fault.row]))

    def flush(self) -> None:
        """Close every open fragment, whatever its length; steps in flight stay open.

        Rows that move in step close as one rectangle. After a failed row has missed a round they are out of step: then
        each closes on its own, and all are in step again.
        """
        if self._grouped and (self._cursor == self._cursor[0]).all():
            self._close(np.arange(len(self._cursor)))
        else:
            for row in range(len(self._cursor)):
                self._close(np.array([row]))

    def take(self) -> list[Closed]:
        """The fragments closed since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def pieces(self) -> list[tuple[int, Fragment]]:
        """(number of the open stretch, its newest steps) of every row that has finished steps since the last call and
        whose next observation is known."""
        rows = np.flatnonzero(self._in_flight & (self._cursor > self._given))
        found = [
            (self._number[row], self._part(np.array([row]), int(self._given[row]), int(self._cursor[row])))
            for row in rows.tolist()
        ]
        self._given[rows] = self._cursor[rows]
        return found

    @property
    def num_in_flight(self) -> int:
        """Rows that have been told to step and have not finished."""
        return int(np.count_nonzero(self._in_flight))

    def cursors(self) -> dict[int, Cursor]:
        """env_index → the newest finished step of each environment whose episode goes on."""
        rows = np.arange(len(self._cursor))
        uid, step = self._columns["episode_uid"][self._cursor, rows], self._columns["step"][self._cursor, rows]
        return {
            int(self._indices["env_index"][row]): Cursor(int(uid[row]), int(step[row]) - 1)
            for row in np.flatnonzero(self._in_flight & (step > 0))
        }

    def _cut(self, row: int) -> None:
        if self._cursor[row]:
            self._columns["truncated"][self._cursor[row] - 1, row] |= not self._columns["terminated"][
                self._cursor[row] - 1, row
            ]
        self._end_episode(row, {"failed": True})
        self._in_flight[row] = False

    def _end_episode(self, row: int, info: dict) -> None:
        last = max(int(self._cursor[row]) - 1, 0)
        self.episodes.append(
            {
                "return": float(self._episode_return[row]),
                "length": self._episode_length(row),
                "env_index": int(self._indices["env_index"][row]),
                "agent_index": int(self._indices["agent_index"][row]),
                "seed": int(self._columns["seed"][last, row]),
                "fidelity": int(self._columns["fidelity"][last, row]),
                "policy_version": int(self._columns["policy_version"][last, row]),
                **self._origin,
                "info": info,
            }
        )

    def _episode_length(self, row: int) -> int:
        steps, finished = self._columns["step"][:, row], int(self._cursor[row])
        return int(steps[finished - 1]) + 1 if finished else int(steps[0]) * bool(self._in_flight[row])

    def _close(self, rows: np.ndarray) -> None:
        length = int(self._cursor[rows[0]])
        if length:
            numbers = [self._number[row] for row in rows]
            self._closed.append(Closed(self._part(rows, 0, length), numbers, self._given[rows].tolist()))
            for row in rows:
                self._number[row] = next(self._numbers)
            self._given[rows] = 0
            self._finals = [item for item in self._finals if item[1] not in rows]
        for column in self._columns.values():
            column[0, rows] = column[length, rows]
        for path, array in self._flight_state.items():
            self._first_state[path][rows] = array[rows]
        self._cursor[rows] = 0
        self._opened_at[rows] = np.inf

    def _part(self, rows: np.ndarray, start: int, stop: int) -> Fragment:
        """Steps [start, stop) of rows' open stretches, copied."""
        columns = {
            name: column[start : stop + name.startswith(OBSERVATION), rows].copy()
            for name, column in self._columns.items()
        }
        columns |= {name: array[rows] for name, array in self._indices.items()}
        columns |= {STATE + path: array[rows].copy() for path, array in self._first_state.items()}
        position = {int(row): b for b, row in enumerate(rows)}
        finals = [(t, row, final) for t, row, final in self._finals if row in position and start <= t < stop]
        columns["final_index"] = np.array([(t - start, position[row]) for t, row, _ in finals], np.int32).reshape(-1, 2)
        for path in self._paths:
            store = self._columns[OBSERVATION + path]
            stacked = [final[path] for _, _, final in finals]
            columns[FINAL + path] = np.array(stacked, store.dtype).reshape(-1, *store.shape[2:])
        return Fragment(columns, **self._origin)


def _blank(leading: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.full((*leading, *shape), np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
