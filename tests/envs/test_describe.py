"""A broken environment is refused before anything starts, by a process that leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs.describe import describe, try_environment

BAD = "tests.fakes.environments:Misbehaving"


def test_spec_from_another_process_and_thread():
    with ThreadPoolExecutor(1) as background:
        spec = background.submit(describe, EnvRecipe("CartPole-v1")).result()
    assert spec.action_space == spaces.Discrete(2)
    assert spec.max_episode_steps == 500
    assert spec.fidelities == ("default",)
    composite = describe(EnvRecipe("tests.fakes.environments:Composite"))
    assert set(composite.observation_space.spaces) == {"image", "inner", "pair"}


@pytest.mark.parametrize(
    ("kwargs", "error", "kind", "text"),
    [
        ({"mode": "raise_init"}, EnvironmentFault, "error", "raised in its constructor: RuntimeError: no licence"),
        ({"mode": "raise_reset"}, EnvironmentFault, "error", "raised in reset: ValueError: the restart file is empty"),
        ({"mode": "raise", "after": 3}, EnvironmentFault, "error", "raised in step: FloatingPointError"),
        ({"mode": "nan"}, EnvironmentFault, "divergence", "finite numbers"),
        ({"mode": "exit"}, EnvironmentFault, "crash", "exit code 9"),
        ({"mode": "kill"}, EnvironmentFault, "crash", "signal 9"),
        ({"mode": "hang"}, EnvironmentFault, "hang", "within 3 s; it did not"),
        ({"mood": "nan"}, ConfigError, None, "takes no 'mood'"),
    ],
)
def test_broken_environments(kwargs, error, kind, text):
    with pytest.raises(error) as caught:
        describe(EnvRecipe(BAD, kwargs), timeout_s=3.0)
    assert text in str(caught.value)
    assert getattr(caught.value, "kind", None) == kind


def test_slow_steps_are_not_tried_often():
    recipe = EnvRecipe("Pendulum-v1", delay={"kind": "constant", "median_s": 0.3})
    trial = try_environment(recipe, steps=2)
    assert trial.step_s == pytest.approx(0.3, abs=0.15)
    assert try_environment(recipe, steps=0).step_s is None


def test_what_the_environment_started_is_gone():
    describe(EnvRecipe(BAD, {"mode": "grandchildren"}))
    left = subprocess.run(["pgrep", "-f", "^sleep 100[012]$"], capture_output=True, text=True).stdout.split()
    assert not left


def test_recipe_that_cannot_travel():
    with pytest.raises(ConfigError, match="can travel to another process"):
        describe(EnvRecipe(BAD, {"mode": lambda: None}))


def test_command_line():
    good = subprocess.run([sys.executable, "-m", "distrl.envs.describe", "Pendulum-v1"], capture_output=True, text=True)
    assert good.returncode == 0
    assert "max_episode_steps: 200" in good.stdout
    bad = subprocess.run([sys.executable, "-m", "distrl.envs.describe", "Pendulum-v9"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr
