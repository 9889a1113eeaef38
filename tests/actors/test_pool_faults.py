"""A bad environment costs its own episode only, is named in one sentence, and stops the run only if none is left."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.actors.recovery import MAX_FAILURES
from distrl.actors.shared_rows import SharedRows, read_counters, read_produced
from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.core.seeds import FixedSeeds, TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.light_process import tree_pids
from tests.fakes.pools import Driver, alive, wait_for

BAD = "tests.fakes.environments:Misbehaving"


def make_pool(kind, kwargs, tmp_path, seeds, num_envs=2, step_timeout_s=10.0):
    recipe = EnvRecipe(BAD, kwargs)
    if kind == "inline":
        return InlinePool(recipe, num_envs, seeds)
    return ProcessPool(recipe, num_envs, seeds, scratch_dir=str(tmp_path), step_timeout_s=step_timeout_s)


def timeout_for(mode):
    """Short only where a hang is awaited: on a busy machine any process may stand still for a while."""
    return 0.5 if mode.startswith("hang") else 10.0


# Environment 0 runs seeds 2, 4, … (bad with modulus 2) and environment 1 odd ones (good).
ONE_BAD = FixedSeeds((2, 3, 4, 5), 2)

CASES = {
    "raise": ("divergence", "step raised FloatingPointError: the pressure solver diverged", "environments.py:"),
    "sys_exit": ("error", "step raised SystemExit: 3", "environments.py:"),
    "memory": ("memory", "step raised MemoryError: the mesh", "environments.py:"),
    "disk": ("disk", "step raised OSError: [Errno 28] No space left on device", "environments.py:"),
    "exit": ("crash", "exit code 9", ""),
    "kill": ("crash", "signal 9, SIGKILL", ""),
    "segv": ("crash", "signal 11, SIGSEGV", ""),
    "hang": ("hang", "step must return within 0.5 s", ""),
    "nan": ("divergence", "step must return an observation with finite numbers; it returned nan at flat index 1", ""),
    "shape": ("protocol", "shape (2,); it returned shape (2, 1)", ""),
    "dtype": ("protocol", "dtype float32; it returned dtype <U1", ""),
    "none": ("protocol", "it returned shape ()", ""),
    "reward_nan": ("divergence", "step must return a finite reward; it returned nan", ""),
    "reward_array": ("protocol", "step must return a real number as reward; it returned an array of shape (1,)", ""),
    "reward_none": ("protocol", "step must return a real number as reward; it returned None", ""),
    "flag": ("protocol", "step must return a bool as terminated; it returned 1 of type int", ""),
    "info": ("protocol", "step must return a dict as info", ""),
    "short": ("protocol", "it returned a tuple of 4", ""),
}
NOT_INLINE = ("exit", "kill", "segv", "hang")  # would end or block the test itself


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("process", mode) for mode in CASES] + [("inline", mode) for mode in CASES if mode not in NOT_INLINE],
)
def test_step_faults(kind, mode, tmp_path):
    fault_kind, text, place = CASES[mode]
    kwargs = {"mode": mode, "after": 3, "bad_modulus": 2}
    pool = make_pool(kind, kwargs, tmp_path, ONE_BAD, step_timeout_s=timeout_for(mode))
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.faults) >= 2)
        assert {fault.row for fault in driver.faults} == {0}
        fault = driver.faults[0]
        assert (fault.kind, fault.cut) == (fault_kind, True)
        assert text in fault.message
        assert place in fault.message
        # two good steps an episode were delivered before each fault, and the row came back with new episodes
        uids = [t.uid for t in driver.streams[0]]
        assert uids[:4] == [0, 0, 1, 1]
        assert pool.stats().process_starts >= 3
        # the good environment was never disturbed: one process, gapless
        steps = [t.step for t in driver.streams[1]]
        assert steps == [k % 50 for k in range(len(steps))]
        before = len(steps)
        driver.until(lambda: len(driver.streams[1]) > before + 20)
        assert pool.stats().produced - driver.num_steps in range(3)
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("mode", "kind", "text"),
    [
        ("raise_reset", "error", "reset raised ValueError: the restart file is empty"),
        ("hang_reset", "hang", "reset must return within 0.5 s"),
        ("shape_reset", "protocol", "reset must return an observation with shape (2,); it returned shape (3,)"),
        ("no_info", "protocol", "reset must return (observation, info dict)"),
    ],
)
def test_row_that_always_fails_in_reset_is_quarantined(mode, kind, text, tmp_path):
    pool = make_pool("process", {"mode": mode, "bad_modulus": 2}, tmp_path, ONE_BAD, step_timeout_s=timeout_for(mode))
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.faults) >= MAX_FAILURES)
        assert {(fault.row, fault.kind, fault.cut) for fault in driver.faults} == {(0, kind, False)}
        assert text in driver.faults[0].message
        assert "not started again" in driver.faults[-1].message
        before = len(driver.streams[1])
        driver.until(lambda: len(driver.streams[1]) > before + 50)
        assert len(driver.faults) == MAX_FAILURES
        assert not driver.streams[0]
    finally:
        pool.close()


@pytest.mark.parametrize("kind", ["process", "inline"])
@pytest.mark.parametrize("mode", ["raise_reset", "nan"])
def test_environment_that_only_fails_stops_the_pool(kind, mode, tmp_path):
    pool = make_pool(kind, {"mode": mode}, tmp_path, TrainingSeeds(0))
    try:
        driver = Driver(pool)
        with pytest.raises(
            EnvironmentFault, match=r"environment \d .*Misbehaving\): (reset raised|step must)"
        ) as caught:
            driver.until(lambda: False)
        assert caught.value.kind == driver.faults[-1].kind
        assert len(driver.faults) == 2 * MAX_FAILURES
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        (
            {"mode": "raise_init"},
            EnvironmentFault,
            "constructor raised RuntimeError: no licence for the mesh generator",
        ),
        ({"mode": "exit_init"}, EnvironmentFault, "ended by itself .exit code 7"),
        ({"mod": "raise"}, (EnvironmentFault, ConfigError), "takes no 'mod'; nearest: 'mode'"),
    ],
)
def test_constructor_that_fails_everywhere(kwargs, error, text, tmp_path):
    with pytest.raises(error, match=text):
        make_pool("process", kwargs, tmp_path, TrainingSeeds(0), num_envs=4)
    assert not list(tmp_path.iterdir())


def test_inline_constructor_fault(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"RuntimeError: no licence .*environments\.py:\d+"):
        make_pool("inline", {"mode": "raise_init"}, tmp_path, TrainingSeeds(0))


def test_module_that_ends_its_process_on_import(tmp_path):
    recipe = EnvRecipe("tests.fakes.exits_on_import:Nothing")
    with pytest.raises(EnvironmentFault, match="exit code 5"):
        ProcessPool(recipe, 2, TrainingSeeds(0), scratch_dir=str(tmp_path))


def test_unwritable_scratch_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="must be writable"):
        ProcessPool(EnvRecipe(BAD), 2, TrainingSeeds(0), scratch_dir=str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError, match="no scratch file"):
        read_counters(str(tmp_path / "file"))


def test_killed_environment_process_comes_back_with_a_new_episode(tmp_path):
    seeds = TrainingSeeds(0)
    pool = ProcessPool(EnvRecipe("Pendulum-v1"), 2, seeds, scratch_dir=str(tmp_path))
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.streams[0]) > 20)  # inside its first episode
        pid = int(pool.pids()[0])
        os.kill(pid, signal.SIGKILL)
        driver.until(lambda: driver.faults)
        seen = len(driver.streams[0])
        driver.until(lambda: len(driver.streams[0]) > seen + 5)
        assert driver.faults[0].row == 0
        assert driver.faults[0].kind == "crash"
        assert driver.faults[0].cut
        assert driver.streams[0][seen].step == 0
        assert driver.streams[0][seen].uid == seeds.episode_uid(0, 1)
        assert pool.stats().process_starts == 3
        assert pool.stats().produced - driver.num_steps in range(3)
    finally:
        pool.close()


def test_killed_fork_server_costs_the_running_episodes_only(tmp_path):
    pool = ProcessPool(EnvRecipe(BAD, {"mode": "grandchildren"}), 2, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        driver = Driver(pool)
        driver.run(20)
        tree = pool.tree
        marker = f"DISTRL_TREE={tree}".encode()
        assert wait_for(lambda: len(tree_pids(marker)) == 1 + 2 * 4, 2.0)
        old = tree_pids(marker)
        os.kill(pool.fork_server_pid, signal.SIGKILL)
        driver.until(lambda: len(driver.faults) == 2)
        assert {fault.kind for fault in driver.faults} == {"crash"}
        assert wait_for(lambda: not any(map(alive, old)), 2.0)
        before = driver.num_steps
        driver.until(lambda: driver.num_steps > before + 20)
        assert pool.stats().produced - driver.num_steps in range(3)
    finally:
        pool.close()


def test_counters_outlive_the_pool(tmp_path):
    pool = ProcessPool(EnvRecipe("Pendulum-v1"), 2, TrainingSeeds(0), scratch_dir=str(tmp_path))
    driver = Driver(pool)
    driver.run(100)
    driver.settle()
    stats, read = pool.stats(), read_counters(pool.scratch_file)
    assert read.produced >= 100
    assert read_produced(tmp_path) == read.produced
    assert read.process_starts == 2
    assert 0 < read.step_s <= read.lifetime_s <= stats.lifetime_s + 0.5
    pool.close()
    assert read_produced(tmp_path) is None
    assert read_produced(tmp_path / "none") is None
    assert pool.stats().produced >= stats.produced
    pool.close()


def test_a_step_counts_in_every_total_or_in_none_wherever_its_process_is_killed(tmp_path):
    rows = SharedRows(str(tmp_path / "pool-1"), 2)
    record = rows.records[1]
    record["level_steps"][2], record["transitions"][:] = 2, (4, 0)  # two steps of two agents each …
    record["transitions"][1] = 6  # … and of the third, which is not told yet, the total of agents' steps
    assert (rows.stats().produced, rows.stats().transitions, rows.stats().level_steps[2]) == (2, 4, 2)
    record["level_steps"][2] += 1
    assert (rows.stats().produced, rows.stats().transitions, rows.stats().level_steps[2]) == (3, 6, 3)
    rows.close()


def test_busy_counts_time_inside_step(tmp_path):
    recipe = EnvRecipe("Pendulum-v1", delay={"kind": "constant", "median_s": 0.05})
    pool = ProcessPool(recipe, 4, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        driver = Driver(pool)
        driver.run(60)
        stats = pool.stats()
        assert stats.step_s / stats.lifetime_s > 0.85  # 0.97 on an idle machine
        assert stats.core_s < 0.2 * stats.step_s
        walls = [t.wall_s for stream in driver.streams.values() for t in stream]
        assert 0.05 <= np.median(walls) < 0.07
    finally:
        pool.close()
