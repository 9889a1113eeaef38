"""An external solver is run, watched and ended; what becomes of it is an error of the right kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.envs.cfd.solver_process import SolverProcess
from distrl.envs.light_process import tree_pids
from tests.fakes.pools import wait_for


def shell(script: str, folder: Path, **options) -> SolverProcess:
    """A solver that is a shell script."""
    return SolverProcess(["sh", "-c", script], folder, **options)


def test_a_run_that_ends_well_leaves_its_files_and_its_log(tmp_path: Path) -> None:
    solver = shell("cat input > output; echo converged; echo a warning >&2", tmp_path)
    (tmp_path / "input").write_text("3")
    assert solver.run() > 0
    assert (tmp_path / "output").read_text() == "3"
    assert solver.log.read_text() == "converged\na warning\n"


CASES = {
    "exit code": ("echo the mesh is broken; exit 3", "crash", r"ended with exit code 3; .*the mesh is broken"),
    "signal": ("echo step 12; kill -SEGV $$", "crash", r"ended with signal 11, SIGSEGV; .*step 12"),
    "rank's signal": ("exit 139", "crash", "ended with signal 11, SIGSEGV"),
    "out of memory": ("kill -KILL $$", "crash", "SIGKILL .*where memory runs out"),
    "divergence": (
        "echo Floating point exception; exit 136",
        "divergence",
        "SIGFPE, because the solution had diverged",
    ),
    "full disk": ("echo fields | cat > /dev/full", "disk", "file system or quota .* is full"),
    "hang": ("echo waiting; sleep 1000", "hang", "within 0.3 s, but was killed; .*waiting"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_failure_says_what_happened_and_how_the_log_ends(case: str, tmp_path: Path) -> None:
    script, kind, sentence = CASES[case]
    solver = shell(script, tmp_path, divergence="Floating point exception")
    with pytest.raises(EnvironmentFault, match=sentence) as caught:
        solver.run(timeout_s=0.3 if kind == "hang" else 60.0)
    assert caught.value.kind == kind


def test_a_timeout_ends_all_that_it_had_started(tmp_path: Path) -> None:
    """Also what has left the process group, as MPI ranks do."""
    solver = shell("setsid sleep 1000 & sleep 1000", tmp_path, env={"TEST_RUN": str(tmp_path)})
    with pytest.raises(EnvironmentFault, match="was killed"):
        solver.run(timeout_s=0.3)
    assert not tree_pids(f"TEST_RUN={tmp_path}".encode())


def test_a_crashed_run_is_begun_again_from_what_it_had_last_written(tmp_path: Path) -> None:
    """Twice interrupted, and still every step is there once."""
    script = (
        "n=$(cat last); while [ $n -lt 6 ]; do n=$((n + 1)); echo $n > last; [ $((n % 2)) = 1 ] || kill -9 $$; done"
    )
    (tmp_path / "last").write_text("0\n")
    with pytest.raises(EnvironmentFault, match="SIGKILL"):
        shell(script, tmp_path, retries=2).run()
    assert (tmp_path / "last").read_text() == "6\n"
    shell(script, tmp_path).run()


def test_a_diverged_run_is_not_begun_again(tmp_path: Path) -> None:
    solver = shell("echo x >> runs; echo nan; exit 1", tmp_path, divergence="nan", retries=5)
    with pytest.raises(EnvironmentFault):
        solver.run()
    assert (tmp_path / "runs").read_text() == "x\n"


def test_what_cannot_run_is_refused_before_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the program 'noFoam', which is not on the PATH"):
        SolverProcess(["noFoam"], tmp_path)
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=f"on {cores + 1} MPI ranks needs as many cores"):
        shell("exit 0", tmp_path, ranks=cores + 1)


def test_a_solver_does_not_take_itself_for_a_part_of_our_own_job(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    shell("env > variables", tmp_path, env={"CASE": "cylinder"}).run()
    variables = (tmp_path / "variables").read_text()
    assert "CASE=cylinder" in variables
    assert "SLURM_JOB_ID" not in variables
    assert "OMPI_COMM_WORLD_RANK" not in variables


OWNER = """
    import sys
    from distrl.envs.cfd.solver_process import SolverProcess
    SolverProcess(sys.argv[2:], sys.argv[1], ranks={ranks}, oversubscribe=True).run()
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_solver_dies_with_the_process_that_runs_it(ranks: int, tmp_path: Path) -> None:
    if ranks > 1 and shutil.which("mpirun") is None:
        pytest.skip("needs mpirun")
    code = textwrap.dedent(OWNER).replace("{ranks}", str(ranks))
    marker = f"TEST_RUN={tmp_path}"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "sleep", "1000"],
        env=os.environ | dict([marker.split("=")]),
    )
    try:
        assert wait_for(lambda: len(tree_pids(marker.encode())) > ranks, 30.0)
        time.sleep(0.2)
        owner.send_signal(signal.SIGKILL)
        assert wait_for(lambda: not tree_pids(marker.encode()), 10.0)
    finally:
        owner.kill()
        owner.wait()
        for pid in tree_pids(marker.encode()):
            os.kill(pid, signal.SIGKILL)
