"""Requests and outcomes of a pool in, closed fragments out: each step is written once, into preallocated columns.

A row's open fragment lives in slots 0 … T of the columns. A request writes slot t (observation, action, provenance),
its outcome completes slot t and moves the row's cursor to t + 1. Whenever a row is cut, the slot that is still in
flight becomes slot 0 of the next fragment and its observation the bootstrap row of this one, so a fragment can be
closed at any time without losing a step.

Rows that move in step are written and closed as slices over all of them, others by index. A closed fragment is a copy
of its slots: one per fragment costs less than what would have to be kept track of to hand out the slots themselves.

A step can also be had before its fragment closes, as a *piece* (``pieces``): so each one can be committed on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.core.contracts import Fault, Outcomes, Requests
from distrl.core.fragments import part
from distrl.core.types import COLUMNS, DEFAULT_POLICY, FINAL, OBSERVATION, STATE, Columns, Cursor, Fragment, Observation

_REQUEST_COLUMNS = ("log_prob", "policy_version", "episode_uid", "step", "seed", "fidelity")
_OUTCOME_COLUMNS = ("reward", "terminated", "truncated", "start_s", "end_s", "core_s", "attempt")

_Finals = tuple[np.ndarray, np.ndarray, Observation]  # slots [K], rows [K], path → [K, …] of steps that ended


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

    ``whole=False`` (process pools): every row closes on its own, at the end of its episode, after ``max_steps`` or
    ``max_age_s``, and fragments have B = 1. ``whole=True`` (pools of cheap environments): no episode's end and no
    failure closes a fragment, so each has exactly ``max_steps`` steps a row, with episode ends inside; rows that are
    full at the same time close as one fragment [T, B]. Rows that fall behind the others, because they failed or are
    being reset, stay behind: they close later, with as many steps. Only ``flush`` and an age close shorter ones.
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
        whole: bool = False,
        worker: int = 0,
        incarnation: int = 0,
        policy_id: str = DEFAULT_POLICY,
        numbers: tuple[int, int] = (0, 1),
    ):
        """
        Args:
            policy_id: whose rows they are. numbers: first and step of the numbers of stretches, so that several
                builders never give the same.
            env_index, agent_index: int32 [R], of the pool's rows.
            observation: path → (shape, dtype) of one row. action: (shape, dtype).
            max_steps: T of a full fragment. max_age_s: None closes by age never.
        """
        rows, slots = len(env_index), max_steps + 1
        self._max_steps, self._max_age_s, self._whole = max_steps, max_age_s, whole
        self._origin: dict[str, Any] = {"worker": worker, "incarnation": incarnation}
        self._policy_id = policy_id
        self._indices = {"env_index": np.asarray(env_index, np.int32), "agent_index": np.asarray(agent_index, np.int32)}
        self._columns: Columns = {
            name: _blank((slots, rows), (), dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "TB"
        }
        self._columns["action"] = _blank((slots, rows), *action)
        for path, (shape, dtype) in observation.items():
            self._columns[OBSERVATION + path] = _blank((slots, rows), shape, dtype)
        self._paths = list(observation)
        self._all = np.arange(rows)
        self._cursor = np.zeros(rows, np.int64)
        self._common = 0  # the cursor of all rows, or −1 while they are not in step
        self._opened_at = np.full(rows, np.inf)  # when the row's first finished step came, in the caller's clock
        self._in_flight = np.zeros(rows, bool)  # slot `cursor` holds a request without an outcome
        first, self._number_step = numbers
        self._number = first + self._number_step * np.arange(rows)  # of each row's open stretch
        self._given = np.zeros(rows, np.int64)  # steps of it that ``pieces`` has given out
        self._episode_return = np.zeros(rows, np.float64)  # before the step in flight
        self._finals: list[_Finals] = []  # whole: of the episodes that ended inside the open fragments
        self._closed: list[Closed] = []
        self.episodes: list[dict] = []  # finished episodes since the caller last emptied it

    def requested(
        self, requests: Requests, action: np.ndarray, log_prob: np.ndarray, version: int, state: Columns
    ) -> None:
        """Record the actions just chosen; again, if they were not sent and others are chosen later.

        Args:
            action: [N, …]. log_prob: float32 [N]. version: of the weights that chose. state: the policy's state
            *before* the
                step, path → [N, …].
        """
        rows, at = self._place(requests.rows)
        self._episode_return[rows] = requests.episode_return
        for path in self._paths:
            self._columns[OBSERVATION + path][at] = requests.observation[path]
        self._columns["action"][at] = action
        values = (log_prob, version, requests.episode_uid, requests.step, requests.seed, requests.fidelity)
        for name, value in zip(_REQUEST_COLUMNS, values, strict=True):
            self._columns[name][at] = value
        self._in_flight[rows] = True
        for path, array in state.items():
            if STATE + path not in self._columns:
                self._columns[STATE + path] = _blank(self._columns["reward"].shape, array.shape[1:], str(array.dtype))
            self._columns[STATE + path][at] = array
        if self._common in (-1, self._max_steps):
            self._close_rows(np.flatnonzero(self._cursor == self._max_steps))

    def close_aged(self, now: float) -> None:
        """Close every fragment whose first step finished more than ``max_age_s`` ago. ``now``: seconds, any clock."""
        if self._max_age_s is not None:
            self._close_rows(np.flatnonzero(now - self._opened_at > self._max_age_s))

    def finished(self, outcomes: Outcomes, now: float) -> None:
        """Record what became of the actions."""
        if not len(outcomes.rows):
            return
        rows, at = self._place(outcomes.rows)
        for name in _OUTCOME_COLUMNS:
            self._columns[name][at] = getattr(outcomes, name)
        self._cursor[rows] += 1
        self._in_flight[rows] = False
        if isinstance(at, int):
            self._common += 1
        else:
            self._find_common()
        if self._max_age_s is not None:
            self._opened_at[rows] = np.minimum(self._opened_at[rows], now)
        if len(outcomes.ended):
            self._ended(outcomes)

    def _ended(self, outcomes: Outcomes) -> None:
        rows = outcomes.rows[outcomes.ended]
        after = self._cursor[rows]
        returns = self._episode_return[rows] + outcomes.reward[outcomes.ended]
        self._add_episodes(rows, after - 1, returns, outcomes.terminated[outcomes.ended], 1, outcomes.info)
        if self._whole:
            final = {path: outcomes.final_observation[path].copy() for path in self._paths}
            self._finals.append((after - 1, rows, final))
        # the bootstrap row of what closes before the row's next request overwrites it
        for path in self._paths:
            self._columns[OBSERVATION + path][after, rows] = outcomes.final_observation[path]
        if not self._whole:
            self._close_rows(rows)

    def failed(self, faults: Sequence[Fault]) -> None:
        """Cut the episodes of environments that failed: their finished steps are kept, the last one as truncated, its
        next observation being what the lost action was chosen at."""
        rows = np.array([fault.row for fault in faults if fault.cut], np.int64)
        if not len(rows):
            return
        slots, columns = self._cursor[rows], self._columns
        info = [{"failed": True}] * len(rows)
        self._add_episodes(rows, slots, self._episode_return[rows], np.zeros(len(rows), bool), 0, info)
        self._in_flight[rows] = False
        last = slots - 1
        cut = (slots > 0) & ~(columns["terminated"][last, rows] | columns["truncated"][last, rows])
        slots, rows_cut, last = slots[cut], rows[cut], last[cut]
        columns["truncated"][last, rows_cut] = True
        if self._whole:
            final = {path: columns[OBSERVATION + path][slots, rows_cut] for path in self._paths}
            self._finals.append((last, rows_cut, final))
        else:
            self._close_rows(rows)

    def flush(self) -> None:
        """Close every open fragment, whatever its length; steps in flight stay open."""
        self._close_rows(self._all)

    def take(self) -> list[Closed]:
        """The fragments closed since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def pieces(self) -> list[tuple[int, Fragment]]:
        """(number of the open stretch, its newest steps) of every row that has finished steps since the last call and
        whose next observation is known."""
        rows = np.flatnonzero(self._in_flight & (self._cursor > self._given))
        found = [
            (int(self._number[row]), self._part(np.array([row]), int(self._given[row]), int(self._cursor[row])))
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
        uid, step = (
            self._columns["episode_uid"][self._cursor, self._all],
            self._columns["step"][self._cursor, self._all],
        )
        return {
            int(self._indices["env_index"][row]): Cursor(int(uid[row]), int(step[row]) - 1)
            for row in np.flatnonzero(self._in_flight & (step > 0))
        }

    def _place(self, rows: np.ndarray) -> tuple[Any, Any]:
        """(index of rows, index of their newest slots): slices of all rows while they are in step, else arrays."""
        if self._common >= 0 and len(rows) == len(self._all) and (rows == self._all).all():
            return slice(None), self._common
        return rows, (self._cursor[rows], rows)

    def _find_common(self) -> None:
        first = int(self._cursor[0])
        self._common = first if (self._cursor == first).all() else -1

    def _add_episodes(
        self,
        rows: np.ndarray,
        slots: np.ndarray,
        returns: np.ndarray,
        terminated: np.ndarray,
        steps: int,
        info: list[dict[str, Any]],
    ) -> None:
        """Of rows whose episode is over. ``slots``: of their last request; ``steps``: what to add to its index to have
        the episode's length."""
        columns = {name: self._columns[name][slots, rows] for name in ("step", "seed", "fidelity", "policy_version")}
        columns["step"] += steps
        columns |= {"return": returns, "terminated": terminated} | {
            name: array[rows] for name, array in self._indices.items()
        }
        columns["length"] = columns.pop("step")
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        self.episodes += [
            {**dict(zip(columns, value, strict=True)), **self._origin, "info": its}
            for value, its in zip(values, info, strict=True)
        ]

    def _close_rows(self, rows: np.ndarray) -> None:
        """Close what rows have finished: each as a fragment of its own, or those of one length together."""
        lengths = self._cursor[rows]
        rows = rows[lengths > 0]
        if not len(rows):
            return
        if self._whole:
            groups = [rows[self._cursor[rows] == length] for length in np.unique(self._cursor[rows])]
        else:
            groups = list(rows.reshape(-1, 1))
        for group in groups:
            self._close(group)
        self._find_common()

    def _close(self, rows: np.ndarray) -> None:
        length = int(self._cursor[rows[0]])
        self._closed.append(
            Closed(self._part(rows, 0, length), self._number[rows].tolist(), self._given[rows].tolist())
        )
        self._number[rows] = self._number.max() + self._number_step * (1 + np.arange(len(rows)))
        self._given[rows] = 0
        if self._finals:
            slots, at, final = self._joined_finals()
            left = ~np.isin(at, rows)
            self._finals = [(slots[left], at[left], {path: array[left] for path, array in final.items()})]
        for column in self._columns.values():
            column[0, rows] = column[length, rows]
        self._cursor[rows] = 0
        self._opened_at[rows] = np.inf

    def _copied(self, column: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return column.copy() if len(rows) == len(self._all) else column.take(rows, axis=1)

    def _joined_finals(self) -> _Finals:
        if len(self._finals) != 1:
            slots, rows, finals = zip(*self._finals, strict=True)
            joined = {path: np.concatenate([final[path] for final in finals]) for path in self._paths}
            self._finals = [(np.concatenate(slots), np.concatenate(rows), joined)]
        return self._finals[0]

    def _part(self, rows: np.ndarray, start: int, stop: int) -> Fragment:
        """Steps [start, stop) of rows' open stretches, copied. ``rows`` ascend."""
        columns = {
            name: self._copied(column[start : stop + name.startswith(OBSERVATION)], rows)
            for name, column in self._columns.items()
        }
        columns |= {name: array[rows] for name, array in self._indices.items()}
        if self._finals:
            slots, at, final = self._joined_finals()
            inside = np.isin(at, rows) & (slots >= start) & (slots < stop)
            index = np.stack([slots[inside] - start, np.searchsorted(rows, at[inside])], axis=1)
            columns["final_index"] = index.astype(np.int32)
            columns |= {FINAL + path: array[inside] for path, array in final.items()}
        else:
            columns["final_index"] = np.zeros((0, 2), np.int32)
            for path in self._paths:
                store = self._columns[OBSERVATION + path]
                columns[FINAL + path] = np.zeros((0, *store.shape[2:]), store.dtype)
        return Fragment(columns, self._policy_id, **self._origin)


def _blank(leading: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Filled with impossible values where there are such, so that an entry that was never written shows."""
    return np.full((*leading, *shape), np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
