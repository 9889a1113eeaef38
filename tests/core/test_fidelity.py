"""Which level an episode has: by the stage in force, in the mix's shares, from counters alone."""

from collections import Counter

import pytest

from distrl.core.fidelity import Stage, level_of_episode, stage_in_force
from distrl.core.seeds import FixedSeeds, TrainingSeeds

MIX = {"smoke": 3.0, "unused": 0.0, "check": 1.0}


@pytest.mark.parametrize("env_index", [0, 1, 17])
def test_each_environments_episodes_have_the_shares_of_the_mix(env_index):
    for episodes in (4, 40, 400, 4000):
        counts = Counter(level_of_episode(MIX, 5, env_index, episode) for episode in range(episodes))
        assert counts["check"] == pytest.approx(episodes / 4, abs=2)
        assert set(counts) == {"smoke", "check"}


def test_environments_side_by_side_have_them_too():
    for env_workers, environments in ((1, 16), (16, 1), (8, 8)):
        counts = Counter(
            level_of_episode(MIX, life, env_index, 0)
            for life in range(env_workers)
            for env_index in range(environments)
        )
        assert counts["check"] == pytest.approx(env_workers * environments / 4, abs=2)


def test_the_stage_in_force_is_the_last_that_has_begun():
    schedule = (Stage(0, {"smoke": 1}), Stage(100, MIX), Stage(200, {"check": 1}))
    assert [stage_in_force(schedule, steps).from_env_steps for steps in (0, 99, 100, 199, 200, 10**9)] == [
        0, 0, 100, 100, 200, 200,
    ]  # fmt: skip
    seeds = TrainingSeeds(0, schedule=schedule)
    assert {seeds.fidelity(0, episode, 99) for episode in range(50)} == {"smoke"}
    assert {seeds.fidelity(0, episode, 100) for episode in range(50)} == {"smoke", "check"}


def test_without_a_schedule_and_in_evaluations_the_recipe_decides():
    assert TrainingSeeds(0).fidelity(0, 0, 0) is None
    assert FixedSeeds((1, 2), 1).fidelity(0, 0, 0) is None
