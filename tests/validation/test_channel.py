"""A cylinder in a narrow channel: the benchmark of Schäfer & Turek (1996), cases 2D-1 (steady) and 2D-2 (shedding).

The channel is 22 by 4.1 diameters with resting walls, the cylinder's centre 2 diameters from the inlet and from the
lower wall, the inflow parabolic; coefficients and Reynolds number are formed with the mean inflow. Sources: Schäfer &
Turek, Notes Numer. Fluid Mech. 52 (1996), and the tables of the group that keeps the benchmark.
"""

import numpy as np
import pytest

from distrl.envs.fluids.bodies import RigidBody
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.scene import Scene
from tests.validation.conftest import Confirm
from tests.validation.signals import frequency, smooth_start

FEATFLOW = "Schäfer & Turek 1996; FeatFlow's tables of the benchmark, as other codes quote them"


def channel(diameter: int, reynolds: float, speed: float, duration: float) -> np.ndarray:
    """Drag and lift coefficient at every lattice step, [n, 2]; ``duration`` in D/U, U = ``speed`` cells a step.

    The inflow rises over 22 D/U, slower than the channel's sound waves swing, so that they are not excited.
    """
    nx, ny = 22 * diameter, round(4.1 * diameter)
    y = (np.arange(ny) + 0.5) / ny
    fluid = Fluid(nx, ny, speed * diameter / reynolds, 0.0)
    cylinder = RigidBody.circle(2 * diameter + 0.5, 2 * diameter + 0.5, diameter)
    scene = Scene(fluid, {"cylinder": cylinder}, sides="no_slip", profile=6 * y * (1 - y))
    steps = int(duration * diameter / speed)
    ramp, _ = smooth_start(np.arange(1, steps + 1), 22 * diameter / speed)
    loads = scene.advance(steps, inflow=speed * ramp)
    assert loads.outcome == "fine"
    return loads.forces["cylinder"][:, :2] / (0.5 * speed**2 * diameter)


def steady_drag(diameter: int) -> float:
    """Of case 2D-1; the Mach number falls with the cell. The mean is over a sound wave's way through the channel."""
    speed = 1 / diameter
    wave = int(4 * 22 * diameter * np.sqrt(3))
    return float(channel(diameter, 20, speed, 36)[-wave:, 0].mean())


def test_2d_1(confirm: Confirm) -> None:
    """Schäfer–Turek 2D-1: steady flow around a cylinder, Re 20, 20 cells a diameter."""
    confirm("C_D", steady_drag(20), 5.57953523, FEATFLOW, within=0.02)


@pytest.mark.slow
def test_2d_1_converges(confirm: Confirm) -> None:
    """Schäfer–Turek 2D-1 at 10, 20 and 40 cells a diameter."""
    cells = (10, 20, 40)
    errors = np.array([abs(steady_drag(diameter) / 5.57953523 - 1) for diameter in cells])
    confirm.curve("drag of 2D-1", cells, errors)
    for diameter, error in zip(cells, errors, strict=True):
        confirm(f"error of C_D at {diameter} cells", error, (None, 0.2 / diameter), FEATFLOW)


@pytest.mark.slow
def test_2d_2(confirm: Confirm) -> None:
    """Schäfer–Turek 2D-2: vortex shedding, Re 100, 40 cells a diameter."""
    diameter, speed = 40, 0.05
    drag, lift = channel(diameter, 100, speed, 95)[-int(12 * diameter / speed) :].T
    source = f"{FEATFLOW}: finest level"
    confirm("St", frequency(lift) * diameter / speed, 0.301841, source, within=0.03)
    confirm("largest C_D", drag.max(), 3.227393, source, within=0.02)
    confirm("C_L, peak to peak", np.ptp(lift), 2.007871, source, within=0.06)
    every = int(0.05 * diameter / speed)
    shown = slice(-int(7 * diameter / speed), None, every)
    time = np.arange(len(lift))[shown] * speed / diameter
    confirm.curve("2D-2 drag", time, drag[shown])
    confirm.curve("2D-2 lift", time, lift[shown])
