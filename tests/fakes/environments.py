"""Actions in, exactly known answers or misbehaviour out: environments for tests of pools, workers and checks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


def scripted_episode(seed: int) -> tuple[int, bool]:
    """(length in steps, whether it ends by termination rather than truncation) of Scripted's episode."""
    return 2 + seed % 5, seed % 2 == 0


class Scripted(gymnasium.Env):
    """Everything is a function of seed, step and action, so that a stream can be compared number by number.

    Observation float32 [3]: (seed % 1000, t, action that led here); reward 100 · (seed % 10) + t + action.

    Args:
        step_s, reset_s: how long these take. bad_modulus: episodes with a seed divisible by it fail in their second
            step.
    """

    def __init__(self, step_s: float = 0.0, reset_s: float = 0.0, bad_modulus: int = 0):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._step_s, self._reset_s, self._bad_modulus = step_s, reset_s, bad_modulus

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        time.sleep(self._reset_s)
        assert seed is not None
        self.seed_, self.t = seed, 0
        self.length, self.terminates = scripted_episode(seed)
        return np.array([seed % 1000, 0, 0], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self._step_s)
        self.t += 1
        if self.t == 2 and self._bad_modulus and self.seed_ % self._bad_modulus == 0:
            raise RuntimeError("the scripted fault")
        a = float(action[0])
        ended = self.t == self.length
        observation = np.array([self.seed_ % 1000, self.t, a], np.float32)
        info = {"episode_length": self.t, "name": "scripted", "array": np.zeros(3), "score": np.float64(1.5)}
        reward = 100 * (self.seed_ % 10) + self.t + a
        return observation, reward, ended and self.terminates, ended and not self.terminates, info


class Misbehaving(gymnasium.Env):
    """Well until step ``after`` of an episode whose seed is bad, then does ``mode``.

    Args:
        mode: see ``step`` and ``reset``. after: the step, from 1. bad_modulus: seeds divisible by it are bad (1: all).
    """

    def __init__(self, mode: str = "raise", after: int = 1, bad_modulus: int = 1):
        if mode == "raise_init":
            raise RuntimeError("no licence for the mesh generator")
        if mode == "exit_init":
            os._exit(7)
        if mode == "hang_init":
            time.sleep(1000)
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._mode, self._after, self._modulus = mode, after, bad_modulus
        if mode == "grandchildren":
            self._children = [
                subprocess.Popen(["sleep", "1000"]),
                subprocess.Popen(["sleep", "1001"], start_new_session=True),
                # a daemon that leaves its parent, as mpirun's and shells' background jobs may
                subprocess.Popen(["sh", "-c", "setsid sleep 1002 & exit 0"], start_new_session=True),
            ]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self._t = 0
        self._bad = seed is not None and seed % self._modulus == 0
        if self._bad and self._mode == "raise_reset":
            raise ValueError("the restart file is empty")
        if self._bad and self._mode == "hang_reset":
            time.sleep(1000)
        if self._bad and self._mode == "shape_reset":
            return np.zeros(3, np.float32), {}
        if self._bad and self._mode == "no_info":
            return np.zeros(2, np.float32)  # type: ignore[return-value]
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self._t += 1
        answer: list[Any] = [np.full(2, 0.5, np.float32), 1.0, False, self._t >= 50, {}]
        if not (self._bad and self._t >= self._after):
            return tuple(answer)  # type: ignore[return-value]
        mode = self._mode
        if mode == "raise":
            raise FloatingPointError("the pressure solver diverged")
        if mode == "memory":
            raise MemoryError("the mesh")
        if mode == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if mode == "sys_exit":
            sys.exit(3)
        if mode == "exit":
            os._exit(9)
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if mode == "hang":
            time.sleep(1000)
        changes: dict[str, tuple[int, Any]] = {
            "nan": (0, np.array([0.0, np.nan], np.float32)),
            "shape": (0, np.zeros((2, 1), np.float32)),
            "dtype": (0, np.array(["a", "b"])),
            "none": (0, None),
            "reward_nan": (1, float("nan")),
            "reward_array": (1, np.zeros(1)),
            "reward_none": (1, None),
            "flag": (2, 1),
            "info": (4, None),
        }
        if mode in changes:
            position, value = changes[mode]
            answer[position] = value
        if mode == "short":
            return tuple(answer[:4])  # type: ignore[return-value]
        return tuple(answer)  # type: ignore[return-value]


class Continuable(gymnasium.Env):
    """A noisy walk that can be continued: every observation hangs on the whole history of the episode.

    Observation float64 [2]: (t, x), where x ← 0.9 x + action + noise of its own generator; the reward is x.

    Args:
        marks: directory of files ``step``, ``snapshot``, ``restore`` that the test writes: the next one to do that
            takes its file away and does what its last word says (crash, hang, error, disk, memory), with a number
            before it only at that step. A file that begins with ``always`` stays.
        noise: added after a ``restore``: the environment does not continue as it should.
        answers: whether ``restore`` returns the last observation.
    """

    def __init__(
        self, marks: str = "", length: int = 20, step_s: float = 0.0, noise: float = 0.0, answers: bool = True
    ):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._marks, self._length, self._step_s, self._noise, self._answers = marks, length, step_s, noise, answers
        self._restored = False
        self.t, self.x = 0, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.x, self._restored = 0, 0.0, False
        return np.array([0.0, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self._step_s)
        self._do("step")
        self.t += 1
        self.x = 0.9 * self.x + float(action[0]) + self.np_random.normal() + self._noise * self._restored
        return np.array([self.t, self.x]), self.x, False, self.t == self._length, {}

    def snapshot(self, directory: str) -> None:
        self._do("snapshot")
        state = {"t": self.t, "x": self.x, "random": self.np_random.bit_generator.state}
        with open(os.path.join(directory, "walk.json"), "w") as file:
            json.dump(state, file)

    def restore(self, directory: str) -> np.ndarray | None:
        self._do("restore")
        with open(os.path.join(directory, "walk.json")) as file:
            state = json.load(file)
        self.t, self.x, self._restored = state["t"], state["x"], True
        self.np_random.bit_generator.state = state["random"]
        return np.array([self.t, self.x]) if self._answers else None

    def _do(self, what: str) -> None:
        path = os.path.join(self._marks, what)
        if not self._marks or not os.path.exists(path):
            return
        with open(path) as file:
            words = file.read().split()
        if any(word.isdigit() and int(word) != self.t for word in words):
            return
        if words[0] != "always":
            os.unlink(path)
        match words[-1]:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(1000)
            case "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "memory":
                raise MemoryError("the mesh")
            case "error":
                raise RuntimeError("the solver has lost its licence")


class Composite(gymnasium.Env):
    """Nested Dict and Tuple observations with an image, a Discrete action; all a function of seed and step."""

    def __init__(self, side: int = 64):
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (side, side, 3), np.uint8),
                "pair": spaces.Tuple((spaces.Discrete(7, start=2), spaces.MultiDiscrete([3, 4]))),
                "inner": spaces.Dict({"flags": spaces.MultiBinary(4), "x": spaces.Box(-10, 10, (2,), np.float64)}),
            }
        )
        self.action_space = spaces.Discrete(3)
        self._side = side

    def value(self) -> dict[str, Any]:
        k = (self._seed + self._t) % 200
        return {
            "image": np.full((self._side, self._side, 3), k, np.uint8),
            "pair": (2 + k % 7, np.array([k % 3, k % 4])),
            "inner": {"flags": np.array([k % 2, 0, 1, 1], np.int8), "x": np.array([self._t, k / 200])},
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self._seed, self._t = seed or 0, 0
        return self.value(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self._t += 1
        return self.value(), float(action), self._t == 4, False, {}


class Introspective(gymnasium.Env):
    """Tells at the end of each one-step episode what its process is like."""

    HEAVY = ("ray", "torch", "pydantic", "multiprocessing.resource_tracker", "distrl.learners", "distrl.cluster")

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        print("an environment may print")
        info = {
            "heavy": ",".join(name for name in self.HEAVY if name in sys.modules),
            "ray_variables": ",".join(key for key in os.environ if key.startswith(("RAY_", "OMPI_", "SLURM_")))[:200],
            "threads": len(os.listdir("/proc/self/task")),
            "omp": os.environ.get("OMP_NUM_THREADS", ""),
            "cores": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "nice": os.nice(0),
            "random": float(np.random.random()),  # noqa: NPY002
        }
        return np.zeros(1, np.float32), 0.0, True, False, info
