"""One scene on several cores: the same bits as on one, whatever its edges and bodies; and what ends a run ends it."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Drive, Filament, Motion, RigidBody
from distrl.envs.fluids.cylinder_jets import CylinderJets
from distrl.envs.fluids.cylinder_rotation import CylinderRotation
from distrl.envs.fluids.fin_ray import FinRay
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.pinball import Pinball
from distrl.envs.fluids.scene import Scene
from distrl.envs.fluids.tandem_fins import TandemFins

_STEPS = 40

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a team needs two cores")


def _bodies() -> dict[str, RigidBody | Filament]:
    fin = Filament.straight(make_beam(10, 5.0, 2.5, profile=np.linspace(1, 0, 10) / 10), 28.0, 16.5, 0.1)
    return {"cylinder": RigidBody.circle(17.2, 16.4, 8), "fin": fin}


def _scene(threads: int, bodies: bool = True, **edges) -> Scene:
    fluid = Fluid(48, 32, 0.02, 0.05, sponge=graded_sponge(48, 8, 12))
    x, y = np.meshgrid(np.arange(50.0), np.arange(34.0), indexing="ij")
    wave = 0.02 * np.sin(2 * np.pi * (x - 0.5) / 48) * np.cos(2 * np.pi * (y - 0.5) / 32)
    fluid.set_fields(1 + 0.1 * wave, 0.05 + wave, 0.5 * wave)
    return Scene(fluid, _bodies() if bodies else {}, threads=threads, **edges)


@pytest.mark.parametrize("bodies", [True, False])
@pytest.mark.parametrize(
    ("sides", "periodic", "push"),
    [
        ("slip", False, 0.0),
        ("no_slip", False, 1e-6),
        ("slip", True, 0.0),
        ("no_slip", True, 1e-6),
        ("periodic", True, 0),
    ],
)
def test_two_threads_compute_the_same_bits_as_one(sides: str, periodic: bool, push: float, bodies: bool) -> None:
    alone, shared = (_scene(threads, bodies, sides=sides, periodic=periodic) for threads in (1, 2))
    for run in range(5):  # between runs the rows are shared out anew
        motions: dict[str, Motion | Drive] = {"cylinder": Motion(17.2, 16.4, spin=0.002 * run)} if bodies else {}
        loads = [scene.advance(_STEPS, motions, push=push) for scene in (alone, shared)]
        assert loads[0].outcome == loads[1].outcome == "fine"
        for name, force in loads[0].forces.items():
            assert np.array_equal(loads[1].forces[name], force)
        assert loads[0].work == loads[1].work
    for name, array in alone.state().items():
        assert np.array_equal(shared.state()[name], array), name


def test_a_body_whose_forces_reach_the_side_is_computed_alike() -> None:
    """Its cells and the edge's belong to different threads."""
    states = []
    for threads in (1, 2):
        fluid = Fluid(48, 32, 0.02, 0.05)
        scene = Scene(fluid, {"cylinder": RigidBody.circle(24.0, 5.6, 8)}, sides="no_slip", threads=threads)
        for _ in range(5):
            assert scene.advance(_STEPS).outcome == "fine"
        states.append(scene.state()["populations"])
    assert np.array_equal(*states)


def test_what_ends_a_run_ends_it_for_all_threads() -> None:
    scene = Scene(Fluid(48, 32, 0.02, 0.05), {"cylinder": RigidBody.circle(4.0, 16.0, 8)}, threads=2)
    assert scene.advance(_STEPS).outcome == "left_domain"


def test_an_interrupt_of_one_thread_lets_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from distrl.envs.fluids import coupling

    scene, kernel = _scene(2), coupling.advance

    def interrupted(board, me, *rest):
        if me == 0:
            raise KeyboardInterrupt
        return kernel(board, me, *rest)

    monkeypatch.setattr(coupling, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scene.advance(_STEPS)
    monkeypatch.undo()
    assert scene.advance(1).outcome == "fine", "its threads are free again"


@pytest.mark.parametrize("make", [FinRay, TandemFins, CylinderRotation, CylinderJets, Pinball])
def test_every_environment_on_the_lattice_takes_threads(make) -> None:
    flows = [make(fidelity="smoke", threads=threads).flow for threads in (1, 2)]
    for flow in flows:
        flow.advance(np.full(1 if make is FinRay else 2 if make is TandemFins else flow.case.num_controls, 0.1))
    assert np.array_equal(*(flow.fluid.populations for flow in flows))


def test_a_snapshot_taken_on_one_core_is_continued_on_two(flows: Path, tmp_path: Path) -> None:
    alone, shared = (FinRay("smoke", cache_directory=flows, threads=threads) for threads in (1, 2))
    alone.reset(seed=3)
    alone.snapshot(tmp_path)
    shared.restore(tmp_path)
    action = np.array([0.7], np.float32)
    assert np.array_equal(alone.step(action)[0], shared.step(action)[0])


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"threads between 1 and the cores .*, got 4096: use fewer, or give"):
        _scene(4096)
    for threads in (0, True):
        with pytest.raises(ConfigError, match=f"threads to be a whole number >= 1, got {threads}"):
            _scene(threads)


def test_no_thread_is_there_before_the_first_run() -> None:
    """Environments are constructed where processes are forked from; a forked process has none of its parent's
    threads."""
    gc.collect()  # with a scene its threads go
    before = threading.active_count()
    scene = _scene(2)
    assert threading.active_count() == before
    scene.advance(1)
    assert threading.active_count() == before + 1


def test_an_idle_team_lets_its_process_end() -> None:
    code = "from tests.envs.fluids.test_team import _scene; _scene(2).advance(1); print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
