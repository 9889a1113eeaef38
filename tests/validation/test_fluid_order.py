"""The fluid alone against exact solutions: half the cell is a quarter of the error, and walls sit where they should."""

import numpy as np

from distrl.envs.fluids import lattice
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.scene import Scene
from tests.validation.conftest import Confirm


def _relative(error: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean() / (exact**2).mean()))


def poiseuille_error(height: int, magic: float) -> float:
    """Relative error of the steady flow between two walls under a body force; the Mach number falls with the cell."""
    viscosity, peak = 0.1, 0.4 / height
    fluid = Fluid(4, height, viscosity, 0.0, magic=magic, dtype=np.float64)
    force = 8 * viscosity * peak / height**2
    channel = Scene(fluid, sides="no_slip", periodic=True)
    channel.advance(int(2 * height**2 / viscosity), push=force)
    density, ux, _ = lattice.fields(fluid.populations)
    y = np.arange(height) + 0.5
    exact = 4 * peak * y * (height - y) / height**2
    # Collided populations carry the whole force of the step, the velocity half of it.
    return _relative(ux[1] - force / density[1] / 2 - exact, exact)


def taylor_green_error(n: int, dtype: type) -> float:
    """Relative error of a decaying array of vortices after its velocity has fallen by e, on a periodic square."""
    viscosity, speed, k = 0.03, 0.64 / n, 2 * np.pi / n
    x, y = np.meshgrid(*[np.arange(n + 2) - 0.5] * 2, indexing="ij")
    fluid = Fluid(n, n, viscosity, 0.0, dtype=dtype)
    ux, uy = speed * np.sin(k * x) * np.cos(k * y), -speed * np.cos(k * x) * np.sin(k * y)
    fluid.set_fields(1 + 0.75 * speed**2 * (np.cos(2 * k * x) + np.cos(2 * k * y)), ux, uy)
    steps = round(1 / (2 * viscosity * k**2))
    Scene(fluid, sides="periodic", periodic=True).advance(steps)
    exact = (ux * np.exp(-2 * viscosity * k**2 * steps))[1:-1, 1:-1]
    return _relative(lattice.fields(fluid.populations)[1] - exact, exact)


def test_poiseuille(confirm: Confirm) -> None:
    """Flow between two walls, 8 to 32 cells across."""
    cells = (8, 16, 32)
    errors = np.array([poiseuille_error(height, magic=0.125) for height in cells])
    confirm.curve("Poiseuille", cells, errors)
    confirm("error at 8 cells", errors[0], (None, 0.01), "exact solution")
    confirm("order", np.log2(errors[:-1] / errors[1:]).min(), (1.9, None), "exact solution")


def test_poiseuille_at_magic_number_three_sixteenths(confirm: Confirm) -> None:
    """Flow between two walls where bounce-back puts them exactly half way between cells."""
    source = "exact at Λ = 3/16: Ginzburg & d'Humières, Phys. Rev. E 68 (2003)"
    confirm("error at 8 cells", poiseuille_error(8, magic=3 / 16), (None, 1e-7), source)


def test_taylor_green(confirm: Confirm) -> None:
    """Decaying vortices on a periodic square, 16 to 64 cells."""
    cells = (16, 32, 64)
    for dtype, bits in ((np.float64, 64), (np.float32, 32)):
        errors = np.array([taylor_green_error(n, dtype) for n in cells])
        confirm(f"error at 16 cells, {bits} bits", errors[0], (None, 0.03), "exact solution")
        confirm(f"order, {bits} bits", np.log2(errors[:-1] / errors[1:]).min(), (1.9, None), "exact solution")
    confirm.curve("Taylor–Green", cells, errors)
