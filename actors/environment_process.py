"""Actions come in through shared memory, finished steps go out: the loop of a light process that hosts one environment.

Loads numpy and gymnasium, never Ray, torch or pydantic. Numbers and arrays go through the scratch file
(shared_rows.py); one small packet on the row's socket says that something is there. The first byte of a packet tells
what:

    process → pool                                      pool → process
    C  constructed; waits for G (or P)                  P  write your spec to the file named behind it
    P  the spec is in the file                          G  the data region is there: begin
    R  reset done: *next* holds the first observation   A  an action is there: step
    K  the episode goes on: *next* holds the last observation; (reward so far, steps recomputed) pickled behind it
    X  the episode cannot go on, and why, pickled; the process then ends
    S  step done: outcome in the record, *next* filled  Q  close the environment and end
    E  step done, episode ended: *final* filled, info's plain scalars pickled behind it; the reset follows by itself
    N  a snapshot failed, (kind, message) pickled behind it; everything goes on
    F  fault, (kind, message, traceback) pickled behind it; the process then ends

An episode is continued by restoring a snapshot and computing the journal's steps again, in silence, up to the last
finished one (snapshots.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from distrl.actors.snapshots import (
    Continuation,
    Discontinued,
    EpisodeFiles,
    SnapshotPlan,
    check_observation,
    check_step,
    read_state,
    restore_around,
    supports,
)
from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.core.joint import FINISHED
from distrl.core.seeds import EpisodeSeeds
from distrl.core.spaces import action_leaf, leaves, observation_leaves
from distrl.core.types import OBSERVATION, EnvRecipe, EnvSpec
from distrl.envs import resolve
from distrl.envs.checks import (
    describe_exception,
    fault_kind,
    plain_scalars,
    unpack_reset,
    unpack_step,
    write_observation,
)

#: Files whose frames are never the cause of an environment's exception.
HOST_FILES = ("actors/environment_process.py", "actors/inline_pool.py", "envs/resolve.py", "envs/delay.py")
_CLOSE_GRACE_S = 2


@dataclass(frozen=True)
class Common:
    """What all processes of a pool are given.

    Attributes:
        recipe_pickled: an EnvRecipe, pickled apart: where it cannot be unpickled the process says so.
        seeds: of the episodes. scratch_file: path of the SharedRows. nice: added to the niceness.
        snapshots: where an episode's snapshots go; None: nowhere. cores: of each row, to run on; None: any.
    """

    recipe_pickled: bytes
    seeds: EpisodeSeeds
    scratch_file: str
    nice: int
    snapshots: SnapshotPlan | None = None
    cores: tuple[frozenset[int], ...] | None = None


def prepare(common: Common) -> None:
    """Import, once for all processes, the module of the environment."""
    resolve.preload(pickle.loads(common.recipe_pickled))


def layout_of(spec: EnvSpec) -> RowLayout:
    """Where a row's arrays lie, from the spaces."""
    return RowLayout(action_leaf(spec.action_space), observation_leaves(spec.observation_space))


def run(argument: tuple[int, int, Continuation | None], channel: socket.socket, common: Common) -> None:
    """The process: until told to end, the pool is gone, or the environment fails.

    Args:
        argument: (row, number of the first episode that begins here, the episode to continue before that).
    """
    row, episode, order = argument
    if common.nice:
        os.nice(common.nice)
    if common.cores is not None:
        os.sched_setaffinity(0, common.cores[row])
    host = _Host(row, episode, order, channel, common)
    try:
        host.serve()
    except (BrokenPipeError, ConnectionError):
        pass  # the pool is gone; the fork server is about to kill us
    except Discontinued as finding:
        with contextlib.suppress(OSError):
            channel.send(b"X" + pickle.dumps(str(finding)))
    except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit included
        kind, message, trace = cause_of(error, host.doing)
        with contextlib.suppress(OSError):
            channel.send(b"F" + pickle.dumps((kind, message[:4000], trace[-20_000:])))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CLOSE_GRACE_S)  # an environment may hang in close; then the alarm ends the process
    with contextlib.suppress(BaseException):
        host.close()


def cause_of(error: BaseException, doing: str) -> tuple[str, str, str]:
    """(kind, message, traceback to show) of what an environment raised; the traceback is empty where it says no more.

    Args:
        doing: what raised: "step", "reset", …
    """
    if isinstance(error, (EnvironmentFault, ConfigError)):
        return getattr(error, "kind", "error"), str(error).rstrip("."), ""
    kind = fault_kind(error)
    trace = "".join(traceback.format_exception(error)) if kind == "error" else ""
    return kind, f"{doing} raised {describe_exception(error, HOST_FILES)}", trace


class _Host:
    def __init__(self, row: int, episode: int, order: Continuation | None, channel: socket.socket, common: Common):
        self.doing = "the environment's constructor"
        self._row = row
        self._episode = episode
        self._order = order
        self._files: EpisodeFiles | None = None
        self._step_index = 0  # of the next step, in its episode
        self._step_s = 0.0  # of the last one
        self._episode_return = 0.0
        self._attempts: dict[int, int] = {}  # steps that had been begun before → how often
        self._channel = channel
        self._common = common
        self._seeds = common.seeds
        self._recipe: EnvRecipe
        self._env: Any = None
        self._level: str | None = None  # that the environment was made at; None: its own choice …
        self._fidelity = 0  # … and its index
        self._finished: tuple[np.ndarray, np.ndarray] | None = None  # several agents': whose step a step has finished
        self._shared = SharedRows(common.scratch_file)
        self._record = self._shared.records[row : row + 1]
        self._produced = self._shared.produced(row)
        # environments that draw from the global generators must not all draw the same
        seed = self._seeds.seed(row, episode)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002

    def serve(self) -> None:
        self._recipe = pickle.loads(self._common.recipe_pickled)
        spec = self._make(self._first_level())
        self._layout = layout = layout_of(spec)
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
        if spec.agents:
            self._finished = self._shared.next[FINISHED][self._row], self._shared.final[FINISHED][self._row]
        self._record["attempt"] = 0
        if self._common.snapshots is not None and supports(self._env):
            self._files = EpisodeFiles(self._common.snapshots, self._row, layout)
        self._loop()

    def _first_level(self) -> str | None:
        """That of the episode to continue, else that of the first one that begins here."""
        if self._order is not None and self._common.snapshots is not None:
            with contextlib.suppress(StorageError):  # restoring meets the same and reports it
                return read_state(self._common.snapshots, self._row, self._order).get("level", self._recipe.fidelity)
        return self._level_of_next()

    def _level_of_next(self) -> str | None:
        return self._seeds.fidelity(self._row, self._episode, self._shared.env_steps) or self._recipe.fidelity

    def _make(self, level: str | None) -> EnvSpec:
        """The environment at a level, in place of the one there is."""
        gone, self._env = self._env, None
        if gone is not None:
            with contextlib.suppress(Exception):
                gone.close()
        self.doing = "the environment's constructor"
        recipe = dataclasses.replace(self._recipe, fidelity=level)
        self._env = resolve.make(recipe)
        spec = resolve.spec_of(self._env, recipe)
        self._level, self._fidelity = level, resolve.fidelity_index(self._env, spec, level)
        return spec

    def _change_level(self, level: str | None) -> None:
        """Between two episodes, as part of the reset."""
        self._record["in_constructor_since"] = time.monotonic()
        if layout_of(self._make(level)) != self._layout:
            raise EnvironmentFault("every construction must give the same spaces; this one differs.", "protocol")
        self._record["in_constructor_since"] = 0.0
        self._record["last_seen_at"] = time.monotonic()

    def _loop(self) -> None:
        channel, step = self._channel, self._step
        if self._order is None or self._files is None or not self._continue(self._order, self._files):
            self._reset()
        while channel.recv(1) == b"A":
            if step():
                self._reset()
            elif self._files is not None and self._files.due(self._step_s):
                self._snapshot(self._files)

    def _reset(self) -> None:
        record = self._record
        seed = self._seeds.seed(self._row, self._episode)
        record["episode"] = self._episode
        record["episode_uid"] = self._seeds.episode_uid(self._row, self._episode)
        record["seed"] = seed
        begin, core = time.monotonic(), core_seconds()
        record["in_reset_since"] = begin
        if (level := self._level_of_next()) != self._level:
            self._change_level(level)
        record["fidelity"] = self._fidelity
        self.doing = "reset"
        write_observation(unpack_reset(self._env.reset(seed=seed)), self._next, "reset")
        end = time.monotonic()
        record["in_reset_since"] = 0.0
        record["last_seen_at"] = end
        record["reset_s"] += end - begin
        self._count_core(core_seconds() - core)
        record["resets"] += 1
        self._episode += 1
        self._step_index, self._episode_return, self._attempts = 0, 0.0, {}
        if self._files is not None:
            self._files.begin(int(record["episode_uid"][0]))
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
        target = self._final if ended else self._next
        write_observation(observation, target, "step")
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
        self._count_core(core)
        if self._attempts or record["attempt"][0]:
            record["attempt"] = self._attempts.pop(self._step_index, 0)
        failure = None
        if self._files is not None:
            try:  # before the step counts as produced, so that whatever has been given out is in the journal
                self._files.append(self._step_index, self._action, reward, terminated, truncated, target)
            except OSError as error:
                failure = error
            self._episode_return += float(np.float32(reward))
        self._step_index += 1
        self._step_s = end - begin
        transitions, before = record["transitions"][0], self._produced % 2
        finished = 1 if self._finished is None else np.count_nonzero(self._finished[ended])
        transitions[1 - before] = transitions[before] + finished
        record["level_steps"][0, self._fidelity] += 1  # the step counts from here on, wherever this process is killed
        self._produced += 1
        if not ended:
            self._channel.send(b"S")
        else:
            plain = plain_scalars(info)
            record["diverged"] += plain.get("diverged") is True
            self._channel.send(b"E" + pickle.dumps(plain))
            if self._files is not None:
                self._files.end()
        if failure is not None:
            self._tell_of_snapshot(failure, "its journal")
        return ended

    def _count_core(self, core_s: float) -> None:
        self._record["level_core_s"][0, self._fidelity] += core_s

    def _snapshot(self, files: EpisodeFiles) -> None:
        """After a step has been told of, so that the policy answers meanwhile. A failure costs nothing but safety."""
        record, failing = self._record, files.failing
        record["in_snapshot_since"] = time.monotonic()
        facts = {name: record[name][0].item() for name in ("seed", "fidelity")} | {"level": self._level}
        try:
            cost = files.snapshot(self._env, self._step_index, self._next, episode_return=self._episode_return, **facts)
            record["snapshot_s"] += cost
            record["snapshots"] += 1
        except Exception as error:  # noqa: BLE001 - an environment may raise anything
            if not failing:
                self._tell_of_snapshot(error, "its snapshot")
        record["last_seen_at"] = time.monotonic()
        record["in_snapshot_since"] = 0.0

    def _tell_of_snapshot(self, error: Exception, what: str) -> None:
        kind, message, _ = cause_of(error, what)
        self._channel.send(b"N" + pickle.dumps((kind, f"{message}; it goes on without")))

    def _continue(self, order: Continuation, files: EpisodeFiles) -> bool:
        """Bring an episode back to its last finished step; False where that step was its end."""
        self.doing = "restore"
        record = self._record
        begin, core = time.monotonic(), core_seconds()
        saved = files.read(order)
        if len(saved.records) and (saved.records[-1]["terminated"] or saved.records[-1]["truncated"]):
            return False
        record["in_reset_since"] = begin
        given = self._env.unwrapped.restore(saved.environment)
        restore_around(self._env, saved.state)
        # apart from the shared memory, where the caller's last observation may still be needed
        scratch = [(leaf, np.empty_like(array)) for leaf, array in self._next]
        if given is not None:  # it need not return its last observation
            write_observation(given, scratch, "restore")
            check_observation(scratch, saved.state["observation"], order.snapshot)
        total = saved.state["episode_return"]
        for step in saved.records:
            self.doing = "step"
            action = step["action"]
            action = action.item() if action.ndim == 0 else action.copy()
            observation, reward, terminated, truncated, _ = unpack_step(self._env.step(action))
            write_observation(observation, scratch, "step")
            check_step(step, scratch, reward, terminated, truncated)
            total += np.float32(step["reward"])
            record["recomputed"] += 1
            record["last_seen_at"] = time.monotonic()
        for leaf, array in self._next:
            last = saved.records[-1][OBSERVATION + leaf.path] if len(saved.records) else None
            array[...] = saved.state["observation"][leaf.path] if last is None else last
        files.settle(order)
        record["episode_uid"] = order.episode_uid
        record["seed"], record["fidelity"] = saved.state["seed"], saved.state["fidelity"]
        self._step_index, self._episode_return = order.step, total
        self._attempts = dict.fromkeys(range(order.step, order.step + saved.num_later), 1)
        if order.attempt:
            self._attempts[order.step] = order.attempt
        record["in_reset_since"] = 0.0
        record["last_seen_at"] = end = time.monotonic()
        record["reset_s"] += end - begin
        self._count_core(core_seconds() - core)
        self._channel.send(b"K" + pickle.dumps((float(total), len(saved.records))))
        return True

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        sys.stdout.flush()


def core_seconds() -> float:
    """CPU seconds of this process so far and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
