"""The fin ray as its users meet it: spaces, seeds, snapshots, rewards, guards and bad options."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.envs.fluids.fin_case import FIDELITIES
from distrl.envs.fluids.fin_ray import OBJECTIVES, OBSERVATION_NAMES, FinRay
from distrl.envs.fluids.sinusoid import baseline_candidates, baseline_policy


@pytest.fixture
def make(flows: Path):
    def make(**options: Any) -> FinRay:
        return FinRay(**{"fidelity": "smoke", "cache_directory": flows} | options)

    return make


def play(env: FinRay, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations and rewards of some actions, none of which may end the episode."""
    observations, rewards = [], []
    for action in actions:
        observation, reward, terminated, _, _ = env.step(np.array([action], np.float32))
        assert not terminated
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def episode(env: FinRay, amplitude: float, degrees: float, seed: int = 0) -> dict[str, float]:
    """Means over an episode under a sinusoid."""
    policy = baseline_policy({"amplitude": amplitude, "phase": math.radians(degrees)}, {})
    observation, _ = env.reset(seed=seed)
    policy.reset()
    rewards, thrust, power, truncated = [], [], [], False
    while not truncated:
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        assert not terminated
        rewards.append(reward)
        thrust.append(info["C_T"])
        power.append(info["C_P"])
    return {"reward": np.mean(rewards), "C_T": np.mean(thrust), "C_P": np.mean(power)}  # type: ignore[dict-item]


WILD = {"random_frequency": True, "gusts": True}


@pytest.mark.parametrize("options", [{}, WILD, {"root": "held"}, {"objective": "efficiency", "muscle_recovery": False}])
@pytest.mark.filterwarnings("ignore:.*alternative render modes")
def test_gymnasiums_checker_is_content(make, options: dict[str, Any]) -> None:
    check_env(make(**options, render_mode="rgb_array"))


def test_the_time_limit_truncates(make) -> None:
    env = make(episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("options", [{}, WILD])
def test_the_same_seed_and_actions_give_the_same_trajectory(make, options: dict[str, Any]) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, 20)
    trajectories = []
    for seed in (7, 7, 8):
        env = make(**options)
        first, _ = env.reset(seed=seed)
        trajectories.append(np.vstack([first, play(env, actions)[0]]))
    np.testing.assert_array_equal(trajectories[0], trajectories[1])
    assert not np.array_equal(trajectories[0], trajectories[2])


@pytest.mark.parametrize("options", [{}, WILD, {"objective": "efficiency"}])
def test_a_snapshot_continues_bit_by_bit(make, tmp_path: Path, options: dict[str, Any]) -> None:
    """Everything is in the files: a fresh environment continues as the first did, the next episode's draws included."""
    actions = np.random.default_rng(1).uniform(-1, 1, 12)
    first = make(**options)
    first.reset(seed=3)
    before, _ = play(first, actions[:6])
    first.snapshot(tmp_path)
    expected = play(first, actions[6:])
    expected_reset, _ = first.reset()

    second = make(**options)
    np.testing.assert_array_equal(second.restore(tmp_path), before[-1])
    for seen, wanted in zip(play(second, actions[6:]), expected, strict=True):
        np.testing.assert_array_equal(seen, wanted)
    np.testing.assert_array_equal(second.reset()[0], expected_reset)


def test_a_damaged_or_foreign_snapshot_is_refused(make, tmp_path: Path) -> None:
    env = make()
    env.reset(seed=0)
    env.snapshot(tmp_path)
    with pytest.raises(StorageError, match=r"same options.*'gusts': 0.0"):
        make(gusts=0.05).restore(tmp_path)
    file = tmp_path / "state.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(StorageError, match="whole snapshot"):
        make().restore(tmp_path)


@pytest.mark.parametrize("fidelity", ["smoke", "default"])
def test_bang_bang_actions_do_not_break_a_level(make, fidelity: str) -> None:
    """Switching between the bounds every few intervals: the harshest actions there are, and the guards stay quiet."""
    env = make(fidelity=fidelity)
    env.reset(seed=0)
    observations, rewards = play(env, np.sign(np.sin(np.arange(150) * np.pi / 3 + 0.1)))
    assert np.isfinite(rewards).all()
    assert env.observation_space.contains(observations[-1])
    assert np.abs(observations).max() < 9.9  # clipping at 10 changes nothing


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("_LARGEST_SPEED", 1.0, "field_bounds"), ("_DENSITIES", (0.999, 1.001), "field_bounds"),
     ("_LARGEST_DISPLACEMENT", 0.01, "displacement")],
)  # fmt: skip
def test_a_tripped_guard_ends_the_episode(make, monkeypatch, name: str, value: object, reason: str) -> None:
    """With guards drawn tight around an ordinary flow: a defined reward, a valid observation, a reason, no crash."""
    env = make()
    env.reset(seed=0)
    monkeypatch.setattr(f"distrl.envs.fluids.fin_flow.{name}", value)
    observation, reward, terminated, truncated, info = env.step(np.ones(1, np.float32))
    assert (reward, terminated, truncated) == (FinRay.diverged_reward, True, False)
    assert (info["diverged"], info["divergence"]) == (True, reason)
    assert env.observation_space.contains(observation)
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step(np.ones(1, np.float32))
    monkeypatch.undo()
    env.reset(seed=0)
    play(env, np.zeros(3))


def test_a_flow_that_is_not_finite_trips_the_guard(make) -> None:
    env = make()
    env.reset(seed=0)
    env.flow.fluid.populations[0, 50, 20] = np.nan
    _, _, terminated, _, info = env.step(np.zeros(1, np.float32))
    assert terminated
    assert info["divergence"] in ("field_bounds", "displacement", "inextensibility")


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), 0.5])
def test_a_wrong_action_is_refused(make, action: Any) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=r"a finite action of shape \(1,\)"):
        env.step(action)


def test_muscle_and_phase_decide_between_thrust_and_cost(make) -> None:
    """The trend of the reference table: doing nothing drags, 60° pushes hardest, 120° costs least and 150° too late."""
    env = make()
    idle, hard, cheap, late = (episode(env, a, p) for a, p in ((0, 0), (2.8, 60), (2.8, 120), (2.8, 150)))
    assert idle["C_T"] < 0 < cheap["C_T"] < hard["C_T"]
    assert late["C_T"] < idle["C_T"] + 0.3
    assert cheap["C_P"] < idle["C_P"] < hard["C_P"]
    assert cheap["C_T"] / cheap["C_P"] > 1.3 * hard["C_T"] / hard["C_P"] > 0


def test_every_objective_is_what_it_says(make) -> None:
    runs = {o: episode(make(objective=o), 2.1, 90) for o in OBJECTIVES}
    thrust, power = runs["thrust"]["C_T"], runs["thrust"]["C_P"]
    assert runs["thrust"]["reward"] == pytest.approx(thrust)
    assert runs["thrust_minus_power"]["reward"] == pytest.approx(thrust - 0.1 * power)
    assert runs["efficiency"]["reward"] == pytest.approx(thrust / power, abs=0.03)
    spent = episode(make(objective="efficiency", muscle_recovery=False), 2.1, 90)
    assert spent["C_P"] > 1.05 * power
    assert spent["C_T"] == pytest.approx(thrust)
    assert spent["reward"] < runs["efficiency"]["reward"]


def test_what_the_fin_is_given_arrives_in_the_fluid(make) -> None:
    """Over whole cycles, root and muscle work equal the work done on the fluid within 1 %."""
    env = make()
    observation, _ = env.reset(seed=0)
    policy = baseline_policy({"amplitude": 2.1, "phase": math.pi / 2}, {})
    given, taken = [], []
    for _ in range(125):
        loads = env.flow.advance(3 * policy.act(observation))
        env._account(loads)
        observation = env._observe().astype(np.float32)
        given.append(loads[0].power)
        taken.append(loads[0].fluid_power)
    assert np.mean(given[-100:]) == pytest.approx(np.mean(taken[-100:]), rel=0.01)


def test_observations_say_what_they_are_called(make) -> None:
    """Root entries against the definitions, the actuation against what was asked for within the rate limit."""
    env = make(root="heave", random_frequency=True)
    first, info = env.reset(seed=5)
    observations, _ = play(env, np.ones(10))
    seen = dict(zip(OBSERVATION_NAMES, observations[-1], strict=True))
    assert 0.6 <= info["frequency"] <= 1.0
    assert seen["root_frequency"] == pytest.approx((info["frequency"] - 0.8) / 0.2, abs=1e-6)
    assert seen["root_heave"] == pytest.approx(seen["sin_phase"], abs=1e-6)
    assert seen["root_pitch"] == seen["root_pitch_rate"] == 0
    assert seen["sin_phase"] ** 2 + seen["cos_phase"] ** 2 == pytest.approx(1)
    assert observations[:3, OBSERVATION_NAMES.index("actuation")] == pytest.approx([0.5, 1.0, 1.0])
    assert first[OBSERVATION_NAMES.index("actuation")] == 0
    assert np.abs(observations).max() < 5


def test_gusts_move_the_inflow_and_seeds_draw_different_ones(make) -> None:
    column = OBSERVATION_NAMES.index("inflow")
    gusts = []
    for seed in range(2):
        env = make(gusts=0.1)
        env.reset(seed=seed)
        gusts.append(play(env, np.zeros(100))[0][:, column] / 5)
    assert not np.allclose(*gusts)
    assert 0.02 < np.std(gusts) < 0.2


def test_a_picture_shows_the_fin(make) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert image is not None
    assert image.shape == (480, 576, 3)
    assert image.dtype == np.uint8
    white = (image > 240).all(2)
    column = np.flatnonzero(white[:460].any(0))
    assert column.min() == pytest.approx(1.5 * 96, abs=6)  # the root, 1.5 L behind the inlet
    assert np.ptp(column) > 0.6 * 96
    assert make().render() is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fidelity": "fine"}, "fidelity to be one of smoke, default"),
        ({"objective": "speed"}, "objective to be one of"),
        ({"root": "free"}, "root to be one of both, heave, pitch, held"),
        ({"frequency": 5.0}, "frequency between 0.3 and 1.5, got 5.0"),
        ({"frequency": "fast"}, "frequency between"),
        ({"frequency": 1.15}, "away from the sound wave"),
        ({"frequency": 0.9, "random_frequency": True}, "leave frequency out"),
        ({"random_frequency": 3}, "random_frequency to be true or false"),
        ({"reynolds": 300.0}, "relaxation time.*choose reynolds <= 20[0-9], a finer fidelity"),
        ({"reynolds": float("nan")}, "reynolds between"),
        ({"lattice_speed": 0.1}, "Mach number of the fastest inflow must stay below 0.15"),
        ({"lattice_speed": 0.047}, "whole number of lattice steps"),
        ({"gusts": 0.5}, "gusts between 0 and 0.15"),
        ({"episode_steps": 0}, "episode_steps to be a whole number >= 1"),
        ({"muscle_recovery": "yes"}, "muscle_recovery to be true or false"),
        ({"mass_ratio": 0.0}, "mass_ratio between"),
        ({"stiffness": -1.0}, "stiffness between"),
        ({"render_mode": "human"}, "render_mode to be one of rgb_array"),
    ],
)
def test_bad_options_are_refused_with_what_to_change(make, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(**options)


def test_finer_levels_allow_higher_reynolds_numbers(make) -> None:
    assert make(fidelity="expensive", reynolds=400.0).case.reynolds == 400


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_every_level_is_inside_the_range(make, fidelity: str) -> None:
    assert make(fidelity=fidelity).case.grid[0] == 6 * FIDELITIES[fidelity].cells


def test_the_baselines_grid_starts_with_doing_nothing(make) -> None:
    candidates = baseline_candidates({})
    observation, _ = make().reset(seed=0)
    assert candidates[0] == {"amplitude": 0.0, "phase": 0.0}
    assert (baseline_policy(candidates[0], {}).act(observation) == 0).all()
    assert all("frequency" not in c for c in candidates)
    held = baseline_candidates({"root": "held"})
    assert len({c["frequency"] for c in held[1:]}) > 3
    policy = baseline_policy(held[-1], {"root": "held"})
    policy.reset()
    assert policy.act(observation) != policy.act(observation)  # it keeps its own time
    for candidate in candidates[:: len(candidates) // 5]:
        assert make().action_space.contains(baseline_policy(candidate, {}).act(observation))


def test_a_sinusoid_keeps_its_phase_at_any_root_frequency(make) -> None:
    """The activation reached after each interval is A sin(phase + phi) at that time, whatever the drawn frequency."""
    env = make(random_frequency=True)
    observation, _ = env.reset(seed=2)
    policy = baseline_policy({"amplitude": 1.4, "phase": 0.7}, {})
    for step in range(20):
        observation = env.step(policy.act(observation))[0]
        if step > 2:  # the first steps are limited by the rate, and the frequency settles
            assert env.flow.activation[0] == pytest.approx(1.4 * math.sin(env.flow.phase + 0.7), abs=1e-3)
