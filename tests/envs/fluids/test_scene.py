"""Bodies in the flow against the literature: a cylinder at Re 100, and a filament that flaps by itself at Re 200.

References: cylinder Cd 1.33-1.40, St 0.164-0.167, Cl' 0.32-0.34 (by many authors; blockage raises St and Cd, a coarse
grid lowers Cl'); filament: Huang, Shin & Sung, J. Comput. Phys. 226 (2007), tip amplitude 0.35-0.38 L on either
side, St 0.30-0.32.
"""

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Filament, Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.scene import Scene

_SPEED = 0.05


def _frequency(signal: np.ndarray) -> float:
    """Of a nearly periodic signal, per sample, from its upward zero crossings."""
    signal = signal - signal.mean()
    up = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    crossings = up - signal[up] / (signal[up + 1] - signal[up])
    return float(1 / np.diff(crossings).mean())


def cylinder(diameter: int, width: int, height: int, duration: float) -> tuple[float, float, float]:
    """Mean drag, amplitude of the lift and Strouhal number at Re 100; sizes in diameters or cells, time in D/U.

    Markers lie 0.35 cells inside the surface, which makes up for the width of their kernel.
    """
    nx, ny = width * diameter, height * diameter
    fluid = Fluid(nx, ny, _SPEED * diameter / 100, _SPEED, magic=0.25)
    x, y = np.meshgrid(np.arange(nx + 2.0), np.arange(ny + 2.0), indexing="ij")
    centre = np.array([nx / 3 + 0.5, ny / 2 + 0.5])
    gap = ((x - centre[0] - 1.5 * diameter) ** 2 + (y - centre[1] - 0.3 * diameter) ** 2) / diameter**2
    fluid.set_fields(np.ones_like(x), np.full_like(x, _SPEED), 0.3 * _SPEED * np.exp(-gap))  # or it sheds only later
    scene = Scene(fluid, {"cylinder": RigidBody.circle(*centre, diameter, retraction=0.35)})
    force = scene.advance(int(duration * diameter / _SPEED)).forces["cylinder"][:, :2]
    drag, lift = force[-len(force) // 3 :].T / (0.5 * _SPEED**2 * diameter)
    return float(drag.mean()), float(np.sqrt(2) * lift.std()), _frequency(lift) * diameter / _SPEED


def filament(cells: int, duration: float) -> tuple[float, float]:
    """Peak-to-peak motion of the tip in L, and its frequency in U/L, of a hinged filament hanging in a stream.

    Mass ratio 1.5, bending rigidity 0.0015, g L / U² = 0.5; 8 by 8 L, released at 0.1 pi rad.
    """
    n = 8 * cells
    fluid = Fluid(n, n, _SPEED * cells / 200, _SPEED, sponge=graded_sponge(n, 0.6 * cells, cells))
    gravity = 0.5 * _SPEED**2 / cells
    beam = make_beam(cells, 1.5 * cells, 0.0015 * _SPEED**2 * cells**3, clamped=False, gravity=gravity)
    body = Filament.straight(beam, 2 * cells + 0.5, n / 2 + 0.5, 0.1 * np.pi)
    scene = Scene(fluid, {"filament": body})
    steps = 20
    tip = []
    for _ in range(int(duration * cells / _SPEED / steps)):
        assert scene.advance(steps, displacement_limit=0.5).outcome == "fine"
        tip.append((body.shape[-1, 1] - body.shape[0, 1]) / cells)
    end = np.array(tip[-len(tip) // 3 :])
    return float(np.ptp(end)), _frequency(end) * cells / _SPEED / steps


def test_cylinder_at_re_100_coarse() -> None:
    """Ten cells a diameter, 5 % blockage: Cd and St within 5 % of 1.36 and 0.165; Cl' is 20 % low, so 25 % of 0.33."""
    drag, lift, strouhal = cylinder(10, 24, 20, 120)
    assert drag == pytest.approx(1.36, rel=0.05)
    assert lift == pytest.approx(0.33, rel=0.25)
    assert strouhal == pytest.approx(0.165, rel=0.05)


def test_passive_filament_flaps_coarse() -> None:
    """Twenty cells: St within 5 % of 0.31; the amplitude is 15 % low at this resolution, so within 20 % of 0.73."""
    travel, strouhal = filament(20, 30)
    assert strouhal == pytest.approx(0.31, rel=0.05)
    assert travel == pytest.approx(0.73, rel=0.20)


@pytest.mark.slow
def test_cylinder_at_re_100() -> None:
    """Twenty cells a diameter in 40 by 30 diameters: Cd and St within 2 % of the middle of the references, Cl' 8 %."""
    drag, lift, strouhal = cylinder(20, 40, 30, 150)
    assert drag == pytest.approx(1.36, rel=0.02)
    assert lift == pytest.approx(0.33, rel=0.08)
    assert strouhal == pytest.approx(0.1655, rel=0.02)


@pytest.mark.slow
def test_passive_filament_flaps() -> None:
    """Forty cells: within the references' own spread."""
    travel, strouhal = filament(40, 40)
    assert 0.70 <= travel <= 0.76
    assert 0.30 <= strouhal <= 0.32


def test_a_body_outside_the_domain_ends_the_run() -> None:
    scene = Scene(Fluid(20, 20, 0.1, _SPEED), {"circle": RigidBody.circle(4.0, 10.0, 8)})
    assert scene.advance(1).outcome == "left_domain"


def test_a_motion_for_a_body_that_is_not_there_is_refused() -> None:
    scene = Scene(Fluid(20, 20, 0.1, _SPEED), {"circle": RigidBody.circle(10.0, 10.0, 8)})
    with pytest.raises(ConfigError, match=r"'square', but the scene has circle"):
        scene.advance(1, {"square": Motion(10.0, 10.0)})
