"""The dynamics environments against the literature: heat flux, chaos, and the growth of waves.

More of their checks run in ``make test``: tests/envs/dynamics.
"""

import numpy as np
import pytest

from distrl.envs.dynamics import kuramoto_sivashinsky as ks
from distrl.envs.dynamics import lorenz
from distrl.envs.dynamics.convection import Layer
from tests.validation.conftest import Confirm


@pytest.mark.slow
def test_heat_flux(confirm: Confirm) -> None:
    """Rayleigh–Bénard convection between no-slip plates, Pr 0.71, rolls of wave number 3.117, 52 cells across."""
    cells, width = (100, 52), 2 * np.pi / 3.117
    wave = np.cos(2 * np.pi * (np.arange(cells[0]) + 0.5) / cells[0])[:, None]
    for rayleigh, nusselt in ((5e3, 2.116), (1e4, 2.661)):
        layer = Layer(width, cells, rayleigh, 0.71)
        layer.t[:, 1:-1] += 0.1 * wave * np.sin(np.pi * (np.arange(cells[1]) + 0.5) / cells[1])
        layer.advance(np.full(cells[0], 0.5), 150)
        got = layer.nusselt(layer.advance(np.full(cells[0], 0.5), 10)).mean()
        confirm(
            f"Nu at Ra {rayleigh:g}", got, nusselt, "Clever & Busse, J. Fluid Mech. 65 (1974); recalled", within=0.01
        )


@pytest.mark.slow
def test_lyapunov_exponent(confirm: Confirm) -> None:
    """Lorenz system, default level: how fast neighbouring states part."""
    level = lorenz.FIDELITIES["default"]
    step = lorenz.CONTROL_INTERVAL / level.substeps
    state = lorenz.advance(np.array([1.0, 1.0, 20.0]), 0.0, step, 2000)
    near = state + np.array([1e-8, 0.0, 0.0])
    growth, intervals = 0.0, 40_000
    for _ in range(intervals):
        state = lorenz.advance(state, 0.0, step, level.substeps)
        near = lorenz.advance(near, 0.0, step, level.substeps)
        distance = float(np.linalg.norm(near - state))
        growth += np.log(distance / 1e-8)
        near = state + (near - state) * 1e-8 / distance
    source = "Viswanath, thesis, Cornell 1998; recalled"
    confirm("largest exponent", growth / (intervals * lorenz.CONTROL_INTERVAL), 0.9056, source, within=0.02)


def test_growth_of_waves(confirm: Confirm) -> None:
    """Kuramoto–Sivashinsky equation, default level: growth of small waves."""
    level = ks.FIDELITIES["default"]
    x = np.arange(level.points) * ks.LENGTH / level.points
    for wave in (1, 2, 3):
        k = 2 * np.pi * wave / ks.LENGTH
        field = 1e-6 * np.cos(k * x)
        ks.advance(field, np.zeros(level.points), x[1], 1e-3, 1000, 1.0)
        rate = np.log(2 * (field * np.cos(k * x)).mean() / 1e-6)
        confirm(f"rate at k = {k:g}", rate, k**2 - k**4, "k² − k⁴, by linear theory", within=0.01)
