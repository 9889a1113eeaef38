"""The falling film: a flat one stays, small waves grow and travel as linear theory says, a broken one ends."""

import numpy as np
import pytest

from distrl.envs.dynamics import shkadov_film
from distrl.envs.dynamics.shkadov_film import ShkadovFilm

DELTA = 0.1


def unstable_mode(k: float) -> complex:
    """The growth rate s of waves exp(i k x + s t) on the flat film: the root of its linear equations that grows most.

    s h = -i k q; s q = -6/5 i k (2 q - h) + ((3 - i k^3) h - q) / (5 delta).
    """
    p = 1 / (5 * DELTA)
    matrix = np.array([[0, -1j * k], [1.2j * k + p * (3 - 1j * k**3), -2.4j * k - p]])
    return max(np.linalg.eigvals(matrix), key=lambda value: value.real)


def test_a_flat_film_stays() -> None:
    film = np.zeros((4, 300))
    film[:2] = 1
    still = np.zeros(300)
    shkadov_film.advance(film, 0.2, 0.001, DELTA, np.ones(500), still, still, 1)
    np.testing.assert_allclose(film[:2], 1, atol=1e-12)


@pytest.mark.parametrize(("dx", "dt", "tolerance"), [(0.2, 0.001, 0.02), (0.5, 0.0025, 0.15)])
def test_small_waves_grow_and_travel_as_linear_theory_says(dx: float, dt: float, tolerance: float) -> None:
    k, duration, size = 2 * np.pi / 20, 3.0, 1e-4
    rate = unstable_mode(k)
    assert rate.real > 0
    x = np.arange(round(120 / dx)) * dx
    wave = size * np.exp(1j * k * x)
    film = np.zeros((4, x.size))
    film[:2] = 1 + np.array([wave, 1j * rate / k * wave]).real
    still = np.zeros(x.size)
    shkadov_film.advance(film, dx, dt, DELTA, np.full(round(duration / dt), 1 + wave[0].real), still, still, 1)
    middle = (x >= 40) & (x < 80)  # two wavelengths that the ends have not reached
    grown = 2 * np.mean((film[0, middle] - 1) * np.exp(-1j * k * x[middle])) / size
    measured = np.log(grown * np.exp(-1j * rate.imag * duration)) / duration + 1j * rate.imag
    assert abs(measured - rate) < tolerance * abs(rate)


def test_waves_develop_and_the_jets_reach_them() -> None:
    env = ShkadovFilm(fidelity="coarse")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (50,)
    assert 0.05 < np.abs(env.film[0] - 1).max() < 0.6
    np.testing.assert_allclose(observation[9], env.film[1, round(149 / 0.5)] - 1, atol=1e-6)
    films = []
    for force in (0, 1):
        env.reset(seed=0)
        env.step(np.array([0, 0, force, 0, 0]))
        films.append(env.film[1].copy())
    changed = np.flatnonzero(films[1] - films[0] > 0.02) * 0.5
    assert 168 <= changed.min() < changed.max() <= 173  # the third jet stands at 170, half as wide as 2


def test_jets_can_be_added() -> None:
    env = ShkadovFilm(num_jets=7)
    assert env.action_space.shape == (7,)
    assert env.observation_space.shape == (70,)
    assert env.length == 240


def test_a_film_that_breaks_ends_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shkadov_film, "THICKNESSES", (0.9, 1.1))
    env = ShkadovFilm(fidelity="coarse")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.ones(5))
    assert (terminated, reward, info["divergence"]) == (True, env.diverged_reward, "thickness")
