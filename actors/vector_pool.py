"""Actions of all rows go in, finished steps of all rows come out: environments that are vectorised natively.

Gymnasium's vector environments begin a row's next episode in one of three ways (its AutoresetMode), and what they
return for the row differs accordingly:

- DISABLED: not by themselves; ``reset(options={"reset_mask": …})`` begins the next episodes. The step's observation of
  a row that ended is its final one.
- SAME_STEP: the step's observation of a row that ended is already the next episode's first; the final one is in
  ``info["final_obs"]``.
- NEXT_STEP: the step's observation of a row that ended is its final one, and the call after that ignores the row's
  action, resets it and returns the next episode's first observation with a reward of 0: that is no transition.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from distrl.actors.environment_process import cause_of, core_seconds
from distrl.actors.recovery import MAX_FAILURES
from distrl.actors.running_episodes import CoreClock, RunningEpisodes, at_most
from distrl.core.contracts import Fault, Outcomes, PoolStats, Requests
from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.joint import FINISHED
from distrl.core.seeds import TrainingSeeds
from distrl.core.spaces import Leaf, action_leaf, empty_observation, leaves
from distrl.core.types import MAX_FIDELITIES, EnvRecipe, EnvSpec, Observation
from distrl.envs.checks import write_observation
from distrl.envs.vector_envs import autoreset_mode, final_observation_of, make_vector_env, row_info

MAX_ROWS = 2**12  # that the unique name of an episode has room for (distrl.core.seeds)
_ANY = (Exception, SystemExit)  # what an environment may raise; Ctrl-C is not its own


class VectorPool:
    """An EnvPool (core/contracts.py) over one vector environment in the calling process; rows are its environments.

    Every ``recv`` is one ``step`` of the vector environment, once ``send`` has brought actions for all rows that asked;
    ``timeout_s`` is not used. With the autoreset modes DISABLED and SAME_STEP all rows stay in step. With NEXT_STEP a
    row misses the call after its end, so ``lockstep`` is False.

    Single episodes of a vector environment cannot be seeded: it is seeded once, when it is made, and the ``seed``
    column holds that seed. What one row breaks (it raises, or a number is not finite), all rows lose: every episode is
    cut and the vector environment is made anew with another seed.

    The seconds of a call are shared out among its rows, one after the other, and so is its CPU time.

    Args:
        recipe: what to make (distrl.envs.vector_envs). num_envs: rows, at most MAX_ROWS.
        seeds: of the first episodes and the episodes' unique names.

    Raises:
        ConfigError, EnvironmentFault: it cannot be made.
    """

    spec: EnvSpec
    lockstep: bool

    def __init__(self, recipe: EnvRecipe, num_envs: int, seeds: TrainingSeeds):
        if num_envs > MAX_ROWS:
            raise ConfigError(
                f"actors.envs_per_worker must be at most {MAX_ROWS}, but {num_envs} came: use more workers"
            )
        if seeds.schedule:
            raise ConfigError(
                f"fidelity.schedule needs levels, which {recipe.id} as a vector environment does not have"
            )
        self.num_envs = num_envs
        self.env_index = np.arange(num_envs, dtype=np.int32)
        self.agent_index = np.zeros(num_envs, np.int32)
        self._recipe, self._seeds = recipe, seeds
        self._env: VectorEnv | None = None
        self._starts = self._produced = self._transitions = self._resets = self._diverged = self._failures = 0
        self._step_s = self._reset_s = self._core_s = 0.0
        self._began_s, self._ended_s, self._core_clock = time.monotonic(), math.inf, CoreClock()
        self._cause = EnvironmentFault("no environment was started.", "error")
        self._late: BaseException | None = None  # of a reset after a step whose outcomes went first
        self._doing = "its constructor"
        try:
            self._env = env = self._make()
        except ConfigError:
            raise
        except _ANY as error:
            kind, message, _ = cause_of(error, "its constructor")
            raise EnvironmentFault(f"the vector environment {recipe.id}: {message}.", kind) from error
        self._mode = autoreset_mode(env, recipe.id)
        self.lockstep = self._mode is not AutoresetMode.NEXT_STEP
        limit = recipe.max_episode_steps or getattr(env.spec, "max_episode_steps", None)
        limit = limit or getattr(env, "max_episode_steps", None)
        self.spec = EnvSpec(
            recipe.id,
            env.single_observation_space,
            env.single_action_space,
            max_episode_steps=limit,
            agents=getattr(env, "agent_specs", ()),
        )
        self._leaves = leaves(self.spec.observation_space)
        self._batch = empty_observation(self._leaves, num_envs)  # where what is returned must be converted
        self._observation: Observation = self._batch  # each row's newest
        action = action_leaf(self.spec.action_space)
        self._actions = np.zeros((num_envs, *action.shape), action.dtype)
        self._all = np.arange(num_envs)
        self._none = self._all[:0]
        self._nothing = _no_outcomes(self._leaves)
        self._begun = False  # the vector environment has been reset since it was made
        self._asked = np.zeros(num_envs, bool)  # rows that wait for an action
        self._over = np.zeros(num_envs, bool)  # NEXT_STEP: rows that the next call resets
        self._episode = [0] * num_envs
        self._seed = 0
        self._episodes = RunningEpisodes(num_envs)

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]:
        """One step of all rows, once all that asked have their actions.

        Raises:
            EnvironmentFault: MAX_FAILURES failures in a row without a finished step; the last cause.
        """
        if self._failures >= MAX_FAILURES:
            raise self._cause
        outcomes, asking, faults = self._nothing, self._none, []
        if not self._asked.any():
            try:
                if self._late is not None:
                    raise self._late
                if self._begun:
                    outcomes, asking = self._step()
                else:
                    asking = self._begin()
            except _ANY as error:
                faults = self._fail(error)
        self._asked[asking] = True
        return outcomes, self._episodes.requests(asking, self._observation), faults

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None:
        """Give rows their actions [N, …]; the step happens in the next ``recv``."""
        self._actions = self._actions.copy()  # the environment may have kept the last ones
        self._actions[rows] = actions
        self._asked[rows] = False

    def progress(self, env_steps: int) -> None:
        """See the contract; there are no levels to choose from."""

    def halt(self) -> tuple[Outcomes, Requests]:
        """See the contract; steps happen in ``recv``, so none is under way."""
        return self._nothing, self._episodes.requests(self._none, self._observation)

    def stats(self) -> PoolStats:
        """Totals up to now; ``process_starts`` counts the rows of every making."""
        level_steps, level_core_s = np.zeros(MAX_FIDELITIES, np.int64), np.zeros(MAX_FIDELITIES)
        level_steps[0], level_core_s[0] = self._produced, self._core_s
        return PoolStats(
            produced=self._produced,
            resets=self._resets,
            step_s=self._step_s,
            reset_s=self._reset_s,
            core_s=self._core_s,
            lifetime_s=min(time.monotonic(), self._ended_s) - self._began_s,
            process_starts=self._starts * self.num_envs,
            diverged=self._diverged,
            transitions=self._transitions,
            level_steps=level_steps,
            level_core_s=level_core_s,
        )

    def close(self) -> None:
        """End the environment; what it raises there is ignored."""
        self._ended_s = min(time.monotonic(), self._ended_s)
        self._unmake()

    def _unmake(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()

    def _make(self) -> VectorEnv:
        self._starts += 1
        return make_vector_env(self._recipe, self.num_envs)

    def _begin(self) -> np.ndarray:
        """Reset all rows, in an environment made anew if the last one failed; the rows that ask."""
        self._doing = "its constructor"
        if self._env is None:
            self._env = env = self._make()
            spaces = (self.spec.observation_space, self.spec.action_space)
            if (env.single_observation_space, env.single_action_space) != spaces:
                raise EnvironmentFault("every construction must give the same spaces; this one differs.", "protocol")
        self._seed = self._seeds.seed(0, self._starts - 1)
        self._reset(seed=self._seed)
        self._begin_episodes(self._all)
        self._begun = True
        return self._all

    def _reset(self, **arguments: Any) -> None:
        assert self._env is not None
        self._doing = "reset"
        begin, core = time.monotonic(), core_seconds()
        result = self._env.reset(**arguments)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvironmentFault("reset must return (observations, info dict) of all rows.", "protocol")
        self._observation = self._checked(result[0])
        reset_s = time.monotonic() - begin
        self._reset_s += reset_s
        self._core_s += at_most(reset_s, core_seconds() - core)

    def _begin_episodes(self, rows: np.ndarray) -> None:
        uids = [self._seeds.episode_uid(row, self._episode[row]) for row in rows.tolist()]
        self._episodes.begin(rows, np.array(uids, np.uint64), self._seed)
        for row in rows.tolist():
            self._episode[row] += 1
        self._resets += len(rows)

    def _step(self) -> tuple[Outcomes, np.ndarray]:
        """What finished, and the rows that ask."""
        assert self._env is not None
        self._doing = "step"
        start_s, begin = time.time(), time.monotonic()
        self._core_clock.begin(begin)
        result = self._env.step(self._actions)
        end = time.monotonic()
        wall_s, core_s = end - begin, self._core_clock.spent(end - begin, end)
        observation, reward, terminated, truncated, info = self._unpacked(result)
        resetting = np.flatnonzero(self._over)  # with NEXT_STEP
        rows = np.flatnonzero(~self._over) if len(resetting) else self._all
        over = terminated | truncated
        over[resetting] = False
        ended = np.flatnonzero(over)
        final, infos = self._finals(observation, info, ended)
        self._observation = observation
        index, count = self._episodes.index(rows), max(len(rows), 1)
        self._episodes.stepped(rows, reward[index])
        self._count(len(rows), wall_s, core_s, infos)
        several = self.spec.agents
        self._transitions += int(np.count_nonzero(observation[FINISHED][index])) if several else len(rows)
        shares = np.arange(len(rows) + 1) * (wall_s / count) + start_s
        outcomes = Outcomes(
            rows=rows,
            reward=reward[index],
            terminated=terminated[index],
            truncated=truncated[index],
            ended=np.searchsorted(rows, ended),
            final_observation=final,
            start_s=shares[:-1],
            end_s=shares[1:],
            core_s=np.full(len(rows), core_s / count, np.float32),
            attempt=np.zeros(len(rows), np.int16),
            info=infos,
        )
        asking = self._all
        if self._mode is AutoresetMode.NEXT_STEP:
            self._begin_episodes(resetting)
            self._over, asking = over, np.flatnonzero(~over)
        elif len(ended):
            try:
                if self._mode is AutoresetMode.DISABLED:
                    self._reset(options={"reset_mask": over.copy()})
                self._begin_episodes(ended)
            except _ANY as error:
                self._late, self._over, asking = error, over, np.flatnonzero(~over)
        return outcomes, asking

    def _count(self, num_steps: int, wall_s: float, core_s: float, infos: list[dict[str, Any]]) -> None:
        self._failures = 0
        self._produced += num_steps
        self._step_s += wall_s
        self._core_s += core_s
        self._diverged += sum(info.get("diverged") is True for info in infos)

    def _unpacked(self, result: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """What ``step`` has returned, checked: observation, reward float32 [rows], terminated and truncated bool
        [rows], all but the observation copied, and info."""
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], Mapping)):
            raise EnvironmentFault(
                "step must return (observations, rewards, terminations, truncations, info dict) of all rows.",
                "protocol",
            )
        flags = []
        for name, value in zip(("terminations", "truncations"), result[2:4], strict=True):
            flag = np.array(value)
            if flag.shape != (self.num_envs,) or flag.dtype != bool:
                raise EnvironmentFault(
                    f"step must return bool [{self.num_envs}] as {name}; it returned {flag.dtype} {flag.shape}.",
                    "protocol",
                )
            flags.append(flag)
        reward = np.asarray(result[1])
        if reward.shape != (self.num_envs,) or reward.dtype.kind not in "fiub":
            raise EnvironmentFault(
                f"step must return real numbers [{self.num_envs}] as rewards; it returned {reward.dtype} "
                f"{reward.shape}.",
                "protocol",
            )
        reward = reward.astype(np.float32)
        if not np.isfinite(reward).all():
            row = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise EnvironmentFault(
                f"step must return finite rewards that fit float32; that of row {row} is {reward[row]}.", "divergence"
            )
        return self._checked(result[0]), reward, flags[0], flags[1], result[4]

    def _checked(self, value: Any) -> Observation:
        """path → [rows, …] of what was returned: itself where dtype and shape are right, else converted.

        Raises:
            EnvironmentFault: of a shape, dtype or value that the space does not have.
        """
        found: Observation = {}
        for leaf in self._leaves:
            target = self._batch[leaf.path]
            part = reduce(getitem, leaf.keys, value)
            if (
                leaf.low is None
                and isinstance(part, np.ndarray)
                and (part.dtype, part.shape) == (target.dtype, target.shape)
                and (part.dtype.kind != "f" or np.isfinite(part).all())
            ):
                found[leaf.path] = part
            else:
                self._write(part, leaf, target)
                found[leaf.path] = target
        return found

    def _write(self, part: Any, leaf: Leaf, target: np.ndarray) -> None:
        write_observation(part, [(dataclasses.replace(leaf, keys=()), target)], self._doing)

    def _finals(
        self, observation: Observation, info: Mapping[str, Any], ended: np.ndarray
    ) -> tuple[Observation, list[dict[str, Any]]]:
        """Final observations path → [K, …] and infos of the rows that ended."""
        if self._mode is not AutoresetMode.SAME_STEP or not len(ended):
            return {path: array[ended] for path, array in observation.items()}, [row_info(row, info) for row in ended]
        found = final_observation_of(info)
        final = empty_observation(self._leaves, len(ended))
        of_rows = isinstance(found, np.ndarray) and found.dtype == object  # one observation a row, as Gymnasium's own
        for leaf in self._leaves:
            if of_rows:
                part = np.array([reduce(getitem, leaf.keys, found[row]) for row in ended])
            else:
                part = np.asarray(reduce(getitem, leaf.keys, found))[ended]
            self._write(part, leaf, final[leaf.path])
        return final, [row_info(row, info.get("final_info", {})) for row in ended]

    def _fail(self, error: BaseException) -> list[Fault]:
        """Close the environment; a fault for each row whose episode was running, or one that cuts none."""
        kind, message, trace = cause_of(error, self._doing)
        if trace and not self._failures:
            print(trace, file=sys.stderr, flush=True)
        self._failures += 1
        sentence = f"the vector environment {self._recipe.id}: {message}."
        self._cause = EnvironmentFault(sentence, kind)
        running = np.flatnonzero(~self._over) if self._begun else self._none
        self._unmake()
        self._late, self._begun = None, False
        self._over[:] = False
        return [Fault(row, kind, sentence, True) for row in running.tolist()] or [Fault(0, kind, sentence, False)]


def _no_outcomes(found: list[Leaf]) -> Outcomes:
    columns = {
        name: np.zeros(0, dtype)
        for name, dtype in {
            "rows": "i8", "ended": "i8", "reward": "f4", "terminated": "?", "truncated": "?", "start_s": "f8",
            "end_s": "f8", "core_s": "f4", "attempt": "i2",
        }.items()
    }  # fmt: skip
    return Outcomes(**columns, final_observation=empty_observation(found, 0), info=[])
