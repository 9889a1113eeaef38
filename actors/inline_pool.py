"""Actions go in, finished steps come out, all in this process: for cheap environments, debugging and ``--local``.

Environments step one after another inside ``recv``, in row order, so a run is deterministic but for the times that it
measures. What is Python for each row is kept to the environment's own ``step`` and a look at what it returned; all else
is done for all rows at once. This pool hosts anything that the process pool hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from typing import Any

import numpy as np

from distrl.actors.environment_process import cause_of, core_seconds
from distrl.actors.recovery import MAX_FAILURES
from distrl.actors.running_episodes import CoreClock, RunningEpisodes, at_most
from distrl.core.contracts import Fault, Outcomes, PoolStats, Requests
from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.joint import FINISHED
from distrl.core.seeds import EpisodeSeeds
from distrl.core.spaces import action_leaf, empty_observation, leaves
from distrl.core.types import MAX_FIDELITIES, EnvRecipe, EnvSpec
from distrl.envs import resolve
from distrl.envs.checks import plain_scalars, unpack_reset, unpack_step, write_observation

_ANY = (Exception, SystemExit)  # what an environment may raise without hurting the others; Ctrl-C is not its own
_REAL, _FLAG = {float, np.float64, np.float32}, {bool, np.bool_}  # what needs no look of ``unpack_step``


class InlinePool:
    """An EnvPool (core/contracts.py) in the calling process; rows are environments (agent 0).

    Every ``recv`` steps the rows that ``send`` has given actions, and returns: ``timeout_s`` is not used, and
    a step that never returns cannot be ended here, and one that ends its process ends this one (hosting = "process"
    guards against both). An environment that raises is closed and made anew; its episode is cut.

    The clock is read once a row: a step's seconds hold what the pool itself does for the row, about a microsecond. CPU
    time is by ``CoreClock``, a step's share of it by wall time.

    Args:
        recipe: what to make. num_envs: how many. seeds: of each environment's episodes.
        env_steps: of the whole run so far; see ``progress``.

    Raises:
        ConfigError, EnvironmentFault: the environments cannot be made.
    """

    spec: EnvSpec
    lockstep = True

    def __init__(self, recipe: EnvRecipe, num_envs: int, seeds: EpisodeSeeds, env_steps: int = 0):
        self.num_envs = num_envs
        self.env_index = np.arange(num_envs, dtype=np.int32)
        self.agent_index = np.zeros(num_envs, np.int32)
        self._recipe = recipe
        self._seeds = seeds
        self._env_steps = env_steps
        self._envs: list[Any] = [None] * num_envs
        self._levels: list[str | None] = [None] * num_envs  # that they were made at
        self._episode = [0] * num_envs
        self._spaces: Any = None
        self._began_s, self._ended_s = time.monotonic(), math.inf
        self._step_s = self._reset_s = self._core_s = 0.0
        self._produced = self._transitions = self._resets = self._starts = self._diverged = 0
        self._level_steps, self._level_core_s = np.zeros(MAX_FIDELITIES, np.int64), np.zeros(MAX_FIDELITIES)
        self._shown: set[str] = set()  # messages whose traceback has been printed
        for row in range(num_envs):
            try:
                self._make(row, self._level_of_next(row))
            except ConfigError:
                self.close()
                raise
            except _ANY as error:
                self.close()
                kind, message, _ = cause_of(error, "its constructor")
                raise EnvironmentFault(f"environment {row} ({recipe.id}): {message}.", kind) from error
        self.spec = resolve.spec_of(self._envs[0], dataclasses.replace(recipe, fidelity=self._levels[0]))
        found = leaves(self.spec.observation_space)
        self._observation = store = empty_observation(found, num_envs)  # each row's newest, what its policy acts on
        boxes = [leaf for leaf in found if leaf.low is None]
        self._boxes = [(leaf.keys, store[leaf.path], store[leaf.path].dtype, leaf.spec.shape) for leaf in boxes]
        self._floats = [store[leaf.path] for leaf in boxes if store[leaf.path].dtype.kind == "f"]
        self._targets = [[(leaf, store[leaf.path][row, ...]) for leaf in found] for row in range(num_envs)]
        self._bounded = [[entry for entry in targets if entry[0].low is not None] for targets in self._targets]
        action = action_leaf(self.spec.action_space)
        self._actions = np.zeros((num_envs, *action.shape), action.dtype)
        self._acting = np.zeros(num_envs, bool)  # rows that have an action
        self._to_reset = list(range(num_envs))
        self._failures = np.zeros(num_envs, np.int64)
        self._cause = EnvironmentFault("no environment was started.", "error")
        self._held: list[Fault] = []
        self._episodes, self._core_clock = RunningEpisodes(num_envs), CoreClock()

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]:
        """Step every row that has an action, reset what has ended.

        Raises:
            EnvironmentFault: every row is quarantined after MAX_FAILURES failures in a row; the last cause.
        """
        acting = np.flatnonzero(self._acting)
        if not (len(acting) or self._held) and (self._failures >= MAX_FAILURES).all():
            raise self._cause
        self._acting[:] = False
        faults, self._held = self._held, []
        to_reset, self._to_reset = self._to_reset, []
        outcomes = self._step(acting, faults, to_reset)
        asking = outcomes.rows
        if len(outcomes.ended) or to_reset:
            over = asking[outcomes.ended]
            asks = np.zeros(self.num_envs, bool)
            asks[asking] = True
            asks[over] = False
            asks[self._reset_rows(to_reset + over.tolist(), set(over.tolist()), faults)] = True
            asking = np.flatnonzero(asks)
        return outcomes, self._episodes.requests(asking, self._observation), faults

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None:
        """Give rows their actions [N, …]; the steps happen in the next ``recv``."""
        self._actions[rows] = actions
        self._acting[rows] = True

    def progress(self, env_steps: int) -> None:
        """See the contract."""
        self._env_steps = env_steps

    def halt(self) -> tuple[Outcomes, Requests]:
        """See the contract; steps happen in ``recv``, so none is under way."""
        none = np.zeros(0, np.int64)
        return self._step(none, [], []), self._episodes.requests(none, self._observation)

    def stats(self) -> PoolStats:
        """Totals up to now."""
        return PoolStats(
            produced=self._produced,
            resets=self._resets,
            step_s=self._step_s,
            reset_s=self._reset_s,
            core_s=self._core_s,
            lifetime_s=min(time.monotonic(), self._ended_s) - self._began_s,
            process_starts=self._starts,
            diverged=self._diverged,
            transitions=self._transitions,
            level_steps=self._level_steps.copy(),
            level_core_s=self._level_core_s.copy(),
        )

    def close(self) -> None:
        """Close every environment; what one raises there is ignored."""
        self._ended_s = min(time.monotonic(), self._ended_s)
        for row in range(self.num_envs):
            self._unmake(row)

    def _step(self, acting: np.ndarray, faults: list[Fault], to_reset: list[int]) -> Outcomes:
        """Step rows, ascending; those that fail are added to ``faults`` and ``to_reset``."""
        actions = self._actions[acting]  # a copy: an environment may keep its action
        stepped: list[int] = []
        rewards: list[float] = []
        begins: list[float] = []
        ends: list[float] = []
        over: list[tuple[int, bool, bool, Any]] = []
        clock, began = time.monotonic, time.time()
        now = first = clock()
        self._core_clock.begin(now)
        for row, action in zip(acting.tolist(), actions.tolist() if actions.ndim == 1 else actions, strict=True):
            try:
                result = self._envs[row].step(action)
                if not _is_plain(result):
                    result = unpack_step(result)
                observation, reward, terminated, truncated, info = result
                self._write(observation, row)
            except _ANY as error:
                self._fail(row, error, "step", True, faults)
                to_reset.append(row)
                now = clock()
                continue
            stepped.append(row)
            rewards.append(reward)
            begins.append(now)
            ends.append(now := clock())
            if terminated or truncated:
                over.append((row, terminated, truncated, info))
        core = self._core_clock.spent(now - first, now)
        rows, reward32 = np.array(stepped, np.int64), np.array(rewards, np.float64).astype(np.float32)
        begin_s, end_s = np.array(begins), np.array(ends)
        if not self._all_finite(rows, reward32):
            finite = np.array([self._is_finite(row, rewards[k], faults) for k, row in enumerate(stepped)])
            to_reset += rows[~finite].tolist()
            rows, reward32, begin_s, end_s = rows[finite], reward32[finite], begin_s[finite], end_s[finite]
            over = [entry for entry in over if entry[0] in rows]
        wall_s = end_s - begin_s
        core_s = wall_s * (core / max(now - first, 1e-9))
        self._count_steps(rows, reward32, wall_s, core_s)
        terminated, truncated, ended = np.zeros(len(rows), bool), np.zeros(len(rows), bool), np.zeros(0, np.int64)
        infos = []
        if over:
            ended = np.searchsorted(rows, [row for row, *_ in over])
            terminated[ended] = [entry[1] for entry in over]
            truncated[ended] = [entry[2] for entry in over]
            infos = [plain_scalars(info) for *_, info in over]
            self._diverged += sum(info.get("diverged") is True for info in infos)
        return Outcomes(
            rows=rows,
            reward=reward32,
            terminated=terminated,
            truncated=truncated,
            ended=ended,
            final_observation={path: array[rows[ended]] for path, array in self._observation.items()},
            start_s=begin_s + (began - first),
            end_s=end_s + (began - first),
            core_s=core_s.astype(np.float32),
            attempt=np.zeros(len(rows), np.int16),
            info=infos,
        )

    def _write(self, value: Any, row: int) -> None:
        """Store the observation that a step has returned; whether its floats are finite is seen for all rows at
        once."""
        try:
            for keys, array, dtype, shape in self._boxes:
                part = value
                for key in keys:
                    part = part[key]
                if type(part) is not np.ndarray or part.dtype != dtype or part.shape != shape:
                    break
                array[row] = part
            else:
                if self._bounded[row]:
                    write_observation(value, self._bounded[row], "step")
                return
        except (KeyError, IndexError, TypeError):
            pass  # what follows says what was wrong
        write_observation(value, self._targets[row], "step")

    def _all_finite(self, rows: np.ndarray, reward: np.ndarray) -> bool:
        index = self._episodes.index(rows)
        return bool(np.isfinite(reward).all() and all(np.isfinite(array[index]).all() for array in self._floats))

    def _is_finite(self, row: int, reward: float, faults: list[Fault]) -> bool:
        """Whether a row's step gave finite numbers; if not, the row has failed."""
        try:
            unpack_step((None, reward, False, False, {}))
            for leaf, target in self._targets[row]:
                write_observation(target, [(dataclasses.replace(leaf, keys=()), np.empty_like(target))], "step")
        except EnvironmentFault as fault:
            self._fail(row, fault, "step", True, faults)
            return False
        return True

    def _count_steps(self, rows: np.ndarray, reward: np.ndarray, wall_s: np.ndarray, core_s: np.ndarray) -> None:
        self._failures[rows] = 0
        self._episodes.stepped(rows, reward)
        level = self._episodes.fidelity[rows]
        self._level_steps += np.bincount(level, minlength=MAX_FIDELITIES)
        self._level_core_s += np.bincount(level, core_s, MAX_FIDELITIES)
        self._produced += len(rows)
        several = self.spec.agents  # whose steps of several agents are counted in the newest observation
        self._transitions += int(self._observation[FINISHED][rows].sum()) if several else len(rows)
        self._step_s += float(wall_s.sum())
        self._core_s += float(core_s.sum())

    def _reset_rows(self, rows: list[int], over: set[int], faults: list[Fault]) -> list[int]:
        """Reset rows (making what is gone); the rows that have a first observation now."""
        first = []
        for row in sorted(rows):
            if self._failures[row] >= MAX_FAILURES:
                continue
            if any(fault.row == row for fault in faults):
                self._to_reset.append(row)  # a batch with a row's fault holds nothing else of that row
                continue
            try:
                self._reset(row)
                first.append(row)
            except _ANY as error:
                self._fail(row, error, "reset", False, self._held if row in over else faults)
                self._to_reset.append(row)
        return first

    def _level_of_next(self, row: int) -> str | None:
        return self._seeds.fidelity(row, self._episode[row], self._env_steps) or self._recipe.fidelity

    def _make(self, row: int, level: str | None) -> None:
        """The environment of a row at a level, in place of the one there may be."""
        env, self._envs[row] = self._envs[row], None
        if env is None:
            self._starts += 1
        else:
            with contextlib.suppress(Exception):
                env.close()
        env = self._envs[row] = resolve.make(dataclasses.replace(self._recipe, fidelity=level))
        self._levels[row] = level
        self._spaces = self._spaces or (env.observation_space, env.action_space)
        if (env.observation_space, env.action_space) != self._spaces:
            raise EnvironmentFault("every construction must give the same spaces; this one differs.", "protocol")

    def _unmake(self, row: int) -> None:
        env, self._envs[row] = self._envs[row], None
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()

    def _reset(self, row: int) -> None:
        level = self._level_of_next(row)
        if self._envs[row] is None:
            self._make(row, level)
        begin, core = time.monotonic(), core_seconds()
        if level != self._levels[row]:
            self._make(row, level)
        fidelity = resolve.fidelity_index(self._envs[row], self.spec, level)
        self._episodes.fidelity[row] = fidelity
        episode = self._episode[row]
        self._episode[row] += 1
        seed = self._seeds.seed(row, episode)
        write_observation(unpack_reset(self._envs[row].reset(seed=seed)), self._targets[row], "reset")
        self._episodes.begin(row, self._seeds.episode_uid(row, episode), seed)
        reset_s = time.monotonic() - begin
        self._reset_s += reset_s
        core = at_most(reset_s, core_seconds() - core)
        self._core_s += core
        self._level_core_s[fidelity] += core
        self._resets += 1

    def _fail(self, row: int, error: BaseException, doing: str, cut: bool, faults: list[Fault]) -> None:
        kind, message, trace = cause_of(error, doing)
        if trace and message not in self._shown:
            self._shown.add(message)
            print(trace, file=sys.stderr, flush=True)
        self._failures[row] += 1
        sentence = f"environment {row} ({self._recipe.id}): {message}."
        self._cause = EnvironmentFault(sentence, kind)
        if self._failures[row] >= MAX_FAILURES:
            sentence += (
                f" It failed {MAX_FAILURES} times in a row without finishing a step: it is quarantined and not started "
                "again."
            )
        faults.append(Fault(row, kind, sentence, cut))
        self._unmake(row)


def _is_plain(result: Any) -> bool:
    """Whether ``unpack_step`` would change and refuse nothing but a reward that is not finite."""
    return (
        type(result) is tuple
        and len(result) == 5
        and type(result[1]) in _REAL
        and type(result[2]) in _FLAG
        and type(result[3]) in _FLAG
        and type(result[4]) is dict
    )
