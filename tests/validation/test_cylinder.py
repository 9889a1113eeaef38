"""A cylinder in a wide stream, at rest and oscillating, and oscillating in fluid at rest.

Coefficients are formed with the stream's speed (or the largest speed of the oscillation) and the diameter.
"""

import numpy as np
import pytest

from distrl.envs.fluids.bodies import Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.scene import Scene
from tests.validation.conftest import Confirm
from tests.validation.signals import frequency, smooth_start

SPREAD = "range of many authors: Re 100, unconfined; recalled"
GUILMINEAU = "Guilmineau & Queutey, J. Fluids Struct. 16 (2002); recalled"


def stream(
    diameter: int, reynolds: float, size: tuple[int, int], speed: float, duration: float, rate: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Drag and lift coefficient over the last 40 % of the time, each [n].

    ``size`` of the domain in diameters, ``duration`` in D/U. With ``rate``, in U/D, the cylinder oscillates across the
    stream with an amplitude of 0.2 D.
    """
    nx, ny = size[0] * diameter, size[1] * diameter
    sponge = graded_sponge(nx, 2 * diameter, 3 * diameter)
    fluid = Fluid(nx, ny, speed * diameter / reynolds, speed, sponge=sponge)
    x, y = np.meshgrid(np.arange(nx + 2.0), np.arange(ny + 2.0), indexing="ij")
    cx, cy = nx / 3 + 0.5, ny / 2 + 0.5
    # A vortex behind the cylinder, or it sheds only later; free of divergence, or it rings between the sides.
    dx, dy = (x - cx) / diameter - 1.5, (y - cy) / diameter - 0.3
    vortex = speed * np.exp(-(dx**2) - dy**2)
    fluid.set_fields(np.ones_like(x), speed - vortex * dy, vortex * dx)
    scene = Scene(fluid, {"cylinder": RigidBody.circle(cx, cy, diameter)})
    steps = np.arange(1, int(duration * diameter / speed) + 1)
    turn = 2 * np.pi * rate * speed / diameter
    ramp, growth = smooth_start(steps, 10 * diameter / speed)
    amplitude = 0.2 * diameter if rate else 0.0
    place = cy - amplitude * ramp * np.cos(turn * steps)
    velocity = amplitude * (ramp * turn * np.sin(turn * steps) - growth * np.cos(turn * steps))
    loads = scene.advance(len(steps), {"cylinder": Motion(cx, place, vy=velocity)} if rate else None)
    assert loads.outcome == "fine"
    drag, lift = loads.forces["cylinder"][-int(0.4 * len(steps)) :, :2].T / (0.5 * speed**2 * diameter)
    return drag, lift


def test_cylinder_at_re_100_coarse(confirm: Confirm) -> None:
    """Cylinder at Re 100, 10 cells a diameter, 5 % blockage."""
    drag, lift = stream(10, 100, (24, 20), 0.05, 120)
    confirm("C_D", drag.mean(), 1.36, SPREAD, within=0.05)
    confirm("C_L amplitude", np.sqrt(2) * lift.std(), 0.33, SPREAD + "; low on a coarse grid", within=0.25)
    confirm("St", frequency(lift) * 10 / 0.05, 0.165, SPREAD, within=0.05)


@pytest.mark.slow
def test_cylinder_at_re_100(confirm: Confirm) -> None:
    """Cylinder at Re 100, 20 cells a diameter, 4 % blockage."""
    drag, lift = stream(20, 100, (30, 24), 0.05, 110)
    confirm("C_D", drag.mean(), 1.36, SPREAD, within=0.025)
    confirm("C_L amplitude", np.sqrt(2) * lift.std(), 0.33, SPREAD, within=0.1)
    confirm("St", frequency(lift) * 20 / 0.05, 0.1655, SPREAD + "; blockage raises it", within=0.03)


@pytest.mark.slow
def test_oscillation_in_fluid_at_rest(confirm: Confirm) -> None:
    """Cylinder oscillating in fluid at rest, Re 100, Keulegan–Carpenter number 5, 20 cells a diameter.

    It moves between the slip sides of a periodic box of 20 D: an inlet or an outlet would answer its sound waves, and
    walls across its way take up the momentum that it gives.
    """
    diameter, speed, size = 20, 0.03, 20 * 20
    fluid = Fluid(size, size, speed * diameter / 100, 0.0)
    centre = size / 2 + 0.5
    scene = Scene(fluid, {"cylinder": RigidBody.circle(centre, centre, diameter)}, sides="slip", periodic=True)
    cycle = round(5 * diameter / speed)
    turn = 2 * np.pi / cycle
    steps = np.arange(1, 6 * cycle + 1)
    ramp, growth = smooth_start(steps, cycle)
    amplitude = speed / turn
    place = centre - amplitude * ramp * np.sin(turn * steps)
    velocity = -amplitude * (ramp * turn * np.cos(turn * steps) + growth * np.sin(turn * steps))
    loads = scene.advance(len(steps), {"cylinder": Motion(centre, place, vy=velocity)})
    force = loads.forces["cylinder"][-2 * cycle :, 1]
    velocity, acceleration = velocity[-2 * cycle :], speed * turn * np.sin(turn * steps[-2 * cycle :])
    drag = -0.5 * diameter * velocity * np.abs(velocity)  # Morison's two terms
    inertia = -0.25 * np.pi * diameter**2 * acceleration
    (drag_coefficient, mass_coefficient), *_ = np.linalg.lstsq(np.stack([drag, inertia], 1), force, rcond=None)
    source = "Dütsch, Durst, Becker & Lienhart, J. Fluid Mech. 360 (1998); recalled"
    confirm("C_D of Morison's fit", drag_coefficient, 2.09, source, within=0.05)
    confirm("C_M of Morison's fit", mass_coefficient, 1.45, source, within=0.05)
    shown = slice(-cycle, None, cycle // 60)
    scale = 0.5 * speed**2 * diameter
    time = np.arange(cycle)[:: cycle // 60] / cycle
    confirm.curve("oscillation, computed", time, force[shown] / scale)
    confirm.curve("oscillation, published", time, (2.09 * drag + 1.45 * inertia)[shown] / scale)


@pytest.mark.slow
def test_cylinder_at_re_185(confirm: Confirm) -> None:
    """Cylinder at Re 185, at rest, 20 cells a diameter, 6 % blockage."""
    drag, lift = stream(20, 185, (22, 18), 0.04, 80)
    confirm("C_D", drag.mean(), 1.29, GUILMINEAU + "; 1.31 by Lu & Dalton 1996", within=0.05)
    confirm("C_L, r.m.s.", lift.std(), 0.443, GUILMINEAU + "; 0.422 by Lu & Dalton 1996", within=0.1)
    confirm("St", frequency(lift) * 20 / 0.04, 0.195, GUILMINEAU, within=0.05)


@pytest.mark.slow
def test_oscillation_across_a_stream(confirm: Confirm) -> None:
    """Cylinder at Re 185 oscillating across the stream by 0.2 D at 0.8 of its shedding frequency."""
    drag, lift = stream(20, 185, (22, 18), 0.04, 80, rate=0.8 * 0.195)
    cycle = 20 / 0.04 / (0.8 * 0.195)
    whole = slice(-int(cycle * (len(lift) // cycle)), None)
    source = "Schneiders et al., J. Comput. Phys. 235 (2013), and 1.28 by Yang et al. 2009; recalled"
    confirm("C_D", drag[whole].mean(), 1.279, source, within=0.05)
    spread = "0.08 by Schneiders et al. 2013 to 0.18 by Uhlmann 2005; recalled"
    confirm("C_L, r.m.s.", lift[whole].std(), (0.07, 0.19), spread)
