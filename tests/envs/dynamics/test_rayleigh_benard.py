"""The heated layer against the literature's onset of convection and heat flux; the symmetries that agents rely on."""

import math
import warnings

import numpy as np
import pytest

from distrl.envs.dynamics import rayleigh_benard
from distrl.envs.dynamics.convection import Layer
from distrl.envs.dynamics.rayleigh_benard import SEGMENTS, RayleighBenard

CRITICAL_WAVE = 3.117  # Chandrasekhar, Hydrodynamic and Hydromagnetic Stability (1961): onset between no-slip plates
CRITICAL_RAYLEIGH = 1707.8


def convection(cells: tuple[int, int], rayleigh: float, disturbance: float, prandtl: float = 0.71) -> Layer:
    layer = Layer(2 * math.pi / CRITICAL_WAVE, cells, rayleigh, prandtl)
    x, y = (np.arange(cells[0]) + 0.5) / cells[0], (np.arange(cells[1]) + 0.5) / cells[1]
    layer.t[:, 1:-1] += disturbance * np.cos(2 * math.pi * x)[:, None] * np.sin(math.pi * y)
    return layer


def run(layer: Layer, duration: float) -> float:
    """The Nusselt number over a duration."""
    return float(layer.nusselt(layer.advance(np.full(len(layer.u), 0.5), duration)).mean())


def test_convection_sets_in_at_the_critical_rayleigh_number() -> None:
    def growth(rayleigh: float) -> float:
        layer = convection((24, 16), rayleigh, 1e-5)
        run(layer, 40)
        first = np.abs(layer.v).max()
        run(layer, 20)
        return math.log(np.abs(layer.v).max() / first) / 20

    below, above = growth(1600), growth(1850)
    assert below < 0 < above
    onset = 1600 + 250 * -below / (above - below)
    assert onset == pytest.approx(CRITICAL_RAYLEIGH, rel=0.02)


def test_heat_flux_and_its_order_of_convergence() -> None:
    """Nu = 2.661 at Ra 1e4, Pr 0.71: Clever & Busse, J. Fluid Mech. 65 (1974) 625."""
    found = []
    for cells in ((20, 16), (40, 32)):
        layer = convection(cells, 1e4, 0.1)
        run(layer, 100)
        found.append(run(layer, 2))
    assert found[1] == pytest.approx(2.661, rel=0.006)
    assert (found[0] - 2.661) / (found[1] - 2.661) > 3

    # In a steady state the fluid dissipates what buoyancy puts in, and heat what the plates do, both exactly known.
    u, v, t, (dx, dy) = layer.u, layer.v, layer.t, (layer.dx, layer.dy)
    half = np.r_[0.5, np.ones(t.shape[1] - 3), 0.5]  # a plate's ghost cell is twice as far as the plate

    def along(field: np.ndarray) -> float:
        return float(((np.roll(field, -1, 0) - field) ** 2).mean(0).sum()) / dx**2

    cells_high = t.shape[1] - 2
    heat = along(t[:, 1:-1]) + float((np.diff(t, axis=1) ** 2 * half).mean(0).sum()) / dy**2
    assert heat / cells_high == pytest.approx(found[1], rel=1e-3)
    shear = along(u[:, 1:-1]) + float((np.diff(u, axis=1) ** 2 * half).mean(0).sum()) / dy**2
    shear += along(v[:, 1:-1]) + float((np.diff(v, axis=1) ** 2).mean(0).sum()) / dy**2
    assert layer.viscosity * shear / cells_high == pytest.approx((found[1] - 1) * layer.diffusivity, rel=1e-3)
    assert np.abs((np.roll(u, -1, 0) - u)[:, 1:-1] / dx + np.diff(v, axis=1) / dy).max() < 1e-12


def test_time_steps_are_of_second_order() -> None:
    def after(step: float) -> np.ndarray:
        layer = convection((20, 12), 1e4, 0.3)
        layer.largest_step = step
        run(layer, 4.0)
        return layer.t[:, 1:-1]

    exact = after(0.00125)
    errors = [np.abs(after(step) - exact).max() for step in (0.02, 0.01)]
    assert math.log2(errors[0] / errors[1]) > 1.8


@pytest.fixture
def env() -> RayleighBenard:
    env = RayleighBenard(fidelity="coarse")
    env.reset(seed=0)
    return env


def test_free_convection_stays_at_its_heat_flux(env: RayleighBenard) -> None:
    """Two pairs of rolls, Nu = 2.7 (Vignon 2023 subtracts 2.68 from the rewards of this case)."""
    for _ in range(10):
        _, reward, _, _, info = env.step(np.zeros(SEGMENTS))
    assert reward == -info["nusselt"]
    assert info["nusselt"] == pytest.approx(2.68, rel=0.025)
    assert env.segment_nusselt.mean() == pytest.approx(info["nusselt"])
    assert np.ptp(env.segment_nusselt) > 0.5  # rolls carry it, not all columns the same


def test_every_segment_sees_what_its_neighbour_would_see_after_a_shift(env: RayleighBenard) -> None:
    """Ten agents may share one policy: a flow that is moved by one segment gives observations moved by one."""
    other = RayleighBenard(fidelity="coarse")
    other.reset(seed=0)
    for name in ("u", "v", "t", "before"):
        axis = 1 if name == "before" else 0
        getattr(other.layer, name)[:] = np.roll(getattr(env.layer, name), 4, axis)
    action = np.random.default_rng(0).uniform(-1, 1, SEGMENTS)
    for _ in range(3):
        env.step(action)
        other.step(np.roll(action, 1))
    np.testing.assert_allclose(np.roll(env.segment_observations(), 1, 0), other.segment_observations(), atol=1e-9)
    np.testing.assert_allclose(np.roll(env.segment_nusselt, 1), other.segment_nusselt, atol=1e-9)


def test_wall_temperatures_keep_the_mean_and_the_limit(env: RayleighBenard) -> None:
    env.step(np.array([1.0] * 9 + [-1.0]))
    assert abs(env.wall.mean()) < 1e-12
    assert np.abs(env.wall).max() == pytest.approx(rayleigh_benard.WALL_LIMIT)
    np.testing.assert_allclose(env.wall, rayleigh_benard.WALL_LIMIT * np.array([1 / 9] * 9 + [-1]))
    env.step(np.ones(SEGMENTS))
    np.testing.assert_allclose(env.wall, 0, atol=1e-12)


def test_cooling_where_fluid_rises_carries_less_heat(env: RayleighBenard) -> None:
    fluxes = {}
    for gain in (-1.0, 0.0, 2.0):
        policy = rayleigh_benard.baseline_policy({"gain": gain}, {})
        observation, _ = env.reset(seed=1)
        for _ in range(30):
            observation, _, _, _, info = env.step(policy.act(observation))
        fluxes[gain] = info["nusselt"]
    assert fluxes[2.0] < 0.85 * fluxes[0.0] < fluxes[0.0] < fluxes[-1.0]


def test_a_rayleigh_number_beyond_what_the_grid_resolves_is_told() -> None:
    with pytest.warns(UserWarning, match="checked up to rayleigh = 15000"):
        RayleighBenard(fidelity="coarse", rayleigh=3e4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RayleighBenard(fidelity="default", rayleigh=3e4)
