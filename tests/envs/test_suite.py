"""Every simulation of distrl keeps the same promises: Gymnasium's checker, seeds, snapshots, other processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from distrl.core.errors import ConfigError
from distrl.core.types import EnvRecipe
from distrl.envs import REGISTRY
from distrl.envs.resolve import constructor_of, fidelity_table, make

SUITE = [id_ for id_ in REGISTRY if id_ != "distrl/Atari-v0"]  # a game has no snapshots, and tests of its own
STEPS = 12
FEW_STEPS = 4  # of an environment whose steps take longer than 0.1 s


def cheapest(id_: str) -> EnvRecipe:
    """The environment at the level of detail that costs least."""
    costs = fidelity_table(constructor_of(id_))
    level = min(costs, key=lambda name: costs[name] or 0.0) if costs else None
    return EnvRecipe(id_, fidelity=level)


def made(id_: str, **kwargs: Any) -> gymnasium.Env:
    recipe = cheapest(id_)
    try:
        return make(EnvRecipe(id_, kwargs=kwargs, fidelity=recipe.fidelity)).unwrapped
    except ConfigError as error:
        if "apt-get install" in str(error):
            pytest.skip(str(error))  # .ci/run installs it, and tests/envs/cfd insists there
        raise


def actions(env: gymnasium.Env) -> list[np.ndarray]:
    env.action_space.seed(5)
    cost = fidelity_table(type(env))[env.fidelity] or 0.0  # type: ignore[attr-defined]
    return [env.action_space.sample() for _ in range(STEPS if cost < 0.1 else FEW_STEPS)]


def play(env: gymnasium.Env, given: list[np.ndarray]) -> np.ndarray:
    """Observations and rewards, float64 [steps, n + 1]."""
    rows = []
    for action in given:
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append([*np.asarray(observation, np.float64).ravel(), reward])
        if terminated or truncated:
            break
    return np.array(rows)


def trajectory(env: gymnasium.Env, seed: int) -> np.ndarray:
    env.reset(seed=seed)
    return play(env, actions(env))


@pytest.mark.parametrize("id_", SUITE)
@pytest.mark.filterwarnings("ignore:.*observation space (minimum|maximum) value is", "ignore:.*render mode")
def test_gymnasiums_checker_is_content(id_: str) -> None:
    env = made(id_, render_mode="rgb_array")
    check_env(env)
    env.close()


@pytest.mark.parametrize("id_", SUITE)
def test_seeds_decide_everything(id_: str) -> None:
    env = made(id_)
    first, again, other = (trajectory(env, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    env.close()


@pytest.mark.parametrize("id_", SUITE)
def test_a_snapshot_continues_bit_by_bit(id_: str, tmp_path: Path) -> None:
    """In an environment that was made anew, the next episode's random numbers included."""
    env = made(id_)
    given = actions(env)
    half = len(given) // 2
    env.reset(seed=3)
    before = play(env, given[:half])
    env.snapshot(tmp_path)  # type: ignore[attr-defined]
    after, reset = play(env, given[half:]), env.reset()[0]
    env.close()
    fresh = made(id_)
    np.testing.assert_array_equal(fresh.restore(tmp_path), before[-1, :-1].astype(np.float32))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(play(fresh, given[half:]), after)
    np.testing.assert_array_equal(fresh.reset()[0], reset)
    fresh.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The trajectories of every environment in a process of its own."""
    path = tmp_path_factory.mktemp("elsewhere") / "trajectories.json"
    subprocess.run([sys.executable, "-m", "tests.envs.test_suite", str(path)], check=True, timeout=300)
    return json.loads(path.read_text())


@pytest.mark.parametrize("id_", SUITE)
def test_another_process_computes_the_same(id_: str, elsewhere: dict[str, Any]) -> None:
    env = made(id_)
    np.testing.assert_array_equal(trajectory(env, 1), np.array(elsewhere[id_]))
    env.close()


@pytest.mark.parametrize("id_", SUITE)
def test_it_says_what_its_numbers_are(id_: str) -> None:
    env = made(id_)
    names = env.observation_names  # type: ignore[attr-defined]
    assert len(set(names)) == len(names) == int(np.prod(env.observation_space.shape or ()))
    assert all(cost is None or cost > 0 for cost in fidelity_table(type(env)).values())
    env.close()


if __name__ == "__main__":
    found = {}
    for name in SUITE:
        try:
            here = made(name)
        except pytest.skip.Exception:
            continue
        found[name] = trajectory(here, 1).tolist()
        here.close()
    Path(sys.argv[1]).write_text(json.dumps(found))
