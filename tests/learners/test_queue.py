"""An on-policy learner's queue: rollouts of one shape, every transition once, nothing flows across two streams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.core.types import ARRAY
from distrl.learners.queue import Queue
from tests.fakes.fragments import fragment

RNG = np.random.default_rng(0)  # a queue draws nothing


def test_fragments_of_the_rollouts_length_stand_side_by_side_in_the_order_of_arrival():
    queue = Queue(batch_size=12, steps=4)
    queue.add(fragment(4, rows=2, episode_uid=1))
    assert not queue.allows_update()
    assert "2 of the 3 rows of 4 steps" in queue.waits_for()
    queue.add(fragment(4, rows=2, episode_uid=5))
    assert queue.allows_update()
    rollout = queue.sample(12, RNG)
    assert rollout.observation[ARRAY].shape == (5, 3, 3)
    assert rollout.observation[ARRAY][:, :, 0].T.tolist() == [
        [100, 101, 102, 103, 104],
        [200, 201, 202, 203, 204],
        [500, 501, 502, 503, 504],
    ]
    assert (len(queue), queue.allows_update()) == (4, False), "the other row waits for the next"


def test_shorter_stretches_are_chained_and_bootstrap_from_their_own_next_observation():
    queue = Queue(batch_size=4, steps=4)
    queue.add(fragment(2, episode_uid=1))
    queue.add(fragment(2, episode_uid=2))
    rollout = queue.sample(4, RNG)
    assert rollout.observation[ARRAY][:, 0, 0].tolist() == [100, 101, 200, 201, 202]
    assert rollout.truncated[:, 0].tolist() == [False, True, False, False]
    assert rollout.final_index.tolist() == [[1, 0]]
    assert rollout.final_observation[ARRAY][0, 0] == 102
    assert rollout.is_first[:, 0].tolist() == [True, False, True, False, False]


def test_an_episode_that_ends_with_its_fragment_has_its_final_observation_named():
    queue = Queue(batch_size=4, steps=4)
    queue.add(fragment(4, episode_uid=1, terminated=True))
    rollout = queue.sample(4, RNG)
    assert rollout.final_index.tolist() == [[3, 0]]
    assert rollout.final_observation[ARRAY][0, 0] == 104
    queue.add(fragment(1, episode_uid=2, terminated=True))
    queue.add(fragment(3, episode_uid=3))
    rollout = queue.sample(4, RNG)
    assert rollout.terminated[:, 0].tolist() == [True, False, False, False]
    assert not rollout.truncated.any()
    assert rollout.final_index.tolist() == [[0, 0]]
    assert rollout.final_observation[ARRAY][0, 0] == 201


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=12))
def test_every_transition_is_handed_out_once(shapes):
    queue = Queue(batch_size=8, steps=4)
    put, got, uid = [], [], 0
    for steps, rows in shapes:
        queue.add(fragment(steps, rows=rows, episode_uid=uid))
        put += [100 * (uid + row) + step for row in range(rows) for step in range(steps)]
        uid += rows
        while queue.allows_update():
            got += queue.sample(8, RNG).observation[ARRAY][:-1, :, 0].ravel().astype(int).tolist()
    assert len(got) == len(set(got)) == len(put) - len(queue)
    assert set(got) <= set(put)


def test_after_a_restart_only_what_was_not_handed_out_waits():
    fragments = [fragment(4, rows=2, episode_uid=uid) for uid in (1, 3, 5)]
    queue = Queue(batch_size=8, steps=4)
    for item in fragments[:2]:
        queue.add(item)
    queue.sample(8, RNG)
    state = queue.sampled_state()
    again = Queue(batch_size=8, steps=4)
    for item in fragments[:2]:
        again.add(item)
    again.restore_sampled(state)
    again.add(fragments[2])
    assert len(again) == 16
    assert again.sample(8, RNG).observation[ARRAY][0, :, 0].tolist() == [300, 400]


def test_it_says_how_far_it_has_been_trained_on():
    queue = Queue(batch_size=4, steps=4)
    for uid in (1, 2):
        queue.add(fragment(6, episode_uid=uid))
    queue.sample(4, RNG)
    queue.sampled()
    assert queue.num_settled == 0, "two steps of the first fragment still wait"
    queue.sample(4, RNG)
    assert queue.num_settled == 0, "the learner may die before it is through with them"
    queue.sampled()
    assert queue.num_settled == 1


def test_a_rollout_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="needs 1 rows of 4 steps; the queue has 0"):
        Queue(batch_size=4, steps=4).sample(4, RNG)
