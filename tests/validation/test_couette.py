"""Flow between a turning and a resting cylinder, which has an exact solution: what the immersed boundary costs."""

import numpy as np
import pytest

from distrl.envs.fluids import lattice
from distrl.envs.fluids.bodies import RETRACTION, Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.scene import Scene
from tests.validation.conftest import Confirm


def couette_errors(radius: int, retraction: float = RETRACTION, viscosity: float = 0.1) -> tuple[float, float]:
    """Relative errors of the inner cylinder's torque and of the velocity between; the outer radius is twice ``radius``.

    The Reynolds number is 5; the speed of the surface falls with the cell.
    """
    outer = 2 * radius
    n = 2 * outer + 10
    centre = n / 2 + 0.5
    spin = 5 * viscosity / radius**2
    fluid = Fluid(n, n, viscosity, 0.0, dtype=np.float64)
    bodies = {
        "inner": RigidBody.circle(centre, centre, 2 * radius, retraction),
        "outer": RigidBody.circle(centre, centre, 2 * outer, -retraction),  # its fluid is inside
    }
    scene = Scene(fluid, bodies, sides="periodic", periodic=True)
    steps = int(3 * radius**2 / viscosity)  # by then the flow is steady
    torque = scene.advance(steps, {"inner": Motion(centre, centre, spin=spin)}).forces["inner"][-1, 2]
    wanted = -4 * np.pi * viscosity * spin * radius**2 * outer**2 / (outer**2 - radius**2)
    _, ux, uy = lattice.fields(fluid.populations)
    x = np.arange(1, n + 1) - centre
    x, y = np.meshgrid(x, x, indexing="ij")
    r = np.hypot(x, y)
    between = (r > radius) & (r < outer)
    exact = (spin * radius**2 / (outer**2 - radius**2) * (outer**2 / r - r))[between]
    error = ((x * uy - y * ux) / r)[between] - exact
    return float(torque / wanted - 1), float(np.sqrt((error**2).mean() / (exact**2).mean()))


@pytest.mark.slow
def test_couette(confirm: Confirm) -> None:
    """Flow between a turning and a resting cylinder, inner radius 6 to 24 cells."""
    radii = (6, 12, 24)
    torque, velocity = np.array([couette_errors(radius) for radius in radii]).T
    torque = np.abs(torque)
    confirm.curve("torque of a turning cylinder", radii, torque)
    confirm.curve("velocity around it", radii, velocity)
    confirm("error of the torque at 24 cells", torque[-1], (None, 0.01), "exact solution")
    confirm("error of the velocity at 24 cells", velocity[-1], (None, 0.01), "exact solution")
    confirm("order of the velocity", np.log2(velocity[0] / velocity[-1]) / 2, (0.8, None), "first order")


def test_retraction(confirm: Confirm) -> None:
    """The distance from the surface at which markers give a turning cylinder of 8 cells its exact torque, in cells."""
    for viscosity in (0.03, 0.1):
        near, far = (couette_errors(8, retraction, viscosity)[0] for retraction in (0.3, 0.4))
        best = 0.3 + 0.1 * near / (near - far)
        confirm(f"at a viscosity of {viscosity:g}", best, RETRACTION, "what every body has", within=0.15)
