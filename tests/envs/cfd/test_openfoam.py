"""The cylinder in OpenFOAM, really run: loads, failures, MPI ranks, and nothing that is left behind.

What it shares with every environment of distrl (seeds, snapshots, other processes) is in tests/envs/test_suite.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs.cfd import cylinder_case, developed_flow, openfoam
from distrl.envs.cfd.cylinder_flow import CylinderFlow
from distrl.envs.cfd.openfoam import OpenFOAMCylinder
from distrl.envs.cfd.solver_process import SolverProcess
from distrl.envs.describe import describe
from distrl.envs.resolve import list_envs
from tests.fakes.pools import wait_for

ID = "distrl/OpenFOAMCylinder-v0"


@pytest.fixture
def make(flows: Path, tmp_path: Path) -> Iterator:
    """A function that makes an environment."""
    made = []

    def build(**options) -> OpenFOAMCylinder:
        folder = tmp_path / "work"
        made.append(OpenFOAMCylinder(fidelity="smoke", directory=folder, cache_directory=flows, **options))
        return made[-1]

    yield build
    for env in made:
        env.close()
    assert not [path for path in (tmp_path / "work").iterdir() if path.is_dir()]


@pytest.mark.parametrize("fidelity", cylinder_case.FIDELITIES)
def test_every_mesh_is_sound(fidelity: str, openfoam: None, tmp_path: Path) -> None:
    CylinderFlow(tmp_path, cylinder_case.FIDELITIES[fidelity])
    checked = SolverProcess(["checkMesh"], tmp_path, env={"WM_PROJECT_DIR": "/usr/share/openfoam"})
    checked.run()
    assert "Mesh OK." in checked.log.read_text()


def test_rotation_makes_lift_across_the_flow(make) -> None:
    """Anticlockwise rotation slows the fluid above the cylinder, so that pressure pushes it down (Magnus)."""
    env = make()
    lift = {}
    for rotation in (1.0, 0.0, -1.0):
        observation, info = env.reset(seed=4)
        assert observation.shape == (len(openfoam.OBSERVATION_NAMES),)
        for _ in range(3):
            observation, reward, terminated, _, info = env.step(np.array([rotation], np.float32))
        assert not terminated
        assert 2.5 < info["C_D"] < 4.0
        assert (info["C_P"] > 0.1) == (rotation != 0)
        prices = openfoam.LIFT_PRICE * abs(info["C_L"]) + openfoam.POWER_PRICE * info["C_P"]
        assert reward == pytest.approx(-observation[-5] - prices, abs=1e-5)
        assert observation[-1] == rotation
        lift[rotation] = info["C_L"]
    assert lift[1.0] < lift[0.0] - 0.5 < lift[-1.0] - 1.0


def kill_first_solver() -> threading.Thread:
    """SIGKILL to the first pimpleFoam that this process starts."""

    def watch() -> None:
        while True:
            for child in psutil.Process().children():
                if child.name() == "pimpleFoam":
                    child.kill()
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_step_whose_solver_dies_is_begun_again_and_gives_the_same(make) -> None:
    env = make(retries=1)
    action = np.array([0.5], np.float32)
    env.reset(seed=0)
    undisturbed = env.step(action)
    env.reset(seed=0)
    thread = kill_first_solver()
    disturbed = env.step(action)
    thread.join(10)
    np.testing.assert_array_equal(disturbed[0], undisturbed[0])
    assert disturbed[1] == undisturbed[1]


def test_without_retries_it_is_a_crash(make) -> None:
    env = make(retries=0)
    env.reset(seed=0)
    kill_first_solver()
    with pytest.raises(EnvironmentFault, match=r"pimpleFoam .* signal 9, SIGKILL") as caught:
        env.step(np.zeros(1, np.float32))
    assert caught.value.kind == "crash"


def test_a_flow_that_blows_up_ends_the_episode(make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    env.reset(seed=0)
    monkeypatch.setattr(openfoam, "ROTATION_LIMIT", 1e6)
    _, reward, terminated, _, info = env.step(np.ones(1, np.float32))
    assert terminated
    assert reward == env.diverged_reward
    assert info["diverged"]


def test_two_ranks_compute_what_one_does_and_continue_from_a_snapshot(make, tmp_path: Path) -> None:
    one, two = make(), make(ranks=2, oversubscribe=True)
    actions = [np.array([value], np.float32) for value in (1.0, -0.5)]
    for env in (one, two):
        env.reset(seed=1)
    # as exactly as the linear solver's tolerance of 1e-5
    np.testing.assert_allclose(one.step(actions[0])[0], two.step(actions[0])[0], atol=1e-3)
    two.snapshot(tmp_path / "snapshot")
    after = two.step(actions[1])[0]
    fresh = make(ranks=2, oversubscribe=True)
    fresh.restore(tmp_path / "snapshot")
    np.testing.assert_array_equal(fresh.step(actions[1])[0], after)


OWNER = """
    import sys
    import numpy as np
    from distrl.actors.process_pool import ProcessPool
    from distrl.core.seeds import TrainingSeeds
    from distrl.core.types import EnvRecipe
    kwargs = dict(fidelity="smoke", ranks=2, oversubscribe=True, directory=sys.argv[1], cache_directory=sys.argv[2])
    pool = ProcessPool(EnvRecipe("distrl/OpenFOAMCylinder-v0", kwargs), 1, TrainingSeeds(0), scratch_dir=sys.argv[1])
    while True:
        outcomes, requests, faults = pool.recv(1.0)
        assert not faults, faults
        pool.send(np.zeros((len(requests.rows), 1), np.float32), requests.rows)
        if len(outcomes.rows):
            print("stepped", flush=True)
"""


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_RUN") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_no_solver_is_left_when_the_parent_is_killed(flows: Path, tmp_path: Path) -> None:
    """Two ranks under mpirun, in a pool's environment process; SIGKILL to the process that holds the pool."""
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path), str(flows)],
        env=os.environ | {"TEST_RUN": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "stepped\n"
        solvers = ["mpirun", "pimpleFoam", "pimpleFoam"]

        def computing() -> bool:
            with_names = [process.name() for process in marked(str(tmp_path)) if process.is_running()]
            return sorted(name for name in with_names if name in solvers) == solvers

        assert wait_for(computing, 60.0)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert wait_for(lambda: not marked(str(tmp_path)), 10.0)
    finally:
        owner.kill()
        owner.wait()


def test_damaged_flows_are_made_again(openfoam: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(developed_flow, "PUSH", ((0.0, 0.0), (0.5, 0.0)))
    monkeypatch.setattr(developed_flow, "NUM_FLOWS", 1)
    level = cylinder_case.FIDELITIES["smoke"]
    pool = developed_flow.flow_pool(level, tmp_path)
    whole = pool.flow(0)
    content = pool.path.read_bytes()
    pool.path.write_bytes(content[: len(content) // 2])
    again = pool.flow(0)
    assert again["reference"] == whole["reference"]
    np.testing.assert_array_equal(again["file:0/U"], whole["file:0/U"])


def test_without_openfoam_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run starts, and in ``distrl envs``, which lists it all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install openfoam"):
        describe(EnvRecipe(ID))
    (entry,) = [entry for entry in list_envs() if entry.id == ID]
    assert "apt-get install openfoam" in (entry.problem or "")
    assert set(entry.fidelities) == {"smoke", "default", "fine"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ranks": 0}, "ranks to be a whole number >= 1"),
        ({"ranks": 65}, "ranks between 1 and 64, got 65"),
        ({"timeout_s": 0}, "timeout_s between 1 and 1e"),
        ({"fidelity": "coarse"}, "fidelity to be one of smoke, default, fine"),
    ],
)
def test_refusals(openfoam: None, options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        OpenFOAMCylinder(**options)
