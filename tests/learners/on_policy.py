"""A vector environment and a policy in, rollouts of it out: what env workers and the queue do, without them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from distrl.core.types import ARRAY, EnvSpec
from distrl.learners import actor_critic
from distrl.learners.randomness import update_generator
from distrl.learners.rollout import Rollout
from distrl.learners.trainer import train_on
from tests.learners.off_policy import assert_same
from tests.learners.tape import instead_of_graphs


def spec_of(env: gymnasium.vector.VectorEnv) -> EnvSpec:
    return EnvSpec("test", env.single_observation_space, env.single_action_space)


class Rollouts:
    """T steps of N rows at a time.

    Attributes:
        returns: of the newest 100 episodes.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], num_rows: int, seed: int = 0):
        self.env = gymnasium.vector.SyncVectorEnv(
            [make] * num_rows, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        )
        self._observation, _ = self.env.reset(seed=seed)
        self._is_first = np.ones(num_rows, bool)
        self._sums = np.zeros(num_rows)
        self._state: dict[str, np.ndarray] | None = None  # of the policy
        self.returns: deque[float] = deque(maxlen=100)

    def collect(self, policy: Any, num_steps: int, version: int = 0) -> Rollout:
        """One rollout of ``policy``."""
        num_rows = self.env.num_envs
        ends = np.zeros((2, num_steps, num_rows), bool)
        observations, final, final_index, actions = [self._observation], [], [], []
        reward, log_prob = (np.empty((num_steps, num_rows), np.float32) for _ in range(2))
        first = self._is_first
        state = self._of_running_episodes(self._state or policy.initial_state(num_rows))
        before: dict[str, list[np.ndarray]] = {path: [] for path in state}
        for t in range(num_steps):
            for path, array in state.items():
                before[path].append(array)
            action, log_prob[t], state = policy.step({ARRAY: self._observation}, state, self._is_first)
            self._observation, reward[t], *ends[:, t], infos = self.env.step(policy.env_action(action))
            self._is_first = ends[:, t].any(0)
            state = self._of_running_episodes(state)
            actions.append(action)
            observations.append(self._observation)
            self._sums += reward[t]
            for row in np.flatnonzero(self._is_first):
                final.append(infos["final_obs"][row])
                final_index.append((t, row))
                self.returns.append(self._sums[row])
                self._sums[row] = 0.0
        self._state = state
        space = self.env.single_observation_space
        return Rollout(
            observation={ARRAY: np.stack(observations)},
            final_observation={ARRAY: np.array(final, space.dtype).reshape(-1, *space.shape)},
            final_index=np.array(final_index, np.int32).reshape(-1, 2),
            action=np.stack(actions),
            reward=reward,
            terminated=ends[0],
            truncated=ends[1],
            log_prob=log_prob,
            policy_version=np.full((num_steps, num_rows), version),
            is_first=np.concatenate([first[None], ends.any(0)]),
            state={path: np.stack(arrays) for path, arrays in before.items()},
            row=np.arange(num_rows),
        )

    def _of_running_episodes(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {path: np.where(self._is_first[:, None], np.float32(0), array) for path, array in state.items()}


def train(algorithm: Any, rollouts: Rollouts, num_steps: int, until: float, max_steps: int, staleness: int = 0) -> int:
    """Rollouts and updates until the newest 100 episodes reach ``until`` on average; env steps that it took.

    ``staleness``: each rollout is made with the weights of so many updates ago.
    """
    policy = algorithm.policy_spec().build(seed=1)
    published = deque([algorithm.policy_weights()], maxlen=staleness + 1)
    update = 0
    while algorithm.transitions < max_steps:
        policy.load(published[0])
        rollout = rollouts.collect(policy, num_steps, max(update - staleness, 0))
        step(algorithm, rollout, update)
        published.append(algorithm.policy_weights())
        update += 1
        if len(rollouts.returns) == 100 and np.mean(rollouts.returns) >= until:
            return algorithm.transitions
    raise AssertionError(f"{np.mean(rollouts.returns):.0f} after {algorithm.transitions} steps, not {until}")


def step(algorithm: Any, rollout: Rollout, update: int = 0) -> dict[str, torch.Tensor]:
    """One update; the metrics of its last minibatch."""
    generator = update_generator(0, update)
    metrics: dict[str, torch.Tensor] = {}
    for minibatch in algorithm.minibatches(rollout, generator):
        gradients, metrics = algorithm.gradients(minibatch, generator)
        algorithm.apply(gradients)
    return metrics


def check_replayed_updates(
    monkeypatch: Any, new: Callable[[], Any], rollout_of: Callable[[Any, int], Rollout], rollouts: int = 4
) -> None:
    """Gradients and steps as a GPU makes them are those of calls, bit for bit: see ``tests.learners.tape``, which does
    not see what numpy does. Minibatches are of one size."""
    monkeypatch.setattr(actor_critic, "_tanh_", torch.tanh_)

    def run() -> dict[str, Any]:
        algorithm = new()
        algorithm.optimizer.look_period = 5
        metrics = [train_on(algorithm, rollout_of(algorithm, seed), 0, seed) for seed in range(rollouts)]
        return {"state": algorithm.state(), "metrics": dict(enumerate(metrics))}

    called, tapes = run(), instead_of_graphs(monkeypatch)
    replayed = run()
    assert_same(called, replayed)
    updates = replayed["state"]["optimizer"]["updates"]
    assert sum(tape.replays for tape in tapes) == 2 * (updates - 3)  # gradients, and their steps
