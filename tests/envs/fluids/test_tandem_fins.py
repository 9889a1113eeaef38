"""Two fins in tandem: each is a fin ray, the rear one feels the front one's wake, and the reward is their mean."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.envs.fluids import tandem_fins
from distrl.envs.fluids.fin_ray import OBSERVATION_NAMES
from distrl.envs.fluids.tandem_fins import TandemFins


@pytest.fixture
def make(flows: Path):
    def make(**options: Any) -> TandemFins:
        return TandemFins(**{"fidelity": "smoke", "cache_directory": flows} | options)

    return make


def test_actions_observations_and_rewards_are_the_front_fins_then_the_rear_ones(make) -> None:
    env = make(lag=90.0)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step(np.array([0.25, -0.25], np.float32))
    seen = dict(zip(env.observation_names, observation, strict=True))
    assert len(seen) == 2 * len(OBSERVATION_NAMES)
    assert (seen["actuation_front"], seen["actuation_rear"]) == (0.25, -0.25)
    phases = [math.atan2(seen[f"sin_phase_{fin}"], seen[f"cos_phase_{fin}"]) for fin in ("front", "rear")]
    assert math.remainder(phases[0] - phases[1] - math.pi / 2, 2 * math.pi) == pytest.approx(0, abs=1e-5)
    assert reward == pytest.approx((info["reward_front"] + info["reward_rear"]) / 2)
    assert info["reward_rear"] == pytest.approx(info["C_T_rear"] - 0.1 * info["C_P_rear"])


def test_the_rear_fin_feels_the_wake_of_the_front_one(make) -> None:
    """Whole cycles with both fins alike: the front one swims as if alone, the rear one does not."""
    policy = tandem_fins.baseline_policy({"amplitude": 2.1, "front_phase": 1.5, "rear_phase": 1.5}, {})
    thrust = {}
    for gap in (0.5, 3.0):
        env = make(gap=gap)
        observation, _ = env.reset(seed=0)
        infos = []
        for _ in range(75):
            observation, _, terminated, _, info = env.step(policy.act(observation))
            assert not terminated
            infos.append((info["C_T_front"], info["C_T_rear"]))
        thrust[gap] = np.mean(infos[-50:], axis=0)
    assert thrust[3.0][0] == pytest.approx(thrust[0.5][0], abs=0.15)
    assert abs(thrust[3.0][1] - thrust[0.5][1]) > 0.1


def test_the_baseline_has_a_phase_for_each_fin(make) -> None:
    env = make()
    observation, _ = env.reset(seed=0)
    candidates = tandem_fins.baseline_candidates({})
    assert candidates[0] == tandem_fins.NOTHING
    assert not tandem_fins.baseline_policy(candidates[0], {}).act(observation).any()
    front, rear = tandem_fins.baseline_policy({"amplitude": 3.0, "front_phase": 0.5, "rear_phase": 1.5}, {}).act(
        observation
    )
    assert front != rear
    assert env.action_space.contains(np.array([front, rear]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"gap": 0.1}, "TandemFins needs gap between 0.2 and 5"), ({"lag": 270.0}, "lag between -180 and 180")],
)
def test_bad_options_are_refused(make, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(**options)
