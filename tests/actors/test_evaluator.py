"""An evaluation is one episode on each of its seeds, the same ones every time."""

import math

import numpy as np
import pytest

from distrl.actors.evaluator import EpisodeRunner, mean_return
from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import FixedSeeds
from distrl.core.types import EnvRecipe
from tests.fakes.environments import scripted_episode

SEEDS = tuple(range(100, 107))


def act(requests):
    return np.zeros((len(requests.rows), 1), np.float32)


def expected(seed):
    length, _ = scripted_episode(seed)
    return sum(100 * (seed % 10) + t for t in range(1, length + 1))


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_every_seed_once_in_order_and_the_same_again(tmp_path, hosting):
    recipe, seeds = EnvRecipe("tests.fakes.environments:Scripted"), FixedSeeds(SEEDS, 3)
    if hosting == "inline":
        pool = InlinePool(recipe, 3, seeds)
    else:
        pool = ProcessPool(recipe, 3, seeds, scratch_dir=str(tmp_path))
    runner = EpisodeRunner(pool, SEEDS)
    for _ in range(3):
        results = runner.run(act)
        assert [result.seed for result in results] == list(SEEDS)
        assert [result.episode_return for result in results] == [expected(seed) for seed in SEEDS]
        assert [result.length for result in results] == [scripted_episode(seed)[0] for seed in SEEDS]
    runner.close()


def test_a_failed_episode_is_named_and_left_out_of_the_mean():
    recipe = EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "raise", "after": 3, "bad_modulus": 5})
    runner = EpisodeRunner(InlinePool(recipe, 2, FixedSeeds((100, 101, 102), 2)), (100, 101, 102))
    results = runner.run(act)
    assert [result.seed for result in results] == [100, 101, 102]
    assert math.isnan(results[0].episode_return)
    assert "failed" in results[0].info
    assert mean_return(results) == np.mean([result.episode_return for result in results[1:]])
    runner.close()
