"""What an action's duration does to learning from asynchronous streams: a bandit of two arms, no clock involved."""

import heapq

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from distrl.core.types import ARRAY, FINAL, OBSERVATION, EnvSpec
from distrl.learners.ppo_config import PPO
from distrl.learners.queue import Queue
from distrl.learners.replay import Replay
from distrl.learners.sample_weights import duration_weights
from distrl.learners.trainer import train_on
from tests.fakes.fragments import fragment

FAST, SLOW = 0, 1
DURATION_S = {FAST: 1.0, SLOW: 4.0}
REWARD = {FAST: 0.8, SLOW: 1.0}
WORKERS, ROLLOUT = 16, 64


def pull(arm, log_prob, end_s, episode):
    """One pull of an arm as a fragment: an episode of one step, in which nothing is to be seen."""
    made = fragment(1, 1, episode_uid=episode, terminated=True, size=1)
    made.columns |= {"action": np.array([[arm]]), "reward": np.array([[REWARD[arm]]], "f4")}
    made.columns |= {"log_prob": np.array([[log_prob]], "f4")}
    made.columns |= {"start_s": np.array([[end_s - DURATION_S[arm]]]), "end_s": np.array([[end_s]])}
    for path in (OBSERVATION + ARRAY, FINAL + ARRAY):
        made.columns[path][:] = 0.0
    return made


def preference_for_the_slow_arm(duration_limit, shift_s=8.0, updates=60):
    """Its probability after training without a critic, on workers that each draw an arm for a shift and pull it until
    then: in every second, an arm is pulled by as many workers as it is probable, and so comes in proportion to
    π(arm) / duration. Events happen in the order of the durations."""
    config = PPO(
        hidden=(4,), batch_size=ROLLOUT, minibatches=1, epochs=1, learning_rate=0.03, gamma=0.0, value_cost=0.0,
        normalize_advantages=False, surrogate="policy_gradient",
    )  # fmt: skip
    algorithm = config.build(EnvSpec("bandit", Box(-1, 1, (1,)), Discrete(2)), seed=0)
    queue, policy = Queue(ROLLOUT, 1, duration_limit), algorithm.policy_spec().build(seed=0)
    seen = {ARRAY: np.zeros((1, 1), np.float32)}
    done, pulls = 0, 0
    events = [(0.0, worker, 0.0, FAST, 0.0) for worker in range(WORKERS)]  # (when, who, end of the shift, arm, log π)
    while done < updates:
        now, worker, until, arm, log_prob = heapq.heappop(events)
        if now > 0.0:
            queue.add(pull(arm, log_prob, now, pulls))
            pulls += 1
        if queue.allows_update():
            train_on(algorithm, queue.sample(ROLLOUT, np.random.default_rng(0)), 0, done)
            done += 1
        if now >= until:
            policy.load(algorithm.policy_weights())
            drawn, chance, _ = policy.step(seen, {}, np.zeros(0))
            arm, log_prob, until = int(drawn[0]), float(chance[0]), now + shift_s
        heapq.heappush(events, (now + DURATION_S[arm], worker, until, arm, log_prob))
    outputs, _, _ = algorithm.network.forward(algorithm.parameters, (torch.zeros(1, 1),), None)
    return float(torch.softmax(outputs[:, 0], 0)[SLOW])


def test_the_fast_arm_is_preferred_unless_durations_count():
    """The slow arm is worth more, the fast one more in a second; nobody has said that a second costs anything."""
    assert preference_for_the_slow_arm(None) < 0.1
    assert preference_for_the_slow_arm(duration_limit=10.0) > 0.9


def test_where_every_pull_is_drawn_anew_nothing_comes_too_often():
    """A worker is free for its next draw later after the slow arm, and that is all."""
    assert preference_for_the_slow_arm(None, shift_s=0.0) > 0.9


def test_what_counts_at_most_once_does_not_make_up_for_what_comes_four_times():
    assert preference_for_the_slow_arm(duration_limit=1.0) < 0.5


def test_weights_are_durations_over_their_mean():
    np.testing.assert_allclose(duration_weights(np.array([[1.0, 3.0], [0.0, 4.0]]), 10.0), [[0.5, 1.5], [0.0, 2.0]])
    np.testing.assert_allclose(duration_weights(np.array([1.0, 3.0, 0.0, 4.0]), 1.2), [0.5, 1.2, 0.0, 1.2])
    np.testing.assert_allclose(duration_weights(np.zeros(3), 2.0), np.ones(3))


@pytest.mark.parametrize("limit", [None, 1.5])
def test_a_replay_weighs_its_sample_batches_too(limit):
    replay = Replay(8, duration_limit=limit)
    made = fragment(4, 2)
    made.columns["end_s"] = made.columns["start_s"] + np.arange(8.0).reshape(4, 2)
    replay.add(made)
    batch = replay.sample(16, np.random.default_rng(0))
    if limit is None:
        assert batch.weight is None
    else:
        np.testing.assert_array_equal(batch.weight, duration_weights(batch.number.astype("f4"), limit))
