"""Prioritised replay: draws against the paper's formulas in plain loops, learning's errors, and what a resume keeps."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.priorities import Priorities, PrioritizedReplay, PriorityRule
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.registry import ALGORITHMS, algorithm_config
from distrl.learners.replay import Replay
from tests.fakes.fragments import fragment
from tests.learners.off_policy import BOX, batch_of


def slow_draw(priorities, exponent, uniform):
    """The first slot at which the running sum of p^α passes each number; the slots' chances."""
    powers = [float(np.float32(p**exponent)) for p in priorities]
    total, slots = sum(powers), []
    for u in uniform:
        passed, slot = powers[0], 0
        while passed <= u * total:
            slot += 1
            passed += powers[slot]
        slots.append(slot)
    return slots, [powers[slot] / total for slot in slots]


@pytest.mark.parametrize("capacity", [1, 2, 16, 17, 300, 5000])
@pytest.mark.parametrize("exponent", [0.6, 1.0])
def test_slots_are_drawn_as_the_running_sum_says(capacity, exponent):
    rng = np.random.default_rng(capacity)
    tree, priorities = Priorities(capacity, exponent), np.zeros(capacity)
    stored = np.arange(max(1, capacity - 3))  # the last ones are empty
    tree.admit(stored)
    priorities[stored] = largest = 1.0
    for _ in range(3):
        chosen = rng.choice(stored, size=max(1, len(stored) // 3), replace=False)
        errors = rng.exponential(size=len(chosen)) * rng.choice([-1, 1], len(chosen))
        tree.update(chosen, errors)
        priorities[chosen] = np.abs(errors) + 1e-6
        largest = max(largest, priorities.max())
        uniform = rng.random(200)
        slots, chances = tree.draw(uniform)
        wanted, wanted_chances = slow_draw(priorities, exponent, uniform)
        np.testing.assert_array_equal(slots, wanted)
        np.testing.assert_allclose(chances, wanted_chances, rtol=1e-6)
    assert tree.largest == largest


def test_no_number_finds_an_empty_slot():
    """Rounding must not lead past the last one that holds something."""
    tree = Priorities(10_000, 0.5)
    tree.admit(np.arange(7777))
    tree.update(np.arange(7777), np.random.default_rng(0).exponential(size=7777) ** 20)
    edges = np.concatenate([np.linspace(0, 1, 3000, endpoint=False), [np.nextafter(1, 0), 1 - 1e-15]])
    slots, chances = tree.draw(edges)
    assert slots.max() < 7777
    assert (chances > 0).all()


RULE = PriorityRule(exponent=0.6, correction=0.4, full_at=1000)


def errors_of(batch):
    """What an algorithm might leave: a function of the transition."""
    return torch.from_numpy(np.sin(batch.number).astype("f4") * 3)


def learn(replay, updates, batch_size=64, first=0):
    batches = []
    for update in range(first, first + updates):
        batches.append(replay.sample(batch_size, sample_generator(0, update)))
        batches[-1].error = errors_of(batches[-1])
        replay.learned(batches[-1])
    return batches


def filled(count, **options):
    replay = PrioritizedReplay(256, RULE, **options)
    for k in range(count):
        replay.add(fragment(8, 2, episode_uid=2 * k))
    return replay


def test_what_surprises_is_drawn_more_often_and_counts_less():
    replay = filled(16)
    learn(replay, 40)
    drawn = learn(replay, 300, first=40)
    numbers = np.concatenate([batch.number for batch in drawn])
    priority = (np.abs(np.sin(np.arange(256)) * 3) + 1e-6) ** 0.6
    np.testing.assert_allclose(np.bincount(numbers, minlength=256) / len(numbers), priority / priority.sum(), atol=2e-3)
    batch = drawn[-1]
    beta = 0.4 + 0.6 * 256 / 1000
    chance = (priority / priority.sum())[batch.number]
    weight = (256 * chance) ** -beta
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-4)


def test_what_is_new_is_as_likely_as_what_surprised_most():
    replay = filled(16)
    learn(replay, 40)
    replay.add(fragment(8, 2, episode_uid=1000))  # over the oldest 16
    batch = replay.sample(4096, np.random.default_rng(0))
    counts = np.bincount(batch.number, minlength=272)
    assert counts[:16].sum() == 0
    most = np.abs(np.sin(np.arange(16, 256))).argmax() + 16
    assert counts[256:272].mean() == pytest.approx(counts[most], rel=0.3)


def test_a_batch_that_was_overwritten_meanwhile_changes_nothing():
    replay = filled(16)
    batch = replay.sample(64, np.random.default_rng(0))
    for k in range(16):
        replay.add(fragment(8, 2, episode_uid=100 + 2 * k))
    batch.error = torch.full((64,), torch.nan)
    replay.learned(batch)
    batch.error = torch.ones(64)
    replay.learned(batch)
    assert (replay.sample(64, np.random.default_rng(0)).weight == 1).all()


def test_durations_count_beside_priorities():
    replay = filled(4, duration_limit=2.0)
    plain = filled(4)
    assert (plain.sample(32, np.random.default_rng(0)).weight == 1).all()
    assert (replay.sample(32, np.random.default_rng(0)).weight == 1).all()  # no time passes in these fragments
    made = fragment(2, 1, episode_uid=99)
    made.columns["end_s"] = made.columns["start_s"] + np.array([[1.0], [3.0]])
    alone = PrioritizedReplay(256, RULE, duration_limit=10.0)
    alone.add(made)
    batch = alone.sample(2, np.random.default_rng(0))
    assert batch.number.tolist() == [0, 1]  # of two strata
    np.testing.assert_array_equal(batch.weight, np.array([0.5, 1.5], "f4"))


@pytest.mark.parametrize("capacity", [256, 400, 100])
def test_a_resume_draws_what_the_run_would_have_drawn(capacity):
    """Priorities are in the checkpoint; what came after it waits for its first draw."""
    one = filled(14)
    learn(one, 20)
    state = one.sampled_state()
    later = [fragment(8, 2, episode_uid=500 + 2 * k) for k in range(4)]
    other = PrioritizedReplay(capacity, RULE)
    for k in range(14):
        other.add(fragment(8, 2, episode_uid=2 * k))
    other.restore_sampled(state)
    for made in later:
        one.add(made)
        other.add(made)
    pairs = list(zip(learn(one, 5, first=20), learn(other, 5, first=20), strict=True))
    same = [np.array_equal(a.number, b.number) and np.array_equal(a.weight, b.weight) for a, b in pairs]
    assert all(same) == (capacity == 256)
    assert min(batch.number.min() for _, batch in pairs) >= max(0, 288 - capacity)


def test_a_run_that_began_without_priorities_begins_with_the_largest():
    plain = Replay(256)
    for k in range(14):
        plain.add(fragment(8, 2, episode_uid=2 * k))
    replay = filled(14)
    replay.restore_sampled(plain.sampled_state())
    assert (replay.sample(64, np.random.default_rng(0)).weight == 1).all()


def test_an_algorithm_that_tells_no_errors_is_refused():
    from distrl.cluster.checks import algorithm_model

    replay = filled(2)
    with pytest.raises(ConfigError, match="leave temporal-difference errors in the sample batch"):
        replay.learned(replay.sample(4, np.random.default_rng(0)))
    offline = ["env.id=Pendulum-v1", "algorithm.name=bc", "offline.data=['run']", "replay.priority_exponent=0.6"]
    with pytest.raises(ConfigError, match=r"draws by temporal-difference errors, which bc does not tell"):
        algorithm_model(RunConfig.load("sac", offline))
    with pytest.raises(ConfigError, match=r"ppo is on-policy and has no replay, but replay\.priority_exponent"):
        algorithm_model(RunConfig.load("cartpole", ["algorithm.name=ppo", "replay.priority_exponent=0.6"]))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if not algorithm_config(name).on_policy and name != "bc"])
def test_an_algorithm_with_critics_tells_them(name):
    assert algorithm_config(name).tells_errors


@pytest.mark.parametrize(
    ("name", "spec", "options"),
    [
        ("sac", BOX, {}),
        ("td3", BOX, {}),
        ("dsact", BOX, {}),
        ("sequence-sac", BOX, {}),
        ("iql", BOX, {}),
        ("dqn", EnvSpec("test", BOX.observation_space, Discrete(3)), {"value_loss": "squared"}),
    ],
)
def test_errors_are_sizes_one_of_each_sample(name, spec, options):
    algorithm = algorithm_config(name)(hidden=(8,), **options).build(spec)
    batch = batch_of(spec, 5)
    _, metrics = algorithm.gradients(batch, update_generator(0, 0))
    error = batch.error.numpy(force=True)
    assert error.shape == (5,)
    assert (error > 0).all()
    if name == "dqn":
        np.testing.assert_allclose(0.5 * np.square(error).mean(), float(metrics["loss"]), rtol=1e-5)
