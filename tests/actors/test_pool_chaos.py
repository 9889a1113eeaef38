"""Environment processes are killed at random moments: what they had counted is exactly what the pool has given out."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from tests.fakes.environments import scripted_episode
from tests.fakes.pools import Driver, alive


@pytest.mark.parametrize("seed", [0, 1])
def test_no_finished_step_is_lost_or_given_twice(seed, tmp_path):
    random = np.random.default_rng(seed)
    seeds = TrainingSeeds(seed)
    recipe = EnvRecipe("tests.fakes.environments:Scripted")
    pool = ProcessPool(recipe, 4, seeds, scratch_dir=str(tmp_path), step_timeout_s=10.0)
    try:
        driver = Driver(pool)
        driver.run(100)
        killed = set()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            for _ in range(int(random.integers(1, 60))):
                driver.turn()
            pid = int(random.choice(pool.pids()))
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(float(random.uniform(0, 0.003)))
        driver.until(lambda: pool.pids().all())
        driver.settle()
        assert pool.stats().produced == driver.num_steps
        assert len(killed) > 20
        assert len(driver.faults) == len(killed)
        assert {fault.kind for fault in driver.faults} == {"crash"}
        keys = [(t.uid, t.step) for stream in driver.streams.values() for t in stream]
        assert len(keys) == len(set(keys))
        for stream in driver.streams.values():
            for t in stream:
                assert t.observation["array"][:2].tolist() == [t.seed % 1000, t.step]
                assert t.reward == np.float32(100 * (t.seed % 10) + t.step + 1 + float(t.action[0]))
                assert (t.info is not None) == (t.step + 1 == scripted_episode(t.seed)[0])
    finally:
        pool.close()


def test_halt_keeps_what_had_finished_and_abandons_the_rest(tmp_path):
    recipe = EnvRecipe("Pendulum-v1", delay={"kind": "lognormal", "median_s": 0.01, "sigma": 1.0})
    pool = ProcessPool(recipe, 4, TrainingSeeds(0), scratch_dir=str(tmp_path))
    try:
        driver = Driver(pool)
        driver.run(50)
        time.sleep(0.02)  # some have finished by now and wait to be heard, some still compute
        outcomes, _ = pool.halt()
        assert pool.stats().produced == driver.num_steps + len(outcomes.rows)
        assert len(set(outcomes.rows.tolist())) == len(outcomes.rows)
    finally:
        pool.close()
