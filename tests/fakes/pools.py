"""A pool in, streams of transitions out: what tests drive pools with, and what counts the processes they leave."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.contracts import Fault


@dataclass
class Transition:
    """One step as a worker sees it; ``next_observation`` is the final one where the episode ended."""

    uid: int
    seed: int
    step: int
    observation: dict[str, np.ndarray]
    action: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    next_observation: dict[str, np.ndarray] | None
    info: dict[str, Any] | None
    wall_s: float
    attempt: int


class Driver:
    """Runs a pool like a worker does and checks the contract on the way.

    Attributes:
        streams: env → transitions in order. faults: all, in order.
        continued: env → step at which it first asked for an action, inside an episode from before this pool.
    """

    def __init__(self, pool: Any):
        self.pool = pool
        self.streams: dict[int, list[Transition]] = defaultdict(list)
        self.faults: list[Fault] = []
        self.requested: dict[int, tuple] = {}  # row → (observation, uid, seed, step)
        self.awaited: dict[int, np.ndarray] = {}  # row → action in flight
        self.continued: dict[int, int] = {}
        self.silent = False  # send no actions
        self.open: dict[int, Transition] = {}  # row → step whose next observation is the next request's
        self.actions = np.random.default_rng(0)

    def turn(self, timeout_s: float = 5.0) -> None:
        """One recv and send."""
        outcomes, requests, faults = self.pool.recv(timeout_s)
        faulty = {fault.row for fault in faults}
        assert not faulty & {*outcomes.rows.tolist(), *requests.rows.tolist()}, "a fault and more of the same row"
        for fault in faults:
            self.faults.append(fault)
            if not fault.cut:
                continue
            self.requested.pop(fault.row, None)
            self.awaited.pop(fault.row, None)
            self.open.pop(fault.row, None)
        ended = {int(position): k for k, position in enumerate(outcomes.ended)}
        for position, row in enumerate(outcomes.rows.tolist()):
            observation, uid, seed, step = self.requested.pop(row)
            k = ended.get(position)
            assert (k is not None) == bool(outcomes.terminated[position] or outcomes.truncated[position])
            final = None if k is None else {path: a[k].copy() for path, a in outcomes.final_observation.items()}
            transition = Transition(
                uid, seed, step, observation, self.awaited.pop(row), float(outcomes.reward[position]),
                bool(outcomes.terminated[position]), bool(outcomes.truncated[position]), final,
                None if k is None else outcomes.info[k],
                float(outcomes.end_s[position] - outcomes.start_s[position]), int(outcomes.attempt[position]),
            )  # fmt: skip
            self.streams[row].append(transition)
            if k is None:
                self.open[row] = transition
        rows = requests.rows.tolist()
        for position, row in enumerate(rows):
            observation = {path: a[position].copy() for path, a in requests.observation.items()}
            first = bool(requests.is_first[position])
            assert row not in self.requested, "asked twice"
            step = int(requests.step[position])
            if row in self.open:
                assert not first, "is_first in the middle of an episode"
                self.open[row].next_observation = observation
                assert step == self.open.pop(row).step + 1
            elif first:
                assert step == 0
            else:
                assert step > 0
                assert not self.streams.get(row), "only a row's first request may be inside an episode from before"
                self.continued[row] = step
            self.requested[row] = (
                observation, int(requests.episode_uid[position]), int(requests.seed[position]), step,
            )  # fmt: skip
        if rows and not self.silent:
            self._act(requests.rows)

    def _act(self, rows: np.ndarray) -> None:
        actions = self.choose(len(rows))
        for row, action in zip(rows.tolist(), actions, strict=True):
            self.awaited[row] = action
        self.pool.send(actions, rows)

    def choose(self, count: int) -> np.ndarray:
        """Random actions [N, …] in the pool's action space."""
        space = self.pool.spec.action_space
        if space.shape == ():
            return self.actions.integers(space.n, size=count)
        return self.actions.uniform(-1, 1, (count, *space.shape)).astype(space.dtype)

    def settle(self) -> None:
        """Send no more actions and hear everything that is in flight."""
        self.silent = True
        for _ in range(20):
            self.turn(0.05)
        self.silent = False

    def wake(self) -> None:
        """After ``settle``: answer the rows that wait."""
        rows = [row for row in self.requested if row not in self.awaited]
        self._act(np.array(rows, np.int64))

    @property
    def num_steps(self) -> int:
        """Transitions so far."""
        return sum(len(stream) for stream in self.streams.values())

    def run(self, steps: int, limit_s: float = 20.0) -> None:
        """At least so many transitions."""
        self.until(lambda: self.num_steps >= steps, limit_s)

    def until(self, condition: Any, limit_s: float = 20.0) -> None:
        """Turn until the condition holds."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "took too long"
            self.turn(0.2)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Any, limit_s: float) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
