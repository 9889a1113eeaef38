"""The simulations whose actions are shared by agents: PettingZoo's tests, and that nothing but the sharing is new."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.envs.dynamics import shkadov_film
from distrl.envs.dynamics.rayleigh_benard import RayleighBenard
from distrl.envs.dynamics.shkadov_film import ShkadovFilm
from distrl.envs.fluids.tandem_fins import TandemFins
from distrl.envs.multi_agent.rayleigh_benard import RayleighBenardAgents
from distrl.envs.multi_agent.shkadov_film import ShkadovAgents
from distrl.envs.multi_agent.simulation_agents import SimulationAgents
from distrl.envs.multi_agent.tandem_fins import TandemFinsAgents
from distrl.envs.simulation import Simulation

Make = Callable[..., SimulationAgents]

CASES = [
    pytest.param(RayleighBenardAgents, RayleighBenard, {"fidelity": "coarse"}, id="rayleigh-benard"),
    pytest.param(ShkadovAgents, ShkadovFilm, {"fidelity": "coarse", "num_jets": 3}, id="shkadov"),
    pytest.param(TandemFinsAgents, TandemFins, {"fidelity": "smoke"}, id="tandem-fins"),
]
of_each = pytest.mark.parametrize(("cls", "single", "options"), CASES)


def actions_of(env: SimulationAgents, steps: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [{a: random.uniform(-1, 1, 1).astype(np.float32) for a in env.possible_agents} for _ in range(steps)]


@of_each
@pytest.mark.filterwarnings("ignore:Agent was given info but was dead")  # the entry that all share
def test_pettingzoos_tests_are_content(cls: Make, single: Any, options: dict[str, Any]) -> None:
    parallel_api_test(cls(episode_steps=6, **options), num_cycles=10)
    parallel_seed_test(lambda: cls(episode_steps=6, **options), num_cycles=10)


@of_each
def test_the_joint_action_gives_the_same_simulation_bit_for_bit(
    cls: Make, single: Callable[..., Simulation], options: dict[str, Any]
) -> None:
    agents, alone = cls(local_ratio=0.3, **options), single(**options)
    agents.reset(seed=3)
    observation, _ = alone.reset(seed=3)
    np.testing.assert_array_equal(agents.state(), observation)
    for actions in actions_of(agents, 5):
        _, rewards, terminated, truncated, infos = agents.step(actions)
        observation, reward, _, _, info = alone.step(np.concatenate(list(actions.values())))
        np.testing.assert_array_equal(agents.state(), observation)
        assert infos["common"] == info
        assert np.mean(list(rewards.values())) == pytest.approx(reward, rel=1e-12)
        assert not any(terminated.values()) | any(truncated.values())


@of_each
def test_a_reward_is_the_simulations_and_the_agents_own(cls: Make, single: Any, options: dict[str, Any]) -> None:
    found = {}
    for ratio in (0.0, 0.25, 1.0):
        env = cls(local_ratio=ratio, **options)
        env.reset(seed=3)
        (actions,) = actions_of(env, 1)
        _, rewards, *_ = env.step(actions)
        found[ratio] = np.array([rewards[agent] for agent in env.possible_agents])
    assert np.ptp(found[0.0]) == 0
    assert np.ptp(found[1.0]) > 0
    np.testing.assert_allclose(found[0.25], 0.75 * found[0.0] + 0.25 * found[1.0], rtol=1e-12)


@of_each
def test_a_snapshot_continues_bit_by_bit(cls: Make, single: Any, options: dict[str, Any], tmp_path: Path) -> None:
    env = cls(**options)
    env.reset(seed=3)
    first, second, third = actions_of(env, 3)
    env.step(first)
    before, *_ = env.step(second)
    env.snapshot(tmp_path)
    after = env.step(third)
    fresh = cls(**options)
    restored = fresh.restore(tmp_path)
    again = fresh.step(third)
    for agent in env.possible_agents:
        np.testing.assert_array_equal(restored[agent], before[agent])
        np.testing.assert_array_equal(again[0][agent], after[0][agent])
    assert again[1:] == after[1:]


@of_each
def test_what_agents_observe_has_names_and_is_part_of_the_state(
    cls: Make, single: Any, options: dict[str, Any]
) -> None:
    env = cls(**options)
    observations, _ = env.reset(seed=0)
    assert env.state_space.contains(env.state())
    for agent, observation in observations.items():
        assert env.observation_space(agent).contains(observation)
        assert len(observation) == len(set(env.observation_names))
        assert set(observation) <= set(env.state())


def test_the_time_limit_ends_all_agents_together() -> None:
    env = ShkadovAgents(fidelity="coarse", num_jets=3, episode_steps=2)
    env.reset(seed=0)
    first, second = actions_of(env, 2)
    assert env.step(first)[3] == {"jet_0": False, "jet_1": False, "jet_2": False}
    _, _, terminated, truncated, infos = env.step(second)
    assert (set(terminated.values()), set(truncated.values())) == ({False}, {True})
    assert infos["common"]["episode_wave_height"] > 0
    assert env.agents == []
    with pytest.raises(EnvironmentFault, match=r"ShkadovAgents needs reset\(\) before step\(\): no agent lives"):
        env.step(first)


def test_all_agents_pay_for_a_simulation_that_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shkadov_film, "THICKNESSES", (0.9, 1.1))
    env = ShkadovAgents(fidelity="coarse", num_jets=3)
    before, _ = env.reset(seed=0)
    after, rewards, terminated, _, infos = env.step(dict.fromkeys(env.agents, np.ones(1)))
    assert set(rewards.values()) == {ShkadovFilm.diverged_reward}
    assert (set(terminated.values()), infos["common"]["divergence"], env.agents) == ({True}, "thickness", [])
    np.testing.assert_array_equal(after["jet_1"], before["jet_1"])


def test_wrong_options_and_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match="RayleighBenardAgents needs local_ratio between 0 and 1, got 2: it is"):
        RayleighBenardAgents(local_ratio=2)
    with pytest.raises(ConfigError, match="ShkadovFilm needs num_jets between 1 and 20"):
        ShkadovAgents(num_jets=30)
    env = ShkadovAgents(fidelity="coarse", num_jets=3)
    env.reset(seed=0)
    zero = np.zeros(1)
    for actions, sentence in (
        ({"jet_0": zero, "jet_1": zero}, r"of shape \(1,\) of agent 'jet_2', got none"),
        ({"jet_0": zero, "jet_1": np.zeros(2), "jet_2": zero}, "of agent 'jet_1', got array"),
        ({"jet_0": zero, "jet_1": zero, "jet_2": np.array([np.nan])}, "needs a finite action .* 'jet_2'"),
        ({"jet_7": zero}, "got an action of 'jet_7': its agents are jet_0, jet_1, jet_2"),
    ):
        with pytest.raises(EnvironmentFault, match=sentence):
            env.step(actions)
