"""The pool of developed flows: found again, rebuilt when damaged, built once by processes that start together."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from distrl.core.errors import StorageError
from distrl.envs.fluids import flow_pool
from distrl.envs.fluids.fin_case import FinCase
from distrl.envs.fluids.fin_ray import FinRay

SMOKE = FinCase(fidelity="smoke")


def test_flows_are_developed_and_differ_in_phase(flows: Path) -> None:
    states = [flow_pool.developed_flow(SMOKE, i, flows) for i in range(flow_pool.SIZE)]
    phases = sorted(s["scalars"][0] for s in states)
    assert np.diff(phases).min() > 0.3
    for state in states:
        thrust, power = state["cycle"][0], state["cycle"][2] + state["cycle"][3]
        assert -0.8 < thrust < -0.2  # a passive fin drags
        assert 3 < power < 5
        assert state["scalars"][2] == 0


def test_with_a_random_frequency_the_flows_span_the_range(flows: Path) -> None:
    case = FinCase(fidelity="smoke", random_frequency=True)
    rates = [
        flow_pool.developed_flow(case, i, flows)["scalars"][1] / case.angular_rate(1.0) for i in range(flow_pool.SIZE)
    ]
    assert rates == pytest.approx(list(flow_pool.frequencies(case)))
    assert flow_pool.pool_path(case, flows) != flow_pool.pool_path(SMOKE, flows)


@pytest.mark.parametrize("damage", ["a flipped byte", "an interrupted write", "garbage", "nothing"])
def test_a_damaged_pool_is_built_again(tmp_path: Path, damage: str) -> None:
    """The same flow comes out, and the file on disk is whole again."""
    wanted = flow_pool.developed_flow(SMOKE, 3, tmp_path)
    path = flow_pool.pool_path(SMOKE, tmp_path)
    whole = path.read_bytes()
    path.write_bytes({
        "a flipped byte": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
        "an interrupted write": whole[: len(whole) // 3],
        "garbage": b"\xff\xfe not a pool",
        "nothing": b"",
    }[damage])  # fmt: skip
    states = [flow_pool.developed_flow(SMOKE, i, tmp_path) for i in range(flow_pool.SIZE)]
    for name, array in wanted.items():
        np.testing.assert_array_equal(states[3][name], array)
    assert path.read_bytes() == whole


def _reset(directory: Path, counter: Path) -> None:
    build = flow_pool._build

    def counted(*arguments) -> None:
        with counter.open("a") as file:
            file.write("built\n")
        build(*arguments)

    flow_pool._build = counted
    FinRay(fidelity="smoke", cache_directory=directory).reset(seed=os.getpid())


def test_processes_that_start_together_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_reset, args=(tmp_path, tmp_path / "count")) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert (tmp_path / "count").read_text() == "built\n"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        flow_pool.developed_flow(SMOKE, 0, tmp_path / "file" / "cache")
