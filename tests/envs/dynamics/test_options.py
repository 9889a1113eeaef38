"""Options that the dynamics refuse, and the baselines that stand beside them."""

import importlib
from typing import Any

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.envs import REGISTRY, constant_control
from distrl.envs.dynamics.burgers import Burgers
from distrl.envs.dynamics.kuramoto_sivashinsky import KuramotoSivashinsky
from distrl.envs.dynamics.lorenz import Lorenz
from distrl.envs.dynamics.rayleigh_benard import RayleighBenard
from distrl.envs.dynamics.shkadov_film import ShkadovFilm
from distrl.envs.resolve import constructor_of

IDS = [id_ for id_, path in REGISTRY.items() if path.startswith("distrl.envs.dynamics")]


@pytest.mark.parametrize(
    ("cls", "options", "sentence"),
    [
        (KuramotoSivashinsky, {"fidelity": "smoke"}, "fidelity to be one of default, fine, got 'smoke'"),
        (Lorenz, {"discrete": 1}, "discrete to be true or false"),
        (Lorenz, {"episode_steps": 0}, "episode_steps to be a whole number >= 1"),
        (Burgers, {"viscosity": 0.001}, "viscosity between 0.005 and 0.02, got 0.001: below, shocks"),
        (ShkadovFilm, {"num_jets": 30}, "num_jets between 1 and 20"),
        (ShkadovFilm, {"delta": 0.5}, "delta between 0.05 and 0.15"),
        (RayleighBenard, {"rayleigh": 1e6}, "rayleigh between 1000 and 100000, got 1000000.0: .*plumes"),
        (RayleighBenard, {"render_mode": "human"}, "render_mode to be one of rgb_array"),
    ],
)
def test_bad_options_are_refused_with_the_reason(cls: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        cls(**options)


@pytest.mark.parametrize("id_", IDS)
def test_the_baseline_begins_with_doing_nothing(id_: str) -> None:
    cls = constructor_of(id_)
    module = importlib.import_module(cls.baseline)
    candidates = module.baseline_candidates({})
    assert candidates[0] == module.NOTHING
    env = cls(fidelity="coarse") if "coarse" in cls.fidelities else cls()
    observation, _ = env.reset(seed=0)
    for params in candidates:
        policy = module.baseline_policy(params, {})
        policy.reset()
        assert env.action_space.contains(policy.act(observation))


def test_constant_actions_try_a_grid_with_doing_nothing_first() -> None:
    _, nothing, candidates, policy = constant_control.controls(num_actions=2)
    assert nothing == candidates({})[0] == {"action": [0.0, 0.0]}
    assert len(candidates({})) == 25
    np.testing.assert_array_equal(policy({"action": [1.0, -0.5]}, {}).act(np.zeros(3)), np.float32([1, -0.5]))
    _, nothing, candidates, _ = constant_control.controls(num_actions=10, nothing=[-0.5] * 10)
    assert nothing == candidates({})[0] == {"action": [-0.5] * 10}
    assert len(candidates({})) == 5
