"""Episodes begin at the level that the schedule says, whoever hosts them, and end at the level they began at."""

import os
import signal

import numpy as np
import pytest

from distrl.actors import hang_limit
from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool, SnapshotPlan
from distrl.core.errors import EnvironmentFault
from distrl.core.fidelity import Stage
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import Cursor, EnvRecipe
from tests.actors.test_fragment_builder import Counting, OneVersion, Recorded
from tests.fakes.leveled import LEVELS
from tests.fakes.pools import Driver

ENV = "tests.fakes.leveled:Leveled"
MIXED = (Stage(0, {"coarse": 1.0, "fine": 1.0}),)
COARSE_THEN_FINE = (Stage(0, {"coarse": 1.0}), Stage(100, {"fine": 1.0}))


@pytest.fixture
def make(tmp_path):
    """A function that makes a pool of five-step episodes."""
    pools = []

    def build(hosting, schedule, env_steps=0, num_envs=2, life=0, length=5, kwargs=None, **options):
        recipe = EnvRecipe(ENV, {"length": length, **(kwargs or {})}, fidelity="fine")
        seeds = TrainingSeeds(0, incarnation=life, schedule=schedule)
        if hosting == "inline":
            pool = InlinePool(recipe, num_envs, seeds, env_steps)
        else:
            scratch = str(tmp_path / f"scratch-{life}")
            pool = ProcessPool(recipe, num_envs, seeds, scratch_dir=scratch, env_steps=env_steps, **options)
        pools.append(pool)
        return pool, seeds

    yield build
    for pool in pools:
        pool.close()


def level_of(reward):
    return LEVELS[round(reward / 1000)]


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_every_transition_says_at_which_level_it_was_computed(make, hosting):
    pool, seeds = make(hosting, MIXED, kwargs={"construct_s": 0.05})
    sink = Recorded()
    worker = build_env_worker(
        pool, one_policy(Counting(), OneVersion()), sink, fragment_steps=7, fragment_max_age_s=None
    )
    worker.pull()
    while worker.report()["resets"] < 16:
        worker.run_once(5.0)
    worker.finish()
    levels = {}
    for fragment in sink.fragments:
        columns = {name: column.ravel() for name, column in fragment.columns.items()}
        for uid, fidelity, reward in zip(
            columns["episode_uid"].tolist(), columns["fidelity"].tolist(), columns["reward"].tolist(), strict=True
        ):
            assert LEVELS[fidelity] == level_of(reward)
            levels.setdefault(uid, set()).add(level_of(reward))
    for uid, found in levels.items():
        assert found == {seeds.fidelity(uid >> 32 & 0xFFF, uid & 0xFFFFFFFF, 0)}
    assert set.union(*levels.values()) == {"coarse", "fine"}
    report = worker.report()
    assert sum(report["env_steps_by_fidelity"].values()) == report["produced"]
    assert sum(report["core_s_by_fidelity"].values()) == pytest.approx(report["core_s"])
    assert report["reset_s"] > 4 * 0.05  # a change of level is a part of the reset, and of no step:
    assert np.median(np.concatenate([f.columns["end_s"] - f.columns["start_s"] for f in sink.fragments])) < 0.05


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_the_next_stage_begins_with_the_next_episodes(make, hosting):
    pool, _ = make(hosting, COARSE_THEN_FINE)
    driver = Driver(pool)
    driver.until(lambda: all(len(driver.streams[row]) > 6 for row in (0, 1)))
    pool.progress(100)
    driver.until(lambda: all(len(driver.streams[row]) > 20 for row in (0, 1)))
    for stream in driver.streams.values():
        levels = [level_of(t.reward) for t in stream]
        assert levels == sorted(levels)
        assert levels.index("fine") % 5 == 0
    late, _ = make(hosting, COARSE_THEN_FINE, env_steps=100, life=1)  # a worker that joins
    driver = Driver(late)
    driver.run(4)
    assert {level_of(t.reward) for stream in driver.streams.values() for t in stream} == {"fine"}


def test_an_episode_is_continued_at_its_own_level(make, tmp_path):
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)  # one an episode, after its first step
    pool, _ = make("process", COARSE_THEN_FINE, num_envs=1, length=30, snapshots=plan)
    driver = Driver(pool)
    driver.run(8)
    driver.settle()
    pool.progress(100)
    os.kill(int(pool.pids()[0]), signal.SIGKILL)
    driver.wake()
    driver.run(40)
    assert [fault.cut for fault in driver.faults] == [False]
    assert [level_of(t.reward) for t in driver.streams[0]][:40] == ["coarse"] * 30 + ["fine"] * 10


def test_so_it_is_in_the_next_life_of_its_env_worker(make, tmp_path):
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)
    old, _ = make("process", COARSE_THEN_FINE, num_envs=1, length=30, snapshots=plan)
    driver = Driver(old)
    driver.run(8)
    driver.settle()
    cursors = {0: Cursor(driver.streams[0][7].uid, 7)}
    pool, _ = make(
        "process", COARSE_THEN_FINE, env_steps=100, num_envs=1, life=1, length=30, snapshots=plan, cursors=cursors
    )
    sink = Recorded()
    worker = build_env_worker(
        pool, one_policy(Counting(), OneVersion()), sink, fragment_steps=50, fragment_max_age_s=None
    )
    worker.pull()
    while worker.report()["produced"] < 25:
        worker.run_once(5.0)
    worker.finish()
    columns = {name: np.concatenate([f.columns[name][:, 0] for f in sink.fragments]) for name in ("step", "fidelity")}
    assert columns["step"][:25].tolist() == [*range(8, 30), 0, 1, 2]
    assert columns["fidelity"][:25].tolist() == [0] * 22 + [1] * 3


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_a_level_with_other_spaces_is_a_fault_not_a_wrong_observation(make, hosting):
    pool, _ = make(hosting, (Stage(0, {"coarse": 1.0}), Stage(100, {"odd": 1.0})), num_envs=1)
    pool.progress(100)
    driver = Driver(pool)
    with pytest.raises(EnvironmentFault, match="every construction must give the same spaces"):
        driver.until(lambda: False)
    assert driver.faults[0].kind == "protocol"


def test_what_is_a_hang_is_learned_at_each_level(make, monkeypatch):
    monkeypatch.setattr(hang_limit, "FLOOR_S", 0.5)
    kwargs = {"fine_step_s": 0.6, "construct_s": 1.1}  # a constructor may take longer than a step, also within a reset
    pool, _ = make("process", COARSE_THEN_FINE, num_envs=1, kwargs=kwargs, hang_factor=4.0, step_timeout_s=1.0)
    driver = Driver(pool)
    driver.run(60)
    pool.progress(100)
    driver.until(lambda: sum(level_of(t.reward) == "fine" for t in driver.streams[0]) == 2)
    assert not driver.faults
