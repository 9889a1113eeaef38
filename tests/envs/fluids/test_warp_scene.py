"""The GPU's kernels, run by Warp on the CPU, against numba's: the same scenes, step by step the same within rounding.

The tolerances are ten times what single and double precision of the same numba kernels differ by after so many steps
(2e-8 in the populations, 3e-7 cells in a filament's shape, 3e-6 in a body's force).
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distrl.core.errors import ConfigError, StorageError
from distrl.envs.fluids import lattice
from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Drive, Filament, Motion, RigidBody
from distrl.envs.fluids.fin_ray import FinRay
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.scene import Loads, Scene

pytest.importorskip("warp", reason="the optional extra 'gpu' is not installed")

_SPEED = 0.05
_STEPS = 150  # more than travel together, and another number than twice that


def _fluid() -> Fluid:
    return Fluid(48, 32, 0.02, _SPEED, sponge=graded_sponge(48, 8, 12))


def _circle() -> RigidBody:
    circle = RigidBody.circle(17.2, 16.4, 8)
    circle.blowing = circle.outline / 4 * np.sign(circle.outline[:, 1:])  # out above, in below
    return circle


def _filament(x: float) -> Filament:
    return Filament.straight(make_beam(10, 5.0, 0.0025 * 1000, profile=np.linspace(1, 0, 10) / 10), x, 16.5, 0.1)


def _advance(device: str, make: Callable[[str], Scene], *runs: dict) -> tuple[Scene, list[Loads]]:
    scene = make(device)
    return scene, [scene.advance(_STEPS, **run) for run in runs]


def _agree(make: Callable[[str], Scene], *runs: dict) -> None:
    """Populations and loads of the same runs agree between numba and Warp."""
    (mine, mine_loads), (theirs, their_loads) = (_advance(device, make, *runs) for device in ("cpu", "warp:cpu"))
    for name, array in mine.state().items():
        tolerance = 2e-7 if name == "populations" else 3e-6
        np.testing.assert_allclose(theirs.state()[name], array, rtol=0, atol=tolerance, err_msg=name)
    for mine_of, theirs_of in zip(mine_loads, their_loads, strict=True):
        assert theirs_of.outcome == mine_of.outcome == "fine"
        for name, force in mine_of.forces.items():
            np.testing.assert_allclose(theirs_of.forces[name], force, rtol=0, atol=3e-5, err_msg=name)
        for name, work in mine_of.work.items():
            largest = max(abs(value) for value in work.values())
            assert theirs_of.work[name] == pytest.approx(work, rel=0, abs=1e-5 * largest)


@pytest.mark.parametrize(
    ("sides", "periodic"), [("slip", False), ("no_slip", False), ("slip", True), ("no_slip", True), ("periodic", True)]
)
def test_edges(sides: str, periodic: bool) -> None:
    """Without bodies, from a field that is different everywhere, with a sheared and swelling inflow or a push."""

    def make(device: str) -> Scene:
        fluid = _fluid()
        x, y = np.meshgrid(np.arange(50.0), np.arange(34.0), indexing="ij")
        wave = 0.02 * np.sin(2 * np.pi * (x - 0.5) / 48) * np.cos(2 * np.pi * (y - 0.5) / 32)
        fluid.set_fields(1 + 0.1 * wave, _SPEED + wave, 0.5 * wave)
        return Scene(fluid, sides=sides, periodic=periodic, profile=np.linspace(0.5, 1.5, 32), device=device)

    swelling = _SPEED * (1 + 0.2 * np.sin(np.arange(_STEPS) / 20))
    _agree(make, {"push": 1e-5} if periodic else {"inflow": swelling})


_TIME = np.arange(_STEPS) / 40


@pytest.mark.parametrize(
    "motion",
    [
        Motion(17.2, 16.4),
        Motion(17.2, 16.4, spin=0.02 * np.sin(_TIME)),
        Motion(17.2, 16.4, blow=0.03),
        Motion(
            17.2, 16.4 + np.cos(_TIME), np.sin(_TIME), vy=-np.sin(_TIME) / 40, spin=np.cos(_TIME) / 40, blow=0.02
        ),
    ],
    ids=["rests", "spins", "blows", "heaves, turns and blows"],
)  # fmt: skip
def test_a_cylinder(motion: Motion) -> None:
    _agree(lambda device: Scene(_fluid(), {"cylinder": _circle()}, device=device), {"motions": {"cylinder": motion}})


def test_two_cylinders_and_two_filaments() -> None:
    """One filament so near behind a cylinder that each feels the other's forces; driven roots, active muscles."""

    def make(device: str) -> Scene:
        bodies = {
            "front": _circle(), "near": _filament(22.0), "far": _filament(34.0), "small": RigidBody.circle(28, 8.3, 5),
        }  # fmt: skip
        return Scene(_fluid(), bodies, device=device)

    roots = np.stack([np.full(_STEPS, 34.0), 16.5 + np.sin(_TIME), np.ones(_STEPS), np.zeros(_STEPS)], axis=1)
    drives = {"far": Drive(roots, np.sin(_TIME)), "front": Motion(17.2, 16.4, spin=0.02)}
    _agree(make, {"motions": drives}, {"motions": {"front": Motion(17.2, 16.4, blow=0.02)}})


def test_a_state_taken_on_the_device_continues_there_bit_by_bit_and_elsewhere_within_rounding() -> None:
    def make(device: str) -> Scene:
        return Scene(_fluid(), {"cylinder": _circle(), "fin": _filament(30.0)}, device=device)

    scene = make("warp:cpu")
    scene.advance(31)  # an odd number: the result is in the other buffer
    state = {name: array.copy() for name, array in scene.state().items()}
    scene.advance(20)
    again, elsewhere = make("warp:cpu"), make("cpu")
    for other in (again, elsewhere):
        other.load(state)
        other.advance(20)
    np.testing.assert_array_equal(again.fluid.populations, scene.fluid.populations)
    np.testing.assert_allclose(elsewhere.fluid.populations, scene.fluid.populations, rtol=0, atol=1e-6)


def test_what_is_written_into_the_populations_reaches_the_device() -> None:
    scene = Scene(_fluid(), device="warp:cpu")
    scene.advance(3)
    assert scene.cells_out_of_bounds(0.8, 1.2, 0.2) == 0
    scene.fluid.populations[0, 20:22, 10:12] = np.nan
    assert scene.cells_out_of_bounds(0.8, 1.2, 0.2) == 4
    scene.advance(2)  # to all nine populations of these cells, then to their neighbours
    assert scene.cells_out_of_bounds(0.8, 1.2, 0.2) == 16
    reference = Scene(_fluid())
    scene.fluid.set_fields(np.ones((50, 34)), np.full((50, 34), _SPEED), np.zeros((50, 34)))
    scene.fill_edges()
    for other in (scene, reference):
        other.advance(2)
    np.testing.assert_allclose(scene.fluid.populations, reference.fluid.populations, rtol=0, atol=1e-7)


def test_runs_end_for_the_same_reasons() -> None:
    outside = Scene(_fluid(), {"circle": RigidBody.circle(4.0, 16.0, 8)}, device="warp:cpu")
    assert outside.advance(1).outcome == "left_domain"
    leaving = Scene(_fluid(), {"fin": _filament(36.0)}, device="warp:cpu")
    away = np.stack([36.0 + 0.2 * np.arange(40), np.full(40, 16.5), np.ones(40), np.zeros(40)], axis=1)
    assert leaving.advance(40, {"fin": Drive(away, np.zeros(40))}).outcome == "left_domain"
    jumping = Scene(_fluid(), {"fin": _filament(24.0)}, device="warp:cpu")
    away[:, 0] = 25.0
    assert jumping.advance(40, {"fin": Drive(away, np.zeros(40))}).outcome == "displacement"


def test_a_device_that_cannot_serve_is_refused() -> None:
    with pytest.raises(ConfigError, match='"auto", "cuda", or "cuda:0" and so on; got \'gpu\''):
        Scene(_fluid(), device="gpu")
    with pytest.raises(ConfigError, match="of that number, but this process sees"):
        Scene(_fluid(), device="cuda:99")
    with pytest.raises(ConfigError, match="needs a fluid in float32, got float64"):
        Scene(Fluid(20, 20, 0.1, _SPEED, dtype=np.float64), device="warp:cpu")


def test_an_environment_on_the_device_steps_and_renders_like_one_on_the_cpu(flows: Path, tmp_path: Path) -> None:
    pool = {"fidelity": "smoke", "render_mode": "rgb_array", "cache_directory": flows}
    mine, theirs = FinRay(**pool), FinRay(**pool, device="warp:cpu")
    for env in (mine, theirs):
        env.reset(seed=3)
    for action in (np.full(1, 0.3), np.full(1, -0.5)):
        (observation, reward, *_), (other, other_reward, *_) = mine.step(action), theirs.step(action)
        np.testing.assert_allclose(other, observation, rtol=0, atol=1e-4)
        assert other_reward == pytest.approx(reward, abs=1e-4)
    assert np.mean(mine.render() != theirs.render()) < 0.01
    theirs.snapshot(tmp_path)
    with pytest.raises(StorageError, match="the same options"):
        mine.restore(tmp_path)


def test_a_small_grid_stays_on_the_cpu_by_itself() -> None:
    assert Scene(_fluid(), device="auto").device == "cpu"


def test_warp_is_not_imported_for_the_cpu() -> None:
    code = (
        "import sys; from distrl.envs.fluids.fin_case import FinCase; FinCase().scene(); print('warp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_flow_uniform_along_a_periodic_channel_stays_so() -> None:
    """Between slip sides too, whose corners reflect what comes in through the periodic edge."""
    for sides in ("slip", "no_slip"):
        fluid = _fluid()
        fluid.rates[:] = fluid.rates[:, 24:25]  # no sponge
        y = np.arange(34.0)
        fluid.set_fields(*np.broadcast_arrays(np.ones((50, 1)), 0.05 * np.cos(y / 9), 0.02 * np.sin(y / 5)))
        scene = Scene(fluid, sides=sides, periodic=True)
        scene.advance(20)
        assert np.ptp(lattice.fields(fluid.populations)[1], axis=0).max() < 1e-7
