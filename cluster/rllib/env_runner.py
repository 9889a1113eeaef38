"""An RLlib configuration in, RLlib's episodes out, from environments in processes of their own, first ready first
served.

    config.environment("my_package.my_module:MyEnv", env_config={"mesh": "fine"})
    config.env_runners(env_runner_cls=DistrlEnvRunner, num_envs_per_env_runner=8)

Where RLlib's own runner steps its environments together, waits for the slowest and begins all of them anew when one
fails, here each acts as soon as it is ready, goes on while the learner updates, and costs its own episode at most.
Connectors, modules, episodes, metrics, callbacks and states are RLlib's: this is its SingleAgentEnvRunner with another
``make_env`` and ``_sample``.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import NUM_ENV_STEP_FAILURES_LIFETIME
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import (
    ENV_TO_MODULE_CONNECTOR,
    MODULE_TO_ENV_CONNECTOR,
    RLMODULE_INFERENCE_TIMER,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.spaces.space_utils import unbatch
from ray.tune.registry import ENV_CREATOR, _global_registry

from distrl.actors.process_pool import ProcessPool, SnapshotPlan
from distrl.core.contracts import Outcomes, Requests
from distrl.core.errors import ConfigError
from distrl.core.run_directory import own_scratch
from distrl.core.seeds import TrainingSeeds
from distrl.core.spaces import nested
from distrl.core.types import EnvRecipe

#: Entry of ``env_config`` with what is distrl's; the rest goes to the environment's constructor.
OPTIONS = "distrl"
_OF_RECIPE = ("fidelity", "delay", "max_episode_steps")
_OF_POOL = ("step_timeout_s", "hang_factor", "nice", "cores")
_SNAPSHOTS = "snapshots"  # a directory
_WAIT_S = 60.0  # before it says that it waits
_log = logging.getLogger(__name__)


class DistrlEnvRunner(SingleAgentEnvRunner):
    """RLlib's EnvRunner over a ``ProcessPool``.

    ``config.env`` is an id or an import path, as distrl's ``env.id``, or a class that can be imported; ``env_config``
    its arguments, without the entry ``distrl``, a table with ``step_timeout_s``, ``hang_factor``, ``nice``, ``cores``
    (see ProcessPool), ``fidelity``, ``delay``, ``max_episode_steps`` (see EnvRecipe), and ``snapshots``, a directory
    from which episodes of environments that can go on after a failure.

    Beside RLlib's runner:

    - At the end of ``sample(num_timesteps=…)`` every environment has an action and goes on. Its step comes with the
      next call, with the version and the log-probability of the policy that acted.
    - ``sample(num_episodes=N)`` begins N episodes and ends all of them: none is thrown away for being long.
    - An episode whose environment has failed is truncated where it was, and counts in no return.
    - ``info`` is there with an episode's last step, and holds its plain scalars.
    """

    def make_env(self) -> None:
        """New environment processes, in place of any that there are.

        Raises:
            ConfigError: an environment that other processes cannot make, or that has several agents; options that are
                none. EnvironmentFault: none of them could be made.
        """
        if self.env is not None:
            self.env.close()
        context = self.config.env_config
        if not isinstance(context, EnvContext):
            context = EnvContext(context, worker_index=self.worker_index or 0, num_workers=self.num_workers)
        options = dict(context.get(OPTIONS, {}))
        recipe = recipe_of(self.config.env, context, options)
        life = self._lives = getattr(self, "_lives", -1) + 1
        if life == 0:
            self._run_seed = secrets.randbits(31) if self._seed is None else self._seed
        scratch = own_scratch(f"rllib-{os.getpid()}") / secrets.token_hex(4)
        snapshots = options.pop(_SNAPSHOTS, None)
        self._pool = ProcessPool(
            recipe,
            self.config.num_envs_per_env_runner,
            TrainingSeeds(self._run_seed, self.worker_index or 0, life),
            scratch_dir=str(scratch),
            snapshots=None if snapshots is None else SnapshotPlan(os.path.join(snapshots, scratch.name)),
            **options,
        )
        self.env = PoolEnv(self._pool, str(scratch))
        if self._pool.spec.agents:
            self.env.close()
            raise ConfigError(
                f"DistrlEnvRunner samples environments of one agent, but {recipe.id} has "
                f"{len(self._pool.spec.agents)}: train it with distrl (docs/multi_agent.md), or with RLlib's "
                "MultiAgentEnvRunner"
            )
        self.num_envs = self._pool.num_envs
        self._needs_initial_reset = True
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env.unwrapped,
                "env_context": context,
            },
        )

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        """See ``sample``."""
        anew = force_reset or num_episodes is not None
        if anew and not self._needs_initial_reset and any(episode.is_reset for episode in self._ongoing_episodes):
            self.make_env()
        if self._needs_initial_reset:
            self._begin_rows()
        num_steps = num_ended = num_begun = 0
        finished: list[SingleAgentEpisode] = []  # ended by their environments
        cut: list[SingleAgentEpisode] = []  # … and by a failure
        while num_steps < num_timesteps if num_timesteps is not None else num_ended < (num_episodes or 0):
            may_begin = self.num_envs if num_episodes is None else num_episodes - num_begun
            outcomes, requests, faults = self._pool.recv(0.0 if self._held and may_begin else _WAIT_S)
            num_steps += len(outcomes.rows)
            ended = self._add_steps(outcomes, requests, explore)
            num_ended += len(ended)
            finished += ended
            for fault in faults:
                _log.warning("%s", fault.message)
                self.metrics.log_value(NUM_ENV_STEP_FAILURES_LIFETIME, 1, reduce="lifetime_sum")
                if fault.cut and self._held.pop(fault.row, None) is None:
                    cut += self._cut(fault.row)
                    num_begun -= 1
            rows = [int(row) for row in requests.rows[~requests.is_first]]
            self._held |= _observations(self._pool, requests, requests.is_first)
            begin = list(self._held)[: self.num_envs if num_episodes is None else num_episodes - num_begun]
            num_begun += len(begin)
            for row in begin:
                self._ongoing_episodes[row].add_env_reset(observation=self._held.pop(row), infos={})
            if rows or begin:
                self._act([*rows, *begin], explore, random_actions, num_steps)
            elif not len(outcomes.rows) and not faults and not self._held:
                _log.warning("waiting for the step of one of %d environments (%s)", self.num_envs, self._pool.spec.id)
            for row in rows:
                self._make_on_episode_callback("on_episode_step", row, self._ongoing_episodes)
            for row in begin:
                self._make_on_episode_callback("on_episode_start", row, self._ongoing_episodes)

        self._done_episodes_for_metrics.extend(finished)
        chunks = self._chunks() if num_timesteps is not None else []
        stats = self._pool.stats()
        self.metrics.log_value("env_busy_fraction", stats.step_s / max(stats.lifetime_s, 1e-9), window=1)
        if num_steps:
            self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=num_steps)
        self._increase_sampled_metrics(num_steps, len(finished))
        return finished + cut + chunks

    def _begin_rows(self) -> None:
        """Every environment is about to give the first observation of a new episode."""
        self._ongoing_episodes: list[Any] = [None] * self.num_envs
        self._shared_data: Any = {}
        self._held: dict[int, Any] = {}  # row → first observation of an episode that may not begin yet
        self._cut_off: list[SingleAgentEpisode] = []  # chunks that are to be returned
        self._sent: list[Any] = [None] * self.num_envs  # row → what acted, of the step under way
        self._ongoing_episodes_for_metrics.clear()  # these will never be completed
        for row in range(self.num_envs):
            self._new_episode(row)
        self._needs_initial_reset = False

    def _add_steps(self, outcomes: Outcomes, requests: Requests, explore: bool) -> list[SingleAgentEpisode]:
        """Finished steps go to their episodes; returns those that have ended, and begins new ones in their place."""
        space, ended = self._pool.spec.observation_space, outcomes.ended.tolist()
        going = _observations(self._pool, requests, ~requests.is_first)
        last = dict(zip(ended, unbatch(nested(space, outcomes.final_observation)), strict=True)) if ended else {}
        info = dict(zip(ended, outcomes.info, strict=True))
        over = []
        for position, row in enumerate(outcomes.rows.tolist()):
            action, extra = self._sent[row]
            if (known := self._ongoing_episodes[row].extra_model_outputs) and known.keys() != extra.keys():
                self._begin_other_chunk(row)
            self._ongoing_episodes[row].add_env_step(
                observation=last[position] if position in last else going[row],
                action=action,
                reward=float(outcomes.reward[position]),
                infos=info.get(position, {}),
                terminated=bool(outcomes.terminated[position]),
                truncated=bool(outcomes.truncated[position]),
                extra_model_outputs=extra,
            )
            if position in last:
                over.append(row)
        if not over:
            return []
        episodes = [self._ongoing_episodes[row] for row in over]
        self._to_module(episodes, explore, {})  # connectors may write the last observation back, normalised
        for row in over:
            for which in ("on_episode_step", "on_episode_end"):
                self._make_on_episode_callback(which, row, self._ongoing_episodes)
            self._new_episode(row)
        return [episode.to_numpy() if self.episodes_to_numpy else episode for episode in episodes]

    def _act(self, rows: list[int], explore: bool, random_actions: bool, num_steps: int) -> None:
        """Actions for rows that wait, each with an episode whose last observation is theirs."""
        episodes: list[Any] = [self._ongoing_episodes[row] for row in rows]
        if random_actions or self.module is None:
            actions = for_env = [self._pool.spec.action_space.sample() for _ in rows]
            extra: dict[str, Any] = {}
        else:
            to_module = self._to_module(episodes, explore, self._shared_data)
            with self.metrics.log_time(RLMODULE_INFERENCE_TIMER):
                if explore:
                    runners = self.config.num_env_runners or 1
                    taken = (self.num_env_steps_sampled_lifetime // runners + num_steps) * runners
                    extra = self.module.forward_exploration(to_module, t=taken)
                else:
                    extra = self.module.forward_inference(to_module)
            extra = self._module_to_env(
                rl_module=self.module,
                batch=extra,
                episodes=episodes,
                explore=explore,
                shared_data=self._shared_data,
                metrics=self.metrics,
                metrics_prefix_key=(MODULE_TO_ENV_CONNECTOR,),
            )
            batched = extra.pop(Columns.ACTIONS)
            actions, for_env = unbatch(batched), extra.pop(Columns.ACTIONS_FOR_ENV, batched)
        self._pool.send(np.asarray(for_env), np.array(rows, np.int64))
        for position, row in enumerate(rows):
            its = {name: column[position] for name, column in extra.items()}
            self._sent[row] = actions[position], its | {WEIGHTS_SEQ_NO: self._weights_seq_no}

    def _to_module(self, episodes: list[Any], explore: bool, shared_data: dict) -> Any:
        if self.module is None:
            return None
        return self._env_to_module(
            rl_module=self.module,
            episodes=episodes,
            batch={},
            explore=explore,
            shared_data=shared_data,
            metrics=self.metrics,
            metrics_prefix_key=(ENV_TO_MODULE_CONNECTOR,),
            **{
                Columns.OBS: [episode.get_observations(-1) for episode in episodes],
                Columns.INFOS: [episode.get_infos(-1) for episode in episodes],
            },
        )

    def _cut(self, row: int) -> list[SingleAgentEpisode]:
        """A row's environment has failed: what its episode has is truncated there."""
        episode = self._ongoing_episodes[row]
        self._ongoing_episodes_for_metrics.pop(episode.id_, None)
        self._new_episode(row)
        if len(episode) == 0:  # earlier chunks of it may have been returned
            return []
        episode.is_truncated = True
        return [episode.to_numpy() if self.episodes_to_numpy else episode]

    def _begin_other_chunk(self, row: int) -> None:
        """Steps with random actions have no outputs of the module, and a chunk has the same of all of its steps."""
        before = self._ongoing_episodes[row]
        self._ongoing_episodes[row] = after = before.cut(len_lookback_buffer=0)
        after.extra_model_outputs.clear()
        if len(before):
            self._cut_off.append(self._chunk(before))

    def _chunks(self) -> list[SingleAgentEpisode]:
        """What running episodes have come to since the last call; they go on in new chunks."""
        chunks, self._cut_off = self._cut_off, []
        for row, episode in enumerate(self._ongoing_episodes):
            if len(episode) > 0:
                self._ongoing_episodes[row] = episode.cut(len_lookback_buffer=self.config.episode_lookback_horizon)
                chunks.append(self._chunk(episode))
        return chunks

    def _chunk(self, episode: Any) -> SingleAgentEpisode:
        episode.validate()
        self._ongoing_episodes_for_metrics[episode.id_].append(episode)
        return episode.to_numpy() if self.episodes_to_numpy else episode


class PoolEnv(gymnasium.vector.VectorEnv):
    """What RLlib asks of its vector environment: spaces, their number and an end. It is stepped through its pool.

    Attributes:
        pool: the ProcessPool.
    """

    def __init__(self, pool: ProcessPool, scratch: str):
        self.pool, self._scratch, self.num_envs = pool, scratch, pool.num_envs
        self.single_observation_space, self.single_action_space = pool.spec.observation_space, pool.spec.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes."""
        self.pool.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def recipe_of(env: Any, env_config: Mapping[str, Any], options: dict[str, Any]) -> EnvRecipe:
    """What to make, from RLlib's ``config.env`` and ``config.env_config``; takes its own out of ``options``.

    Raises:
        ConfigError: an environment that other processes cannot make; an unknown option.
    """
    known = (*_OF_RECIPE, *_OF_POOL, _SNAPSHOTS)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"env_config[{OPTIONS!r}] takes {', '.join(known)}; got {name!r}{hint}")
    arguments = {name: value for name, value in env_config.items() if name != OPTIONS}
    if isinstance(env, type) and "<" not in env.__qualname__ and env.__module__ != "__main__":
        # RLlib gives a class its env_config as one argument
        parameter = next(iter(inspect.signature(env).parameters), "config")
        env, arguments = f"{env.__module__}:{env.__qualname__}", {parameter: arguments}
    if not isinstance(env, str) or _global_registry.contains(ENV_CREATOR, env):
        raise ConfigError(
            "DistrlEnvRunner needs an environment that a process of its own can make: an id of Gymnasium's or "
            f"distrl's, an import path like my_package.my_module:MyEnv, or a class of a module; got {env!r}"
        )
    return EnvRecipe(env, arguments, **{name: options.pop(name) for name in _OF_RECIPE if name in options})


def _observations(pool: ProcessPool, requests: Requests, wanted: np.ndarray) -> dict[int, Any]:
    """Row → observation in the form of its space, of some of the requests."""
    if not wanted.any():
        return {}
    chosen = nested(pool.spec.observation_space, {path: array[wanted] for path, array in requests.observation.items()})
    return dict(zip(requests.rows[wanted].tolist(), unbatch(chosen), strict=True))
