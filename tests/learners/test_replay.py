"""The replay against the slow oracle: targets, links across fragments, accounting, refill after a loss."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_oracle import Oracle, Source

from distrl.core.errors import ConfigError, StorageError
from distrl.core.types import Fragment
from distrl.learners.replay import Replay, SampleBatch

PATH = "x/y"


class Everything:
    """In place of a random generator: draws each stored transition once."""

    def integers(self, low, high, size):
        return np.arange(low, high)


def check_targets(batch: SampleBatch, oracle: Oracle) -> None:
    for i, number in enumerate(batch.number):
        reward, discount, next_observation, horizon = oracle.target(int(number))
        step = oracle.steps[number]
        assert batch.observation[PATH][i] == batch.action[i] == batch.log_prob[i] == step.observation
        assert batch.policy_version[i] == step.uid
        assert batch.duration_s[i] == step.step
        assert batch.horizon[i] == horizon
        np.testing.assert_allclose(batch.reward[i], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i], discount, rtol=1e-6)
        if discount:
            assert batch.next_observation[PATH][i] == next_observation
        assert np.isfinite(batch.next_observation[PATH][i]).all()


def check_accounting(replay: Replay, oracle: Oracle) -> None:
    assert replay.num_added == len(oracle.steps) == replay.num_trained + replay.num_unsampled + replay.num_evicted
    assert replay.num_unsampled == oracle.unsampled()
    assert replay.num_evicted == oracle.evicted
    assert replay.num_trained == len(oracle.sampled)
    assert len(replay) == len(oracle.steps) - oracle.oldest


def check_inside(replay: Replay) -> None:
    """No link dangles, no tail is lost, nothing is kept for episodes that are gone."""
    stored = np.arange(replay._oldest, replay._next)
    follow = replay._follow[stored % replay.capacity]
    linked = follow < replay.capacity
    uid, step = replay._columns["episode_uid"], replay._columns["step"]
    slots = stored % replay.capacity
    np.testing.assert_array_equal(uid[slots[linked]], uid[follow[linked]])
    np.testing.assert_array_equal(step[slots[linked]] + 1, step[follow[linked]])
    tails = follow[~linked] - replay.capacity
    assert len(set(tails)) == len(tails)
    assert sorted([*tails, *replay._free]) == list(range(replay._observations.num_rows))
    assert all(replay._oldest <= number for number, _ in replay._open.values())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 4),
    capacity=st.integers(28, 90),
    n_step=st.integers(1, 6),
    num_fragments=st.integers(1, 40),
    device=st.sampled_from([None, "cpu"]),
)
def test_against_oracle(seed, num_rows, capacity, n_step, num_fragments, device):
    rng = np.random.default_rng(seed)
    source = Source(num_rows, rng)
    replay, oracle = Replay(capacity, n_step, gamma=0.9, device=device), Oracle(capacity, n_step, gamma=0.9)
    for _ in range(num_fragments):
        fragment, steps = source.random_fragment()
        before = oracle.evicted
        for step in steps:
            oracle.add(step)
        added = replay.add(fragment)
        assert (added.stored, added.evicted) == (len(steps), oracle.evicted - before)
        if rng.random() < 0.5:
            batch = replay.sample(int(rng.integers(1, 9)), rng)
            oracle.sampled |= {int(number) for number in batch.number}
            check_targets(batch, oracle)
        check_accounting(replay, oracle)
        check_inside(replay)
    check_targets(replay.sample(0, Everything()), oracle)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_step=st.integers(1, 6))
def test_the_cut_does_not_matter(seed, n_step):
    """One stream of a row, as it comes step by step and in pieces of any length, ends with equal bits."""
    batches = []
    for longest in (1, 2, 7):
        source, cut = Source(1, np.random.default_rng(seed)), np.random.default_rng(seed + 1)
        for _ in range(40):
            source._extend(0)
        source.rng = np.random.default_rng(0)
        replay = Replay(50, n_step)
        while replay.num_added < 70:
            length = min(int(cut.integers(1, longest + 1)), 70 - replay.num_added)
            replay.add(source.take([0], length, stop_at_end=True)[0])
        batches.append(replay.sample(0, Everything()))
    for other in batches[1:]:
        np.testing.assert_array_equal(batches[0].reward, other.reward)
        np.testing.assert_array_equal(batches[0].discount, other.discount)
        np.testing.assert_array_equal(batches[0].next_observation[PATH], other.next_observation[PATH])


def fragment(rewards, *, uid=1, start=0, terminated=False, truncated=False) -> Fragment:
    """Steps of one row; observations are 10 × step, the bootstrap row included."""
    num_steps = len(rewards)
    shape = (num_steps, 1)
    end = np.zeros(shape, bool)
    end[-1] = True
    steps = np.arange(start, start + num_steps + 1)
    columns = {
        "reward": np.array(rewards, np.float32).reshape(shape),
        "terminated": end & terminated,
        "truncated": end & truncated,
        "episode_uid": np.full(shape, uid, np.uint64),
        "step": steps[:-1].astype(np.int32).reshape(shape),
        "log_prob": np.zeros(shape, np.float32),
        "policy_version": np.zeros(shape, np.int64),
        "fidelity": np.zeros(shape, np.int16),
        "start_s": np.zeros(shape),
        "end_s": np.zeros(shape),
        "agent_index": np.zeros(1, np.int32),
        "action": np.zeros((*shape, 1), np.float32),
        "observation/array": (10.0 * steps).astype(np.float32).reshape(-1, 1, 1),
    }
    return Fragment(columns)


@pytest.mark.parametrize(
    ("end", "discount"),
    [({"terminated": True}, [0, 0, 0]), ({"truncated": True}, [0.25, 0.25, 0.5]), ({}, [0.25, 0.25, 0.5])],
)
def test_two_step_targets_by_hand(end, discount):
    replay = Replay(10, n_step=2, gamma=0.5)
    replay.add(fragment([1, 2, 4], **end))
    batch = replay.sample(0, Everything())
    np.testing.assert_array_equal(batch.reward, [1 + 0.5 * 2, 2 + 0.5 * 4, 4])
    # the first reward's horizon ends before the episode does
    np.testing.assert_array_equal(batch.discount, [0.25, *discount[1:]])
    np.testing.assert_array_equal(batch.next_observation["array"][:, 0], [20, 30, 30])
    np.testing.assert_array_equal(batch.horizon, [2, 2, 1])


def test_unfinished_episode_bootstraps_until_it_goes_on():
    replay = Replay(10, n_step=3, gamma=0.5)
    replay.add(fragment([1, 2]))
    np.testing.assert_array_equal(replay.sample(0, Everything()).discount, [0.25, 0.5])
    replay.add(fragment([4, 8], start=2))
    batch = replay.sample(0, Everything())
    np.testing.assert_array_equal(batch.reward, [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8])
    np.testing.assert_array_equal(batch.next_observation["array"][:, 0], [30, 40, 40, 40])


def test_a_late_fragment_is_correct_with_shorter_returns():
    replay = Replay(10, n_step=3, gamma=0.5)
    replay.add(fragment([4], start=2))
    replay.add(fragment([1, 2]))
    batch = replay.sample(0, Everything())
    np.testing.assert_array_equal(batch.reward, [4, 1 + 1, 2])
    np.testing.assert_array_equal(batch.next_observation["array"][:, 0], [30, 20, 20])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), capacity=st.integers(21, 60), later=st.integers(0, 12), end_only=st.booleans())
def test_refilled_from_the_log_it_is_the_same(seed, capacity, later, end_only):
    rng = np.random.default_rng(seed)
    source, replay = Source(3, rng), Replay(capacity, 3)
    log = []

    def add(count):
        for _ in range(count):
            log.append((replay.num_added, source.random_fragment()[0]))
            replay.add(log[-1][1])

    for _ in range(10):
        add(3)
        replay.sample(5, rng)
    state = replay.sampled_state()
    add(later)  # arrived after the checkpoint, unsampled

    needed = replay.num_added - capacity if end_only else 0
    kept = [(number, piece) for number, piece in log if number + piece.num_transitions > needed]
    again = Replay(capacity, 3, first_number=kept[0][0])
    for _, piece in kept:
        again.add(piece)
    again.restore_sampled(state)
    for name in ("num_added", "num_trained", "num_unsampled", "num_evicted"):
        assert getattr(again, name) == getattr(replay, name), name
    before, after = (r.sample(64, np.random.default_rng(1)) for r in (replay, again))
    np.testing.assert_array_equal(before.number, after.number)
    np.testing.assert_array_equal(before.discount, after.discount)
    np.testing.assert_array_equal(before.observation[PATH], after.observation[PATH])
    assert again.num_unsampled == replay.num_unsampled


def test_bad_input():
    with pytest.raises(ConfigError, match="capacity ≥ 1"):
        Replay(0)
    replay = Replay(4)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="raise the capacity"):
        replay.add(fragment([0] * 5))
    replay.add(fragment([0]))
    other = fragment([0])
    other.columns["observation/array"] = np.zeros((2, 1, 7), np.float32)
    with pytest.raises(ConfigError, match="observation/array"):
        replay.add(other)
    assert replay.num_added == 1
    with pytest.raises(StorageError, match="older checkpoint"):
        Replay(4).restore_sampled(replay.sampled_state())
    lost = fragment([0, 0])
    lost.columns["episode_uid"] = np.array([[1], [2]], np.uint64)
    with pytest.raises(ValueError, match="final_index"):
        replay.add(lost)


def test_an_unwritten_slot_shows():
    replay = Replay(4)
    replay.add(fragment([0]))
    assert replay._observations._ring["array"][1:].isnan().all()
    assert np.isnan(replay._columns["reward"][1:]).all()
    assert (replay._follow[1:] < 0).all()


def test_adding_and_sampling_in_two_threads():
    replay = Replay(64, n_step=3)
    replay.add(fragment([0.0] * 4))
    stop, failures = threading.Event(), []

    def sample():
        rng = np.random.default_rng(0)
        while not stop.is_set():
            batch = replay.sample(32, rng)
            if not all(np.isfinite(a).all() for a in (batch.reward, *batch.next_observation.values())):
                failures.append("an unwritten slot was read")

    thread = threading.Thread(target=sample)
    thread.start()
    until = time.monotonic() + 0.5
    uid = 2
    while time.monotonic() < until:
        for start in (0, 3, 6):
            replay.add(fragment([1.0] * 3, uid=uid, start=start))
        uid += 1
    stop.set()
    thread.join()
    assert not failures
    assert replay.num_added == replay.num_trained + replay.num_unsampled + replay.num_evicted
