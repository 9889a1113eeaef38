"""The beam without fluid against beam theory: a cantilever's frequency and the swing of a hanging rope.

With ``coupling=0`` a filament and the fluid around it do not feel each other.
"""

import numpy as np
import pytest

from distrl.envs.fluids.beam import Beam, make_beam
from distrl.envs.fluids.bodies import Filament
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.scene import Scene
from tests.validation.conftest import Confirm
from tests.validation.signals import frequency


def swing(beam: Beam, shape: np.ndarray, steps: int) -> np.ndarray:
    """Deflection of the tip, in cells, at every step after release at rest in ``shape`` [N + 1, 2], relative to the
    root."""
    cells = len(shape) - 1
    filament = Filament.straight(beam, 3.0, 10.0)
    filament.shape[:] = filament.shape[0] + shape
    filament.shape_old[:] = filament.shape
    scene = Scene(Fluid(cells + 6, 18, 0.1, 0.0), {"beam": filament})
    tip = []
    for _ in range(steps):
        assert scene.advance(1).outcome == "fine"
        tip.append(filament.shape[-1, 1] - filament.shape[0, 1])
    return np.array(tip)


def bent(y: np.ndarray) -> np.ndarray:
    """The shape [n, 2] with segments of one cell that deflects by ``y`` [n]."""
    x = np.concatenate([[0.0], np.cumsum(np.sqrt(1 - np.diff(y) ** 2))])
    return np.stack([x, y], axis=1)


@pytest.mark.parametrize("cells", [16, 32])
def test_cantilever(confirm: Confirm, cells: int) -> None:
    """Cantilever, frequency of the first mode."""
    s, k, ratio = np.arange(cells + 1) / cells, 1.8751041, 0.7340955
    mode = np.cosh(k * s) - np.cos(k * s) - ratio * (np.sinh(k * s) - np.sin(k * s))
    stiffness, mass = 0.0025 * cells**3, 0.1 * cells
    wanted = k**2 * np.sqrt(stiffness / mass) / cells**2 / (2 * np.pi)
    tip = swing(make_beam(cells, mass, stiffness, coupling=0.0, theta=0.5), bent(5e-4 * cells * mode), int(5 / wanted))
    confirm(f"frequency at {cells} cells", frequency(tip) / wanted, 1.0, "beam theory", within=0.01)


def bessel(order: int, x: float) -> float:
    """J_order(x), by its integral."""
    angle = (np.arange(2000) + 0.5) * np.pi / 2000
    return float(np.cos(order * angle - x * np.sin(angle)).mean())


def test_hanging_rope(confirm: Confirm) -> None:
    """Hanging rope released at 0.01 π rad: the tip over two swings.

    A heavy chain of length L, deflected by k s: sum of 8 k / (j³ J_1(j)) J_0(j sqrt(1 - s/L)) cos(j sqrt(g/L) t / 2)
    over the zeros j of J_0.
    """
    cells, gravity, slope = 40, 1e-4, 0.01 * np.pi
    steps = int(2 * 2 * np.pi / (1.2024 * np.sqrt(gravity / cells)))
    beam = make_beam(cells, cells, 0.0, coupling=0.0, theta=0.5, clamped=False, gravity=gravity)
    s = np.arange(cells + 1.0)
    tip = swing(beam, np.stack([s * np.cos(slope), s * np.sin(slope)], axis=1), steps)
    time = np.arange(1, steps + 1)
    exact = np.zeros(steps)
    for n in range(1, 11):
        j = (n - 0.25) * np.pi
        for _ in range(5):
            j += bessel(0, j) / bessel(1, j)
        exact += slope * cells * 8 / (j**3 * bessel(1, j)) * np.cos(0.5 * j * np.sqrt(gravity / cells) * time)
    source = "heavy chain in Bessel functions; the case of Huang, Shin & Sung 2007"
    confirm(
        "deviation of the tip, r.m.s.", np.sqrt(((tip - exact) ** 2).mean() / (exact**2).mean()), (None, 0.03), source
    )
    shown = slice(None, None, steps // 120)
    confirm.curve("rope, computed", time[shown] / steps * 2, tip[shown] / cells)
    confirm.curve("rope, theory", time[shown] / steps * 2, exact[shown] / cells)
