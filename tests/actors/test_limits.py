"""What counts as a hang or as out of memory, and which cores and threads an environment gets."""

from __future__ import annotations

import math
import os
import timeit

import numpy as np
import pytest

from distrl.actors import hang_limit
from distrl.actors.hang_limit import HangLimit
from distrl.actors.out_of_memory import OutOfMemory, counter_files
from distrl.actors.process_pool import ProcessPool
from distrl.core.errors import ConfigError
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.light_process import light_environment
from tests.fakes.pools import Driver


def test_the_limit_follows_the_p99_of_the_steps():
    times = np.random.default_rng(0).lognormal(math.log(2.0), 1.0, 2000)
    limit = HangLimit(20.0)
    for k, wall_s in enumerate(times[:49]):
        limit.add(wall_s)
        assert limit.limit_s == math.inf, k
    for wall_s in times[49:]:
        limit.add(wall_s)
    p99 = np.quantile(times, 0.99)
    assert 0.9 * p99 < limit.p99_s < 1.15 * p99
    assert limit.limit_s == pytest.approx(20.0 * limit.p99_s)


def test_no_limit_is_below_the_floor():
    limit = HangLimit(20.0)
    for wall_s in [0.0, 1e-9, *[0.01] * 100]:
        limit.add(wall_s)
    assert limit.limit_s == hang_limit.FLOOR_S


def test_a_step_is_added_in_no_time():
    limit = HangLimit(20.0)
    assert min(timeit.repeat(lambda: limit.add(0.5), number=10_000, repeat=5)) / 10_000 < 20e-6  # 0.5 µs when idle


def test_a_step_that_takes_far_longer_than_the_others_is_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(hang_limit, "FLOOR_S", 0.5)
    (tmp_path / "marks").mkdir()
    recipe = EnvRecipe("tests.fakes.environments:Continuable", {"marks": str(tmp_path / "marks"), "length": 1000})
    pool = ProcessPool(recipe, 1, TrainingSeeds(0), scratch_dir=str(tmp_path), hang_factor=10.0)
    try:
        (tmp_path / "marks" / "step").write_text("200 hang")
        driver = Driver(pool)
        driver.until(lambda: driver.faults)
        assert driver.num_steps == 200
        assert driver.faults[0].kind == "hang"
        assert "step must return within 0.5 s (hang_factor 10; 99 % of its steps took <" in driver.faults[0].message
    finally:
        pool.close()


def test_the_kernel_s_counter_tells_who_ran_out_of_memory(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 4\n")
    watch = OutOfMemory([str(events)])
    assert not watch.killed_lately(100.0)
    events.write_text("low 0\noom 7\noom_kill 5\n")
    assert watch.killed_lately(101.0)
    assert watch.killed_lately(102.0)  # another process of the same shortage
    assert not watch.killed_lately(200.0)
    for path in counter_files():
        assert os.path.exists(path)


def introspect(tmp_path, num_envs, **options):
    recipe = EnvRecipe("tests.fakes.environments:Introspective")
    pool = ProcessPool(recipe, num_envs, TrainingSeeds(0), scratch_dir=str(tmp_path), **options)
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.streams) == num_envs)
        return [driver.streams[row][0].info for row in range(num_envs)]
    finally:
        pool.close()


def test_threads_follow_the_cores(tmp_path):
    assert [info["omp"] for info in introspect(tmp_path, 1, cores=4.0)] == ["4"]
    assert [info["omp"] for info in introspect(tmp_path, 1, cores=0.5)] == ["1"]


def test_rows_are_pinned_to_their_cores(tmp_path):
    usable = sorted(os.sched_getaffinity(0))
    last = len(usable) - 1
    infos = introspect(tmp_path, 2, pin=[0, last])
    assert [info["cores"] for info in infos] == [str(usable[0]), str(usable[last])]
    assert sorted(os.sched_getaffinity(0)) == usable


@pytest.mark.parametrize("pin", [[0], [-1, 0], [0, 10_000]])
def test_cores_that_are_not_there_are_refused(pin, tmp_path):
    with pytest.raises(ConfigError, match="pinning 2 environments to 2 cores each"):
        introspect(tmp_path, 2, cores=1.5, pin=pin)


def test_a_job_s_variables_stay_outside_and_an_installation_s_come_in(monkeypatch):
    for name in ("SLURM_JOB_ID", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PRTE_MCA_x", "PALS_RANKID", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    kept = light_environment(threads=3)
    assert not any(name.startswith(("SLURM_", "PMI_", "OMPI_COMM", "PRTE_", "PALS_", "RAY_")) for name in kept)
    assert kept["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    assert kept["OMP_NUM_THREADS"] == kept["MKL_NUM_THREADS"] == "3"
