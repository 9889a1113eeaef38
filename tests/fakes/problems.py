"""Actions in, rewards out: the smallest problems that need one thing each. The best return of each is known."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete


class Recall(gymnasium.Env):
    """One of ``num_cues`` cues is shown at the start and asked for ``delay`` steps later. Reward 1 for naming it.

    What is seen when the answer is due does not depend on the cue, so the best return without memory is 1 / num_cues,
    whatever the policy; with memory it is 1.
    """

    def __init__(self, num_cues: int = 2, delay: int = 3):
        self.observation_space, self.action_space = Box(-1, 1, (num_cues + 1,)), Discrete(num_cues)
        self._num_cues, self._delay = num_cues, delay

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._cue, self._step = int(self.np_random.integers(self._num_cues)), 0
        observation = np.zeros(self._num_cues + 1, np.float32)
        observation[self._cue] = 1.0
        return observation, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._step += 1
        observation = np.zeros(self._num_cues + 1, np.float32)
        observation[-1] = self._step / self._delay
        over = self._step > self._delay
        return observation, float(over and action == self._cue), over, False, {}


class FirstAllowed(gymnasium.Env):
    """Ten times: of six actions, of which a random three are allowed, the first one from a given place on, going round.

    Reward 1 for it; an action that is not allowed raises. Best return 10, at random 3.3.
    """

    def __init__(self) -> None:
        self.observation_space = Dict({"action_mask": MultiBinary(6), "from": Discrete(6)})
        self.action_space = Discrete(6)

    def _next(self) -> dict[str, Any]:
        self._mask = np.zeros(6, np.int8)
        self._mask[self.np_random.choice(6, 3, replace=False)] = 1
        self._from = int(self.np_random.integers(6))
        return {"action_mask": self._mask, "from": self._from}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._step = 0
        return self._next(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        if not self._mask[action]:
            raise ValueError(f"action {action} is not among the allowed {np.flatnonzero(self._mask)}")
        best = next((self._from + i) % 6 for i in range(6) if self._mask[(self._from + i) % 6])
        self._step += 1
        return self._next(), float(action == best), self._step == 10, False, {}


class Copy(gymnasium.Env):
    """Ten times: a pair of MultiDiscrete([3, 4]) is seen and has to be repeated. Reward ½ for each half of it; best
    return 10, at random 2.9."""

    def __init__(self) -> None:
        self.observation_space = MultiDiscrete([3, 4])
        self.action_space = MultiDiscrete([3, 4], start=[-1, 5])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._step, self._pair = 0, self.np_random.integers([3, 4])
        return self._pair, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = 0.5 * float(np.sum(action - [-1, 5] == self._pair))
        self._step, self._pair = self._step + 1, self.np_random.integers([3, 4])
        return self._pair, reward, self._step == 10, False, {}


class BrightSpot(gymnasium.Env):
    """Eight times: which quarter of a noisy image of 36 × 36 has a bright spot of 6 × 6 in it? Reward 1 for its number;
    best return 8, at random 2."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = Box(0, 255, (36, 36, 1), np.uint8), Discrete(4)

    def _next(self) -> np.ndarray:
        self._quarter = int(self.np_random.integers(4))
        image = self.np_random.integers(0, 100, (36, 36, 1), dtype=np.uint8)
        down, right = self.np_random.integers(0, 13, 2) + 18 * np.array(divmod(self._quarter, 2))
        image[down : down + 6, right : right + 6] += 150
        return image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._step = 0
        return self._next(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(action == self._quarter)
        self._step += 1
        return self._next(), reward, self._step == 8, False, {}


class Reach(gymnasium.Env):
    """A point walks from the centre of a square, at most 0.2 a step along each axis, for 20 steps; one of the corners
    (±0.8, ±0.8) is its goal. Reward −distance; best return −1.7 (it arrives with the fourth step), of rest −22.6."""

    def __init__(self) -> None:
        self.observation_space = Dict({"goal": Box(-1, 1, (2,)), "place": Box(-1, 1, (2,))})
        self.action_space = Box(-1, 1, (2,))

    def _seen(self) -> dict[str, np.ndarray]:
        return {"goal": self._goal.astype(np.float32), "place": self._place.astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._step, self._place = 0, np.zeros(2)
        self._goal = 0.8 * (2 * self.np_random.integers(2, size=2) - 1)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self._step += 1
        self._place = np.clip(self._place + 0.2 * np.asarray(action, float), -1, 1)
        distance = float(np.linalg.norm(self._place - self._goal))
        return self._seen(), -distance, False, self._step == 20, {}


class Cup(gymnasium.Env):
    """A point that moves by at most 0.15 in x and y, twenty times, under an upturned cup. Its goal is above

    The walls: y = 0 for |x| ≤ 0.6, and x = ±0.6 for −0.4 ≤ y ≤ 0; a move through one is not made. The return is minus
    the distance from the goal at (0, 0.6), in the end: −0.6 and a little under the cup's top, where everything leads
    that follows the return; only a long way round, down and away from the goal, brings more than −0.6, up to 0.
    """

    def __init__(self) -> None:
        self.observation_space, self.action_space = Box(-4, 4, (2,)), Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._at, self._step = np.array([0.0, -0.3], np.float32), 0
        return self._at.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        to = self._at + np.float32(0.15) * action
        if not self._is_walled(to):
            self._at = to
        self._step += 1
        over = self._step == 20
        return self._at.copy(), -float(np.hypot(self._at[0], self._at[1] - 0.6)) * over, over, False, {}

    def _is_walled(self, to: np.ndarray) -> bool:
        (x0, y0), (x1, y1) = self._at.tolist(), to.tolist()
        if (y0 < 0.0) != (y1 < 0.0) and abs(x0 + (x1 - x0) * y0 / (y0 - y1)) <= 0.6:
            return True
        for wall in (-0.6, 0.6):
            if (x0 < wall) != (x1 < wall) and -0.4 <= y0 + (y1 - y0) * (wall - x0) / (x1 - x0) <= 0.0:
                return True
        return False


class DeepSea(gymnasium.Env):
    """A diver starts at the top left of a square of ``size`` rows and falls one row a step, to the right or to the
    left; a treasure of 1 is at the bottom right, and each step to the right costs 0.01 / size. Which action is to the
    right is another at each place. So all that is learned before leads away from it, and acting at random finds it once
    in 2^size episodes (Osband et al. 2019, arXiv 1908.03568). Best return 0.99; of never going right 0."""

    def __init__(self, size: int = 10):
        self.observation_space, self.action_space = MultiDiscrete([size + 1, size + 1]), Discrete(2)
        self._size = size
        self._right = np.random.default_rng(0).integers(2, size=(size, size))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._place = np.zeros(2, np.int64)
        return self._place.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        row, column = self._place
        right = action == self._right[row, column]
        self._place[:] = row + 1, column + 1 if right else max(0, column - 1)
        over = bool(self._place[0] == self._size)
        reward = float(self._place[1] == self._size) - (0.01 / self._size if right else 0.0)
        return self._place.copy(), reward, over, False, {}
