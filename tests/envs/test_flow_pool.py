"""The pool of developed flows: found again, rebuilt when damaged, built once by processes that start together."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from distrl.core.errors import StorageError
from distrl.envs.flow_pool import FlowPool, cache_directory
from distrl.envs.fluids.fin_case import FinCase
from distrl.envs.fluids.fin_flow import frequencies
from distrl.envs.fluids.fin_ray import FinRay
from distrl.envs.fluids.scene import NUM_FLOWS


@pytest.fixture(scope="module")
def flows() -> Path:
    """Where this user's flows are kept."""
    return cache_directory()


def pool(directory: Path, **options) -> FlowPool:
    """The pool of a fin ray at the smoke level."""
    return FinRay(fidelity="smoke", cache_directory=directory, **options).pool


def test_flows_are_developed_and_differ_in_phase(flows: Path) -> None:
    states = [pool(flows).flow(i) for i in range(NUM_FLOWS)]
    phases = sorted(s["scalars"][0] for s in states)
    assert np.diff(phases).min() > 0.3
    for state in states:
        thrust, power = state["cycle"][0, 0], state["cycle"][0, 2] + state["cycle"][0, 3]
        assert -0.8 < thrust < -0.2  # a passive fin drags
        assert 3 < power < 5
        assert state["activation"][0] == 0


def test_with_a_random_frequency_the_flows_span_the_range(flows: Path) -> None:
    case = FinCase(fidelity="smoke", random_frequency=True)
    wide = pool(flows, random_frequency=True)
    rates = [wide.flow(i)["scalars"][1] / case.angular_rate(1.0) for i in range(NUM_FLOWS)]
    assert rates == pytest.approx(list(frequencies(case)))
    assert wide.path != pool(flows).path


@pytest.mark.parametrize("damage", ["a flipped byte", "an interrupted write", "garbage", "nothing"])
def test_a_damaged_pool_is_built_again(tmp_path: Path, damage: str) -> None:
    """The same flow comes out, and the file on disk is whole again."""
    wanted = pool(tmp_path).flow(3)
    path = pool(tmp_path).path
    whole = path.read_bytes()
    path.write_bytes({
        "a flipped byte": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
        "an interrupted write": whole[: len(whole) // 3],
        "garbage": b"\xff\xfe not a pool",
        "nothing": b"",
    }[damage])  # fmt: skip
    states = [pool(tmp_path).flow(i) for i in range(NUM_FLOWS)]
    for name, array in wanted.items():
        np.testing.assert_array_equal(states[3][name], array)
    assert path.read_bytes() == whole


def _reset(directory: Path, counter: Path) -> None:
    build = FlowPool._build

    def counted(*arguments) -> None:
        with counter.open("a") as file:
            file.write("built\n")
        build(*arguments)

    FlowPool._build = counted
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
        pool(tmp_path / "file" / "cache").flow(0)
