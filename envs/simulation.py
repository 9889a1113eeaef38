"""Actions in, observations and rewards of a numerical simulation out: what distrl's own environments share.

The physics gives five methods (``_start``, ``_advance``, ``_observe``, ``_state``, ``_load``); around them stand the
episode's clock, the check of actions, the end of a diverged episode, means over an episode, and snapshots.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from distrl.core.errors import EnvironmentFault, StorageError
from distrl.envs import options as check

_FILE = "state.npz"


class Diverged(Exception):
    """The simulation has left the range in which it can be believed; the message is the name of the guard."""


class Simulation(gym.Env[np.ndarray, np.ndarray]):
    """A simulated system under continuous control, one control step a step.

    The action space is ``Box(-1, 1, [num_actions], float32)``; the observation space ``Box(float32)`` of one number for
    each of ``observation_names``. Episodes have a time limit, so they end by truncation; a diverged one is terminated
    with ``diverged_reward``, the last observation again, and ``info["diverged"]`` true with the guard's name in
    ``info["divergence"]``.

    Args:
        num_actions: numbers in an action.
        observation_names: what each number of the observation is.
        episode_steps: control steps after which an episode is truncated.
        options: what a snapshot must share with the environment that takes it: everything that decides the future.
        fidelity: the level of detail, one of ``fidelities``.
        render_mode: None or "rgb_array".
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}  # type: ignore[misc]
    #: level of detail → seconds a control step on one core, or an object with ``seconds_per_step``
    fidelities: ClassVar[Mapping[str, Any]] = {}
    #: reward of the step that diverges: worse than the rest of any episode, so that it never pays
    diverged_reward: ClassVar[float] = -50.0
    #: entries of ``info`` whose means over the episode its last step reports as ``episode_…``
    averaged: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        num_actions: int,
        observation_names: Sequence[str],
        episode_steps: int,
        options: Mapping[str, Any],
        fidelity: str = "default",
        render_mode: str | None = None,
    ) -> None:
        self.name = type(self).__name__
        self.episode_steps = check.count(self.name, "episode_steps", episode_steps)
        if render_mode is not None:
            check.one_of(self.name, "render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.fidelity = check.one_of(self.name, "fidelity", fidelity, tuple(self.fidelities) or ("default",))
        self.observation_names = tuple(observation_names)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (num_actions,), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(self.observation_names),), np.float32)
        self._options = {**options, "fidelity": fidelity, "episode_steps": self.episode_steps}
        self._steps = 0
        self._playable = False
        self._sums = np.zeros(len(self.averaged))
        self._observation = np.zeros(len(self.observation_names), np.float32)

    # What the physics gives.

    def _start(self) -> dict[str, Any]:
        """Begin an episode, drawing from ``self.np_random``; returns the ``info`` of the reset."""
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Advance one control step under ``action``, float64 [num_actions] in [-1, 1]; returns reward and ``info``.

        Raises:
            Diverged: the state cannot be believed any more.
        """
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """The observation, float [n], in the order of ``observation_names``."""
        raise NotImplementedError

    def _state(self) -> dict[str, np.ndarray]:
        """Everything else that decides the future, as arrays."""
        raise NotImplementedError

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what ``_state`` gave, bit by bit."""
        raise NotImplementedError

    def _summary(self, means: dict[str, float]) -> dict[str, float]:
        """Entries for the ``info`` of an episode's last step, from the means of ``averaged`` over it."""
        return {f"episode_{name}": value for name, value in means.items()}

    # What every environment has of it.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; everything random in it comes from the seed."""
        super().reset(seed=seed)
        self._steps = 0
        self._sums = np.zeros(len(self.averaged))
        info = self._start()
        self._playable = True
        self._observation = np.asarray(self._observe(), np.float32)
        return self._observation.copy(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step; actions outside [-1, 1] are clipped."""
        if not self._playable:
            raise EnvironmentFault(
                f"{self.name} needs reset() before step(): the episode has not begun or has diverged."
            )
        value = np.asarray(action, dtype=np.float64)
        if value.shape != self.action_space.shape or not np.isfinite(value).all():
            raise EnvironmentFault(
                f"{self.name} needs a finite action of shape {self.action_space.shape}, got {action!r}.",
                kind="protocol",
            )
        self._steps += 1
        truncated = self._steps >= self.episode_steps
        try:
            reward, info = self._advance(np.clip(value, -1.0, 1.0))
            observation = np.asarray(self._observe(), np.float32)
            if not (np.isfinite(reward) and np.isfinite(observation).all()):
                raise Diverged("not_finite")
        except Diverged as guard:
            self._playable = False
            info = dict.fromkeys(self.averaged, 0.0) | {"diverged": True, "divergence": str(guard)}
            return self._observation.copy(), self.diverged_reward, True, truncated, info
        info = {**info, "diverged": False}
        self._sums = self._sums + [info[name] for name in self.averaged]
        if truncated:
            info |= self._summary(dict(zip(self.averaged, (self._sums / self._steps).tolist(), strict=True)))
        self._observation = observation
        return self._observation.copy(), float(reward), False, truncated, info

    def snapshot(self, directory: str | os.PathLike[str]) -> None:
        """Write the complete state, random numbers included, to ``directory/state.npz``, atomically."""
        folder = Path(directory)
        clock = {
            "options": self._options,
            "random": self.np_random.bit_generator.state,
            "steps": self._steps,
            "playable": self._playable,
        }
        buffer = io.BytesIO()
        np.savez(
            buffer,
            **{f"state/{name}": array for name, array in self._state().items()},  # type: ignore[arg-type]
            sums=self._sums,
            observation=self._observation,
            clock=np.frombuffer(json.dumps(clock).encode(), np.uint8),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{_FILE}.tmp"
            temporary.write_bytes(buffer.getvalue())
            os.replace(temporary, folder / _FILE)
        except OSError as error:
            raise StorageError(
                f"{self.name} needs a writable folder for its snapshot, but {folder} gave: {error}."
            ) from error

    def restore(self, directory: str | os.PathLike[str]) -> np.ndarray:
        """Continue bit by bit from a ``snapshot`` taken with the same options; returns its last observation."""
        path = Path(directory) / _FILE
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)  # reads everything: the archive's checksums are verified here
            clock = json.loads(arrays["clock"].tobytes())
        except Exception as error:  # a damaged archive raises many kinds, all with one remedy
            raise StorageError(
                f"{self.name} needs a whole snapshot, but {path} gave "
                f"{type(error).__name__}: {error}. Use an earlier one or reset()."
            ) from error
        mine = json.loads(json.dumps(self._options))
        if clock["options"] != mine:
            raise StorageError(
                f"{self.name} needs a snapshot of an environment with the same options, but {path} was taken with "
                f"{clock['options']} and this one has {mine}: make the environment with those."
            )
        self._load({name[6:]: array for name, array in arrays.items() if name.startswith("state/")})
        self.np_random.bit_generator.state = clock["random"]
        self._steps, self._playable = clock["steps"], clock["playable"]
        self._sums, self._observation = arrays["sums"], arrays["observation"]
        return self._observation.copy()
