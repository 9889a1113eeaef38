"""Environment processes are light, and whoever is killed, within two seconds nothing is left that they had started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.light_process import kill_tree, tree_pids
from tests.fakes.pools import Driver, alive, wait_for

GRANDCHILDREN = EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "grandchildren"})
PER_ENV = 4  # the process and its three sleeps


def tree_of(pool):
    return f"DISTRL_TREE={pool.tree}".encode()


def whole_tree(marker, num_envs):
    """The pids once all are there and stay (a shell in between takes a moment to leave)."""
    seen: list[set[int]] = [set()]

    def settled():
        seen.append(set(tree_pids(marker)))
        time.sleep(0.05)
        return len(seen[-1]) == 1 + num_envs * PER_ENV and seen[-1] == seen[-2]

    assert wait_for(settled, 5.0)
    return seen[-1]


def introspect(recipe, tmp_path, num_envs=2, **options):
    pool = ProcessPool(recipe, num_envs, TrainingSeeds(0), scratch_dir=str(tmp_path), **options)
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.streams) == num_envs)
        return [stream[0].info for stream in driver.streams.values()]
    finally:
        pool.close()


def test_environment_process_is_light(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "OMPI_COMM_WORLD_RANK", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "1")
    niceness = os.nice(0)
    infos = introspect(EnvRecipe("tests.fakes.environments:Introspective"), tmp_path, nice=3)
    for info in infos:
        assert info["heavy"] == ""
        assert info["ray_variables"] == ""
        assert info["threads"] == 1
        assert info["omp"] == "1"
        assert info["nice"] == min(19, niceness + 3)
    assert infos[0]["random"] != infos[1]["random"]


def test_no_fork_after_the_preload_left_threads(tmp_path):
    infos = introspect(EnvRecipe("tests.fakes.threads_on_import:Threaded"), tmp_path)
    assert [info["threads"] for info in infos] == [2, 2]  # its own, started after the fork


def test_memory_and_start(tmp_path):
    begin = time.monotonic()
    recipe = EnvRecipe("Pendulum-v1", delay={"kind": "lognormal", "median_s": 0.05, "sigma": 1.0})
    pool = ProcessPool(recipe, 16, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        driver = Driver(pool)
        driver.until(lambda: len(driver.requested) + len(driver.streams) >= 16 and (pool.pids() > 0).all())
        assert time.monotonic() - begin < 5.0  # 0.25 s on an idle machine; others may use this one
        driver.run(32)
        for pid in pool.pids():
            with open(f"/proc/{pid}/smaps_rollup") as file:
                pss_kb = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            assert pss_kb < 28_000
    finally:
        pool.close()


def test_close_leaves_nothing(tmp_path):
    pool = ProcessPool(GRANDCHILDREN, 3, TrainingSeeds(0), scratch_dir=str(tmp_path))
    driver = Driver(pool)
    driver.run(10)
    pids = whole_tree(tree_of(pool), 3)
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 3.0
    assert not any(map(alive, pids))
    assert not list(tmp_path.iterdir())


def test_killed_environment_process_takes_its_descendants(tmp_path):
    pool = ProcessPool(GRANDCHILDREN, 2, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        Driver(pool).run(10)
        before = whole_tree(tree_of(pool), 2)
        os.kill(int(pool.pids()[0]), signal.SIGKILL)
        # without a recv the pool restarts nothing: what is left is the server and the other environment's tree
        assert wait_for(lambda: len(set(tree_pids(tree_of(pool))) & before) == 1 + PER_ENV, 2.0)
    finally:
        pool.close()


OWNER = """
    import sys, time
    import numpy as np
    from distrl.actors.process_pool import ProcessPool
    from distrl.core.seeds import TrainingSeeds
    from distrl.core.types import EnvRecipe
    recipe = EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "grandchildren"})
    pool = ProcessPool(recipe, 2, TrainingSeeds(0), scratch_dir=sys.argv[1])
    seen = 0
    while seen < 10:
        outcomes, requests, _ = pool.recv(1.0)
        pool.send(np.zeros((len(requests.rows), 1), np.float32), requests.rows)
        seen += len(outcomes.rows)
    print(pool.tree, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["time.sleep(1000)", "raise SystemExit(0)", "1 / 0"])
def test_owner_that_dies_leaves_nothing(end, tmp_path):
    code = textwrap.dedent(OWNER).replace("{end}", end)
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert owner.stdout is not None
        tree = owner.stdout.readline().strip()
        assert tree
        marker = f"DISTRL_TREE={tree}".encode()
        if "sleep" in end:
            whole_tree(marker, 2)
            owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        assert wait_for(lambda: not tree_pids(marker), 2.0)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()  # type: ignore[union-attr]


def test_terminated_fork_server_kills_its_children(tmp_path):
    pool = ProcessPool(GRANDCHILDREN, 2, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        Driver(pool).run(10)
        marker = tree_of(pool)
        os.kill(pool.fork_server_pid, signal.SIGTERM)
        assert wait_for(lambda: not tree_pids(marker), 2.0)
    finally:
        pool.close()


def test_killed_ray_actor_leaves_nothing(tmp_path):
    import ray

    class Owner:
        def start(self, scratch):
            import numpy as np

            from distrl.actors.process_pool import ProcessPool

            self.pool = ProcessPool(GRANDCHILDREN, 2, TrainingSeeds(0), scratch_dir=scratch, step_timeout_s=30)
            seen = 0
            while seen < 10:
                outcomes, requests, _ = self.pool.recv(1.0)
                self.pool.send(np.zeros((len(requests.rows), 1), np.float32), requests.rows)
                seen += len(outcomes.rows)
            return os.getpid(), self.pool.tree

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    tree = None
    try:
        actor = ray.remote(Owner).remote()
        pid, tree = ray.get(actor.start.remote(str(tmp_path)), timeout=60)
        marker = f"DISTRL_TREE={tree}".encode()
        whole_tree(marker, 2)
        os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not tree_pids(marker), 2.0)
    finally:
        ray.shutdown()
        if tree:
            kill_tree(tree)
