"""What is done for all rows at once in this process treats each row as if it were alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from distrl.actors.inline_pool import InlinePool
from distrl.actors.running_episodes import CoreClock
from distrl.core.seeds import FixedSeeds, TrainingSeeds
from distrl.core.types import EnvRecipe

ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([2, 5]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


class Keeps(gymnasium.Env):
    """Keeps every action that it is given, and spoils it after the next step."""

    made: list[Keeps] = []  # noqa: RUF012 - a test looks at what the pool has made

    def __init__(self, action: str):
        self.action_space, self.observation_space = ACTIONS[action], spaces.Box(0, 1, (1,), np.float32)
        self.kept: list[Any] = []
        self.seen: list[Any] = []
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        if self.kept and isinstance(self.kept[-1], np.ndarray):
            self.kept[-1][:] = 0
        self.kept.append(action)
        self.seen.append(np.array(action).tolist())
        assert self.action_space.contains(action)
        return np.zeros(1, np.float32), np.float32(0.5), np.bool_(False), False, {}


@pytest.mark.parametrize("name", ACTIONS)
def test_each_environment_is_given_its_own_action_of_its_space(name):
    Keeps.made.clear()
    pool = InlinePool(EnvRecipe(f"{__name__}:Keeps", {"action": name}), 3, TrainingSeeds(0))
    pool.recv(0.0)
    sent = []
    ACTIONS[name].seed(0)
    for _ in range(5):
        actions = np.stack([ACTIONS[name].sample() for _ in range(3)])
        sent.append(actions.tolist())
        pool.send(actions, np.arange(3))
        actions[:] = 0  # the caller's to use again
        outcomes, _, faults = pool.recv(0.0)
        assert not faults
        assert outcomes.reward.tolist() == [0.5] * 3
    pool.close()
    assert [list(step) for step in zip(*(env.seen for env in Keeps.made), strict=True)] == sent


class Diverges(gymnasium.Env):
    """Its nested observation is not finite in the second step of an episode with an even seed; that step is its last
    where the seed is divisible by four."""

    def __init__(self) -> None:
        inner = spaces.Dict({"x": spaces.Box(-9, 9, (2,), np.float64), "k": spaces.Discrete(5)})
        self.observation_space = spaces.Dict({"inner": inner, "y": spaces.Box(-9, 9, (1,), np.float32)})
        self.action_space = spaces.Discrete(2)

    def _observation(self) -> dict[str, Any]:
        x = np.array([self._seed, np.inf if self._t == 2 and self._seed % 2 == 0 else self._t])
        return {"inner": {"x": x, "k": self._t}, "y": np.array([self._t], np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self._seed, self._t = seed or 0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self._t += 1
        return self._observation(), 1.0, self._t == 2 and self._seed % 4 == 0, self._t == 3, {}


def test_a_row_that_diverges_among_others_costs_its_own_step_only():
    pool = InlinePool(EnvRecipe(f"{__name__}:Diverges"), 4, FixedSeeds((1, 2, 3, 4), 4))
    rows = np.arange(4)
    pool.recv(0.0)
    pool.send(np.zeros(4, np.int64), rows)
    outcomes, requests, _ = pool.recv(0.0)
    assert outcomes.rows.tolist() == [0, 1, 2, 3]
    pool.send(np.zeros(4, np.int64), requests.rows)
    outcomes, requests, faults = pool.recv(0.0)
    assert [(fault.row, fault.kind, fault.cut) for fault in faults] == [
        (1, "divergence", True),
        (3, "divergence", True),
    ]
    assert "observation 'inner/x' with finite numbers; it returned inf at flat index 1" in faults[0].message
    assert outcomes.rows.tolist() == requests.rows.tolist() == [0, 2]
    assert not len(outcomes.ended)
    assert requests.observation["inner/x"].tolist() == [[1, 2], [3, 2]]
    assert requests.observation["inner/k"].tolist() == [2, 2]
    pool.send(np.zeros(2, np.int64), requests.rows)
    outcomes, requests, faults = pool.recv(0.0)  # these two end by themselves, the others begin anew
    assert not faults
    assert outcomes.rows[outcomes.ended].tolist() == [0, 2]
    assert outcomes.final_observation["inner/x"].tolist() == [[1, 3], [3, 3]]
    assert (requests.rows.tolist(), requests.is_first.tolist()) == ([0, 1, 2, 3], [True] * 4)
    assert pool.stats().produced == 4 + 2 + 2
    pool.close()


def test_a_row_without_an_action_does_not_step():
    pool = InlinePool(EnvRecipe("tests.fakes.environments:Scripted"), 3, FixedSeeds((4, 9, 14), 3))  # of six steps
    pool.recv(0.0)
    pool.send(np.full((1, 1), 0.5, np.float32), np.array([2]))
    pool.send(np.full((1, 1), 0.25, np.float32), np.array([0]))
    outcomes, requests, _ = pool.recv(0.0)
    assert outcomes.rows.tolist() == requests.rows.tolist() == [0, 2]
    assert requests.observation["array"].tolist() == [[4, 1, 0.25], [14, 1, 0.5]]
    assert requests.step.tolist() == [1, 1]
    assert len(pool.recv(0.0)[0].rows) == 0
    pool.close()


def test_cpu_time_is_not_that_of_children_that_end_meanwhile():
    """One was waited for by another thread, say; all its time arrives at once."""
    clock, now = CoreClock(), time.monotonic()
    for _ in range(3):
        clock.begin(now)
        subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
        assert clock.spent(1e-4, now) <= 1e-4 * (os.cpu_count() or 1)
        now += 1.0
