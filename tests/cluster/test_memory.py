"""A run that the machine's memory cannot hold is refused before it starts, with what to change."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from distrl.cluster.checks import algorithm_model
from distrl.cluster.memory import check_memory
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs.describe import Trial, try_environment

IMAGES = EnvSpec("images", Box(0, 255, (100, 100, 4), "uint8"), Discrete(2))
FORCES = EnvSpec("forces", Box(-1, 1, (10,)), Box(-1, 1, (2,)))


def check(spec, env_bytes, free, preset, *overrides):
    config = RunConfig.load(preset, list(overrides))
    check_memory(config, Trial(spec, 0.0, 0.0, None, int(env_bytes)), algorithm_model(config), free)


@pytest.mark.parametrize(
    ("spec", "env_bytes", "preset", "overrides", "sentence"),
    [
        (
            FORCES,
            300e6,
            "sac",
            ["actors.envs_per_worker=64", "env.hosting=process", "env.id=none"],
            r"at least 19.\d GB of memory, but 8.0 GB are free here: 19.2 GB for 64 environments of 300.0 MB",
        ),
        (
            IMAGES,
            0,
            "cartpole",
            ["actors.envs_per_worker=4096", "algorithm.batch_size=131072", "env.hosting=inline"],
            "10.5 GB for rollouts .*; 5.4 GB for fragments of 4096 environments",
        ),
        (IMAGES, 0, "sac", ["run.steps=1_000_000", "env.id=none"], "a replay of 1000000 transitions .replay.capacity"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_figures(spec, env_bytes, preset, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check(spec, env_bytes, 8e9, preset, *overrides)
    check(spec, env_bytes, 1e12, preset, *overrides)


def test_a_replay_that_will_not_fill_takes_what_the_run_makes():
    check(IMAGES, 0, 8e9, "sac", "run.steps=10_000", "env.id=none")


def test_what_is_kept_on_the_learners_device_is_not_in_this_memory():
    check(IMAGES, 0, 8e9, "sac", "run.steps=1_000_000", "env.id=none", "replay.device=learner")


class Large(gymnasium.Env):
    """Holds 50 MB."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def __init__(self):
        self._mesh = np.ones(50_000_000, np.uint8)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, "f4"), {}

    def step(self, action):
        return np.zeros(1, "f4"), 0.0, False, False, {}


def test_what_an_environment_takes_is_measured():
    assert 50e6 < try_environment(EnvRecipe("tests.cluster.test_memory:Large")).memory_bytes < 60e6
