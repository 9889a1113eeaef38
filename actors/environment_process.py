"""Actions come in through shared memory, finished steps go out: the loop of a light process that hosts one environment.

Loads numpy and gymnasium, never Ray, torch or pydantic. Numbers and arrays go through the scratch file
(shared_rows.py); one small packet on the row's socket says that something is there. The first byte of a packet tells
what:

    process → pool                                      pool → process
    C  constructed; waits for G (or P)                  P  write your spec to the file named behind it
    P  the spec is in the file                          G  the data region is there: begin
    R  reset done: *next* holds the first observation   A  an action is there: step
    S  step done: outcome in the record, *next* filled  Q  close the environment and end
    E  step done, episode ended: *final* filled, info's plain scalars pickled behind it; the reset follows by itself
    F  fault, (kind, message) pickled behind it; the process then ends
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import resource
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.actors.shared_rows import RowLayout, SharedRows
from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.seeds import EpisodeSeeds
from distrl.core.spaces import action_leaf, leaves, observation_leaves
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs import resolve
from distrl.envs.checks import describe_exception, plain_scalars, unpack_reset, unpack_step, write_observation

#: Files whose frames are never the cause of an environment's exception.
HOST_FILES = ("actors/environment_process.py", "actors/inline_pool.py", "envs/resolve.py", "envs/delay.py")
_CLOSE_GRACE_S = 2


@dataclass(frozen=True)
class Common:
    """What all processes of a pool are given.

    Attributes:
        recipe_pickled: an EnvRecipe, pickled apart: where it cannot be unpickled the process says so.
        seeds: of the episodes. scratch_file: path of the SharedRows. nice: added to the niceness.
    """

    recipe_pickled: bytes
    seeds: EpisodeSeeds
    scratch_file: str
    nice: int


def prepare(common: Common) -> None:
    """Import, once for all processes, the module of the environment."""
    resolve.preload(pickle.loads(common.recipe_pickled))


def layout_of(spec: EnvSpec) -> RowLayout:
    """Where a row's arrays lie, from the spaces."""
    return RowLayout(action_leaf(spec.action_space), observation_leaves(spec.observation_space))


def run(argument: tuple[int, int], channel: socket.socket, common: Common) -> None:
    """The process: until told to end, the pool is gone, or the environment fails.

    Args:
        argument: (row, number of its first episode here).
    """
    row, episode = argument
    if common.nice:
        os.nice(common.nice)
    host = _Host(row, episode, channel, common)
    try:
        host.serve()
    except (BrokenPipeError, ConnectionError):
        pass  # the pool is gone; the fork server is about to kill us
    except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit included
        if isinstance(error, (EnvironmentFault, ConfigError)):
            kind, message = getattr(error, "kind", "error"), str(error)
        else:
            traceback.print_exc()
            kind, message = "error", f"{host.doing} raised {describe_exception(error, HOST_FILES)}"
        with contextlib.suppress(OSError):
            channel.send(b"F" + pickle.dumps((kind, message[:4000])))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CLOSE_GRACE_S)  # an environment may hang in close; then the alarm ends the process
    with contextlib.suppress(BaseException):
        host.close()


class _Host:
    def __init__(self, row: int, episode: int, channel: socket.socket, common: Common):
        self.doing = "the environment's constructor"
        self._row = row
        self._episode = episode
        self._channel = channel
        self._common = common
        self._seeds = common.seeds
        self._env: Any = None
        self._shared = SharedRows(common.scratch_file)
        self._record = self._shared.records[row : row + 1]
        # environments that draw from the global generators must not all draw the same
        seed = self._seeds.seed(row, episode)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002

    def serve(self) -> None:
        recipe: EnvRecipe = pickle.loads(self._common.recipe_pickled)
        self._env = resolve.make(recipe)
        spec = resolve.spec_of(self._env, recipe)
        layout = layout_of(spec)
        self._record["constructed_at"] = self._record["last_seen_at"] = time.monotonic()
        self._channel.send(b"C")
        while (message := self._channel.recv(4096))[:1] == b"P":
            path = message[1:].decode()
            with open(path, "wb") as file:
                pickle.dump(spec, file)
            self._channel.send(b"P")
        if message != b"G":
            return
        if not self._shared.map_data(layout):
            raise EnvironmentFault("every construction must give the same spaces; this one differs.", "protocol")
        found = leaves(spec.observation_space)
        self._next = [(leaf, self._shared.next[leaf.path][self._row, ...]) for leaf in found]
        self._final = [(leaf, self._shared.final[leaf.path][self._row, ...]) for leaf in found]
        self._action = self._shared.action[self._row, ...]
        self._record["fidelity"] = resolve.fidelity_index(self._env, spec)
        self._record["attempt"] = 0
        self._loop()

    def _loop(self) -> None:
        channel, step = self._channel, self._step
        self._reset()
        while channel.recv(1) == b"A":
            if step():
                self._reset()

    def _reset(self) -> None:
        self.doing = "reset"
        record = self._record
        seed = self._seeds.seed(self._row, self._episode)
        record["episode"] = self._episode
        record["episode_uid"] = self._seeds.episode_uid(self._row, self._episode)
        record["seed"] = seed
        begin, core = time.monotonic(), core_seconds()
        record["in_reset_since"] = begin
        write_observation(unpack_reset(self._env.reset(seed=seed)), self._next, "reset")
        end = time.monotonic()
        record["in_reset_since"] = 0.0
        record["last_seen_at"] = end
        record["reset_s"] += end - begin
        record["core_s"] += core_seconds() - core
        record["resets"] += 1
        self._episode += 1
        self._channel.send(b"R")

    def _step(self) -> bool:
        """One step; whether the episode ended."""
        self.doing = "step"
        record = self._record
        action = self._action.item() if self._action.ndim == 0 else self._action.copy()
        start, begin, core = time.time(), time.monotonic(), core_seconds()
        record["in_step_since"] = begin
        result = self._env.step(action)
        end, core = time.monotonic(), core_seconds() - core
        observation, reward, terminated, truncated, info = unpack_step(result)
        ended = terminated or truncated
        write_observation(observation, self._final if ended else self._next, "step")
        record["in_step_since"] = 0.0
        record["last_seen_at"] = end
        record["reward"] = reward
        record["terminated"] = terminated
        record["truncated"] = truncated
        record["start_s"] = start
        record["end_s"] = start + (
            end - begin
        )  # by the monotonic clock, so that a clock adjustment gives no negative step
        record["step_core_s"] = core
        record["step_s"] += end - begin
        record["core_s"] += core
        record["produced"] += 1
        self._channel.send(b"E" + pickle.dumps(plain_scalars(info)) if ended else b"S")
        return ended

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        sys.stdout.flush()


def core_seconds() -> float:
    """CPU seconds of this process so far and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
