"""Actions go in, finished steps come out, all in this process: for cheap environments, debugging and ``--local``.

Environments step one after another inside ``recv``, in row order, so a run is deterministic but for the times that it
measures. Fast vectorised stepping is another pool's; this one hosts anything that the process pool hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from typing import Any

import numpy as np

from distrl.actors.environment_process import cause_of, core_seconds
from distrl.actors.recovery import MAX_FAILURES
from distrl.core.contracts import Fault, Outcomes, PoolStats, Requests
from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.seeds import EpisodeSeeds
from distrl.core.spaces import action_leaf, empty_observation, leaves
from distrl.core.types import MAX_FIDELITIES, EnvRecipe, EnvSpec
from distrl.envs import resolve
from distrl.envs.checks import plain_scalars, unpack_reset, unpack_step, write_observation

_ANY = (Exception, SystemExit)  # what an environment may raise without hurting the others; Ctrl-C is not its own


class InlinePool:
    """An EnvPool (core/contracts.py) in the calling process; rows are environments (agent 0).

    Every ``recv`` steps the rows that ``send`` has given actions, and returns: ``timeout_s`` is not used, and
    a step that never returns cannot be ended here, and one that ends its process ends this one (hosting = "process"
    guards against both). An environment that raises is closed and made anew; its episode is cut.

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
        self._made_at = np.zeros(num_envs)
        self._lifetime_s = 0.0  # of environments that are gone
        self._step_s = self._reset_s = self._core_s = 0.0
        self._produced = self._resets = self._starts = self._diverged = 0
        self._level_steps, self._level_core_s = np.zeros(MAX_FIDELITIES, np.int64), np.zeros(MAX_FIDELITIES)
        self._shown: set[str] = set()  # messages whose traceback has been printed
        self._closed = False
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
        action = action_leaf(self.spec.action_space)
        self._observation = empty_observation(found, num_envs)  # each row's newest, what its policy acts on
        self._final = empty_observation(found, num_envs)
        self._next_targets = [[(leaf, self._observation[leaf.path][r, ...]) for leaf in found] for r in range(num_envs)]
        self._final_targets = [[(leaf, self._final[leaf.path][r, ...]) for leaf in found] for r in range(num_envs)]
        self._actions = np.zeros((num_envs, *action.shape), action.dtype)
        self._acting: list[int] = []  # rows that have an action
        self._to_reset = list(range(num_envs))
        self._failures = [0] * num_envs
        self._cause = EnvironmentFault("no environment was started.", "error")
        self._held: list[Fault] = []
        self._steps = np.zeros(num_envs, np.int32)  # of the running episode
        self._returns = np.zeros(num_envs, np.float64)
        self._episode_uid = np.zeros(num_envs, np.uint64)
        self._seed = np.zeros(num_envs, np.int64)
        self._fidelity = np.zeros(num_envs, np.int16)

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]:
        """Step every row that has an action, reset what has ended.

        Raises:
            EnvironmentFault: every row is quarantined after MAX_FAILURES failures in a row; the last cause.
        """
        if all(failures >= MAX_FAILURES for failures in self._failures) and not self._held:
            raise self._cause
        held, self._held = self._held, []
        faults: list[Fault] = held
        acting, self._acting = self._acting, []
        to_reset, self._to_reset = self._to_reset, []
        stepped: list[int] = []
        numbers: list[tuple[float, float, float, float, bool, bool]] = []
        ended: list[int] = []
        infos: list[dict[str, Any]] = []
        going: list[int] = []
        for row in acting:
            try:
                values, info = self._step(row)
            except _ANY as error:
                self._fail(row, error, "step", True, faults)
                to_reset.append(row)
                continue
            if values[4] or values[5]:
                ended.append(len(stepped))
                infos.append(plain_scalars(info))
                self._diverged += infos[-1].get("diverged") is True
                to_reset.append(row)
            else:
                going.append(row)
            stepped.append(row)
            numbers.append(values)
            self._failures[row] = 0
        over = {stepped[position] for position in ended}
        first = self._reset_rows(to_reset, over, faults)
        rows = np.array(stepped, np.int64)
        table = np.array(numbers, np.float64).reshape(-1, 6)
        ended_at = np.array(ended, np.int64)
        outcomes = Outcomes(
            rows=rows,
            reward=table[:, 0].astype(np.float32),
            terminated=table[:, 4].astype(bool),
            truncated=table[:, 5].astype(bool),
            ended=ended_at,
            final_observation={path: array[rows[ended_at]] for path, array in self._final.items()},
            start_s=table[:, 1].copy(),
            end_s=table[:, 2].copy(),
            core_s=table[:, 3].astype(np.float32),
            attempt=np.zeros(len(rows), np.int16),
            info=infos,
        )
        asking = np.array(going + first, np.int64)
        is_first = np.zeros(len(asking), bool)
        is_first[len(going) :] = True
        order = np.argsort(asking, kind="stable")
        asking, is_first = asking[order], is_first[order]
        requests = Requests(
            rows=asking,
            observation={path: array[asking] for path, array in self._observation.items()},
            is_first=is_first,
            step=self._steps[asking],
            episode_return=self._returns[asking],
            episode_uid=self._episode_uid[asking],
            seed=self._seed[asking],
            fidelity=self._fidelity[asking],
        )
        return outcomes, requests, faults

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None:
        """Give rows their actions [N, …]; the steps happen in the next ``recv``."""
        self._actions[rows] = actions
        self._acting = sorted({*self._acting, *np.asarray(rows).tolist()})

    def progress(self, env_steps: int) -> None:
        """See the contract."""
        self._env_steps = env_steps

    def halt(self) -> tuple[Outcomes, Requests]:
        """See the contract; steps happen in ``recv``, so none is under way."""
        self._acting, self._to_reset = [], []
        outcomes, requests, _ = self.recv(0.0)
        return outcomes, requests

    def stats(self) -> PoolStats:
        """Totals up to now."""
        alive = self._made_at[self._made_at > 0]
        lifetime_s = self._lifetime_s + float((time.monotonic() - alive).sum())
        return PoolStats(
            produced=self._produced,
            resets=self._resets,
            step_s=self._step_s,
            reset_s=self._reset_s,
            core_s=self._core_s,
            lifetime_s=lifetime_s,
            process_starts=self._starts,
            diverged=self._diverged,
            level_steps=self._level_steps.copy(),
            level_core_s=self._level_core_s.copy(),
        )

    def close(self) -> None:
        """Close every environment; what one raises there is ignored."""
        for row in range(self.num_envs):
            self._unmake(row)

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
        self._made_at[row] = self._made_at[row] or time.monotonic()  # a change of level is part of its life

    def _unmake(self, row: int) -> None:
        env, self._envs[row] = self._envs[row], None
        if self._made_at[row] > 0:
            self._lifetime_s += time.monotonic() - self._made_at[row]
            self._made_at[row] = 0.0
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
        self._fidelity[row] = resolve.fidelity_index(self._envs[row], self.spec, level)
        episode = self._episode[row]
        self._episode[row] += 1
        seed = self._seeds.seed(row, episode)
        self._seed[row] = seed
        self._episode_uid[row] = self._seeds.episode_uid(row, episode)
        write_observation(unpack_reset(self._envs[row].reset(seed=seed)), self._next_targets[row], "reset")
        self._steps[row], self._returns[row] = 0, 0.0
        self._reset_s += time.monotonic() - begin
        self._count_core(row, core_seconds() - core)
        self._resets += 1

    def _count_core(self, row: int, core_s: float) -> None:
        self._core_s += core_s
        self._level_core_s[self._fidelity[row]] += core_s

    def _step(self, row: int) -> tuple[tuple[float, float, float, float, bool, bool], Any]:
        """(reward, start_s, end_s, core_s, terminated, truncated) and info."""
        action = self._actions[row, ...]
        action = action.item() if action.ndim == 0 else action.copy()
        start, begin, core = time.time(), time.monotonic(), core_seconds()
        result = self._envs[row].step(action)
        wall, core = time.monotonic() - begin, core_seconds() - core
        observation, reward, terminated, truncated, info = unpack_step(result)
        targets = self._final_targets if terminated or truncated else self._next_targets
        write_observation(observation, targets[row], "step")
        self._steps[row] += 1
        self._returns[row] += np.float32(reward)
        self._produced += 1
        self._level_steps[self._fidelity[row]] += 1
        self._step_s += wall
        self._count_core(row, core)
        return (reward, start, start + wall, core, terminated, truncated), info

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
