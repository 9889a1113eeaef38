"""What the scripts of this folder share: the environments of each case, when to stop, and the JSON line that comes out.

    python SCRIPT --case cartpole [--seconds 60 | --target 475 --seconds 300 | --steps 1000000] [--seed 0]

They run in environments of their own, so this imports only gymnasium and numpy. The fields of the line:
``trained_env_steps_per_s``: env steps that an update has consumed, by the wall seconds of ``window`` (Unix time), which
begins ``WARM_UP_S`` after the first update. ``seconds_to_target``: wall seconds from the process's start until an
evaluation reached the target, a peer's without the time that its evaluations took; None where none did.
``return_mean``: of the newest training episodes. ``evaluated_return``: of deterministic episodes with the policy of the
end. ``busy``: of 'slow', the share of the window that its environments spent inside ``step``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import gymnasium
import numpy as np

IDS = {
    "cartpole": "CartPole-v1",
    "halfcheetah": "HalfCheetah-v5",
    "pong": "ALE/Pong-v5",
    "slow": "Pendulum-v1",
    "simple_spread": "mpe2.simple_spread_v3",
}
SLOW_ENVS, SLOW_MEDIAN_S, SLOW_SIGMA = 16, 0.05, 1.0
WARM_UP_S = 3.0
EVALUATION_PERIOD_S = 0.5  # of training
EVALUATION_EPISODES = 20
EVALUATION_SEED = 1_500_000_000
COUNTERS = "THROUGHPUT_COUNTERS"  # variable, inherited by all processes: the file in which slow environments count


class Slow(gymnasium.Wrapper):
    """Pendulum-v1 whose ``step`` also sleeps a lognormal time, as distrl.envs.delay has it; the time inside ``step``
    and the number of steps are counted in a file that all processes of the run share.
    """

    def __init__(self, index: int):
        super().__init__(gymnasium.make(IDS["slow"]))
        self._rng = np.random.default_rng((index, 0xDE1A))
        self._counted = np.memmap(os.environ[COUNTERS], np.float64, "r+", shape=(SLOW_ENVS, 2))[index]

    def step(self, action: Any) -> Any:
        begin = time.perf_counter()
        time.sleep(self._rng.lognormal(np.log(SLOW_MEDIAN_S), SLOW_SIGMA))
        result = self.env.step(action)
        self._counted += time.perf_counter() - begin, 1
        return result


def make(case: str, index: int = 0, *, scale: bool = False) -> gymnasium.Env:
    """One training environment. Pong is uint8 [4, 84, 84] after AtariPreprocessing (skip 4), float32 in 0 … 1 with
    ``scale``.
    """
    if case == "slow":
        return Slow(index)
    if case != "pong":
        return gymnasium.make(IDS[case])
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(IDS[case], frameskip=1, repeat_action_probability=0.0)
    env = gymnasium.wrappers.AtariPreprocessing(env, scale_obs=scale)
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def evaluate(case: str, act: Callable[[np.ndarray], np.ndarray], episodes: int = EVALUATION_EPISODES) -> float:
    """Mean return of one episode in each of N = ``episodes`` environments. ``act``: observations [N, …] → actions."""
    if case == "cartpole":
        vector = gymnasium.make_vec(IDS[case], num_envs=episodes, vectorization_mode="vector_entry_point")
    else:
        makers = [lambda: gymnasium.make(IDS["slow"]) if case == "slow" else make(case)] * episodes
        vector = gymnasium.vector.SyncVectorEnv(makers)
    observation, _ = vector.reset(seed=EVALUATION_SEED)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        observation, reward, terminated, truncated, _ = vector.step(act(observation))
        returns += reward * running
        running &= ~(terminated | truncated)
    vector.close()
    return float(returns.mean())


class Run:
    """A peer's script calls ``trained`` after each update until it says stop, and ``report`` at the end."""

    def __init__(self, arguments: list[str] | None = None, clock: Callable[[], float] = time.time):
        parser = argparse.ArgumentParser(usage=__doc__)
        parser.add_argument("--case", choices=IDS, required=True)
        parser.add_argument(
            "--seconds", type=float, default=30.0, help="of the window; with a target, the longest time"
        )
        parser.add_argument("--target", type=float, help="stop at this evaluated return")
        parser.add_argument("--steps", type=int, help="stop after so many env steps, whatever the time")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--started", type=float, default=clock(), help="Unix time at which the process began")
        self.options, self.peer_arguments = parser.parse_known_args(arguments)
        self.case, self.seed = self.options.case, self.options.seed
        self._clock = clock
        self._first: float | None = None
        self._window: list[tuple[float, int, np.ndarray]] = []  # its begin and its end: time, env steps, counters
        self._evaluations: list[tuple[float, int, float]] = []  # seconds, env steps, return
        self._evaluating_s = self._evaluated = 0.0
        self._reached: float | None = None
        if self.case == "slow":
            handle, os.environ[COUNTERS] = tempfile.mkstemp(prefix="throughput-counters-")
            os.write(handle, np.zeros((SLOW_ENVS, 2)).tobytes())
            os.close(handle)

    def trained(self, env_steps: int, evaluate: Callable[[], float] | None = None) -> bool:
        """Updates have consumed ``env_steps`` since the start; returns whether to stop. ``evaluate`` is only called
        where there is a target.
        """
        now, options = self._clock(), self.options
        if self._first is None:
            self._first = now if env_steps else None
            return False
        if now - self._first >= WARM_UP_S:
            self._window = [*self._window[:1], (now, env_steps, self._counters())]
        if evaluate and options.target is not None and now - self._evaluated >= EVALUATION_PERIOD_S:
            value = evaluate()
            self._evaluated = self._clock()
            self.evaluated(now - self._evaluating_s, env_steps, value)
            self._evaluating_s += self._evaluated - now
        if self._reached is not None:
            return True
        if options.steps is not None:
            return env_steps >= options.steps
        return len(self._window) > 1 and now - self._window[0][0] >= options.seconds

    def evaluated(self, when: float, env_steps: int, value: float) -> None:
        """An evaluation at a Unix time."""
        seconds, target = when - self.options.started, self.options.target
        self._evaluations.append((round(seconds, 2), env_steps, value))
        if self._reached is None and target is not None and value >= target:
            self._reached = seconds

    def report(self, settings: dict[str, Any], return_mean: float | None, **more: Any) -> None:
        """Print the line. ``settings``: what a reader needs to judge whether the peer was tuned fairly."""
        line: dict[str, Any] = {"trained_env_steps_per_s": None, "return_mean": return_mean, "settings": settings}
        if len(self._window) > 1:
            (t0, steps0, counters0), (t1, steps1, counters1) = self._window
            line |= {"trained_env_steps_per_s": (steps1 - steps0) / (t1 - t0), "window": [t0, t1], "env_steps": steps1}
            if counters1.any():
                inside_s, produced = (counters1 - counters0).sum(axis=0)
                line |= {"busy": inside_s / SLOW_ENVS / (t1 - t0), "env_steps_per_s": produced / (t1 - t0)}
        if self._first is not None:
            line["first_update_s"] = round(self._first - self.options.started, 2)
        if self.options.target is not None:
            line |= {"seconds_to_target": self._reached, "evaluations": self._evaluations[-5:]}
        line |= {"seed": self.seed, "gymnasium": metadata.version("gymnasium"), **more}
        line = {name: None if value != value else value for name, value in line.items()}  # NaN is no JSON
        sys.stdout.flush()
        print("\n" + json.dumps(line, default=float), flush=True)  # numpy has numbers of its own
        if self.case == "slow":
            os.unlink(os.environ[COUNTERS])

    def _counters(self) -> np.ndarray:
        return np.fromfile(os.environ[COUNTERS]).reshape(SLOW_ENVS, 2) if self.case == "slow" else np.zeros((1, 2))
