"""An environment that can be restored goes on where it was, whoever died, and every step is given out exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from distrl.actors.process_pool import ProcessPool, SnapshotPlan
from distrl.actors.recovery import MAX_FAILURES
from distrl.actors.snapshots import snapshot_steps
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import Cursor, EnvRecipe
from distrl.envs.light_process import tree_pids
from distrl.envs.resolve import make as make_env
from tests.fakes.environments import Continuable
from tests.fakes.pools import Driver, alive, wait_for

WALK = "tests.fakes.environments:Continuable"
SEEDS = TrainingSeeds(0)


@pytest.fixture
def make(tmp_path):
    """A function that makes a pool of walks with snapshots, and a driver over it."""
    pools = []

    def build(num_envs=1, plan=None, seeds=SEEDS, cursors=None, step_timeout_s=10.0, pool_options=None, **kwargs):
        (tmp_path / "marks").mkdir(exist_ok=True)
        pool = ProcessPool(
            EnvRecipe(WALK, {"marks": str(tmp_path / "marks"), **kwargs}, max_episode_steps=19),
            num_envs,
            seeds,
            scratch_dir=str(tmp_path / "scratch"),
            step_timeout_s=step_timeout_s,
            snapshots=plan or SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e9),  # after every step
            cursors=cursors,
            **(pool_options or {}),
        )
        pools.append(pool)
        return Driver(pool)

    yield build
    for pool in pools:
        marker = f"DISTRL_TREE={pool.tree}".encode()
        pool.close()
        assert not tree_pids(marker)


def mark(tmp_path, what, deed):
    """The next ``what`` (step, snapshot, restore) does this (Continuable)."""
    (tmp_path / "marks" / f".{what}").write_text(deed)
    os.rename(tmp_path / "marks" / f".{what}", tmp_path / "marks" / what)


def check(driver, first_steps=()):
    """What was given out is what was counted, nothing twice, and all of it what an undisturbed environment gives."""
    driver.settle()
    assert driver.pool.stats().produced == driver.num_steps
    for row, stream in driver.streams.items():
        replay([*first_steps, *stream] if row == 0 else stream)


def replay(stream):
    env = Continuable(length=20)
    keys = [(t.uid, t.step) for t in stream]
    assert len(keys) == len(set(keys))
    for before, t in zip([None, *stream], stream, strict=False):
        if t.step == 0:
            observation, _ = env.reset(seed=t.seed)
        else:
            assert (before.uid, before.step) == (t.uid, t.step - 1), "a step is missing"
        np.testing.assert_array_equal(t.observation["array"], observation)
        observation, reward, *_ = env.step(t.action)
        assert t.reward == np.float32(reward)
        assert t.truncated == (t.step == 18)


@pytest.mark.parametrize(
    ("deed", "kind", "text"),
    [
        ("crash", "crash", "signal 11, SIGSEGV"),
        ("error", "error", "the solver has lost its licence"),
        ("disk", "disk", "No space left"),
        ("memory", "memory", "the mesh"),
        ("hang", "hang", "step must return within 1 s (step_timeout_s)"),
    ],
)
def test_an_episode_goes_on_after_a_failed_step(deed, kind, text, make, tmp_path):
    driver = make(step_timeout_s=1.0 if deed == "hang" else 10.0)
    mark(tmp_path, "step", f"7 {deed}")
    driver.until(lambda: driver.faults)
    driver.run(60)
    check(driver)
    (fault,) = driver.faults
    assert (fault.kind, fault.cut) == (kind, False)
    assert text in fault.message
    assert "Its episode was continued at step 7" in fault.message
    assert [t.attempt for t in driver.streams[0]] == [int(k == 7) for k in range(driver.num_steps)]
    stats = driver.pool.stats()
    assert (stats.process_starts, stats.resets) == (2, 1 + (driver.num_steps - 1) // 19 + (driver.num_steps % 19 == 0))
    assert stats.recomputed == 0  # there is a snapshot after every step
    assert stats.snapshots > 0
    assert stats.snapshot_s > 0


def test_only_the_newest_snapshots_and_the_running_episode_are_kept(make, tmp_path):
    driver = make()
    driver.run(12)
    uid = driver.streams[0][0].uid
    steps = snapshot_steps(str(tmp_path / "snapshots"), 0, uid, 100)
    assert steps[0] >= 11  # on a loaded machine more have finished when it is looked at
    assert len(steps) <= 4  # two, one that is about to go, and an old one for an env worker that had committed less
    assert steps[-1] == 1


def test_steps_before_the_snapshot_cost_are_computed_again(make, tmp_path):
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)  # one snapshot an episode
    driver = make(plan=plan)
    mark(tmp_path, "step", "12 crash")
    driver.run(30)
    check(driver)
    assert driver.pool.stats().recomputed == 11
    assert "continued at step 12; 11 steps recomputed" in driver.faults[0].message


def test_a_row_that_waits_for_its_action_is_continued_too(make, tmp_path):
    driver = make(num_envs=2)
    driver.run(20)

    def has_snapshots():
        """A busy machine takes them late: they may cost a share of the steps' time only."""
        episodes = [f"env-{row}/{stream[-1].uid}" for row, stream in driver.streams.items()]
        return all(any((tmp_path / "snapshots" / episode).glob("*/state")) for episode in episodes)

    driver.until(has_snapshots)
    driver.settle()
    for pid in driver.pool.pids():
        os.kill(int(pid), signal.SIGKILL)
    driver.wake()
    driver.until(lambda: len(driver.faults) == 2)
    driver.run(60)
    check(driver)
    assert not any(fault.cut for fault in driver.faults)


def test_a_damaged_snapshot_gives_way_to_an_older_one(make, tmp_path):
    driver = make()
    mark(tmp_path, "restore", "error")
    mark(tmp_path, "step", "9 crash")
    driver.until(lambda: len(driver.faults) == 2)
    driver.run(40)
    check(driver)
    assert [(fault.kind, fault.cut) for fault in driver.faults] == [("crash", False), ("error", False)]
    assert "restore raised RuntimeError" in driver.faults[1].message
    assert "continued at step 9" in driver.faults[1].message


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_bytes_that_are_wrong_are_not_believed(damage, make, tmp_path):
    driver = make(step_s=0.05)
    driver.run(9)
    driver.settle()
    episode = tmp_path / "snapshots" / "env-0" / str(driver.streams[0][-1].uid)
    for state in episode.glob("*/state"):
        blob = bytearray(state.read_bytes())
        blob[40] ^= 1
        state.write_bytes(blob if damage == "flip" else blob[:40])
    os.kill(int(driver.pool.pids()[0]), signal.SIGKILL)
    driver.wake()
    driver.until(lambda: any(fault.cut for fault in driver.faults))
    driver.run(30)
    assert "is damaged" in driver.faults[-1].message
    assert driver.pool.stats().recomputed == 0
    uids = list(dict.fromkeys(t.uid for t in driver.streams[0]))
    assert uids[1] == SEEDS.episode_uid(0, 1)


def test_the_ladder_ends_in_quarantine_with_a_report(make, tmp_path):
    driver = make(num_envs=2)
    driver.run(30)
    uids = {row: driver.streams[row][-1].uid for row in (0, 1)}
    mark(tmp_path, "step", "always crash")
    with pytest.raises(Exception, match="SIGSEGV"):
        driver.until(lambda: False)
    for row in (0, 1):
        faults = [fault for fault in driver.faults if fault.row == row]
        assert len(faults) == MAX_FAILURES
        # once from the newest snapshot; twice from older ones, where a step computed again crashes (unless the snapshot
        # is of the very last step, which a slow machine's may be, and nothing is computed again); then a new episode
        assert sum(fault.cut for fault in faults[:-1]) == 1
        continued = ["continued at step" in fault.message for fault in faults]
        assert continued[0]
        assert not any(continued[3:])
        assert faults[3].cut
        assert "quarantined" in faults[-1].message
        report = tmp_path / "snapshots" / f"env-{row}" / "quarantine.json"
        assert str(report) in faults[-1].message
        told = json.loads(report.read_text())
        assert [entry["kind"] for entry in told["faults"]] == ["crash"] * MAX_FAILURES
        assert driver.streams[row][-1].uid == uids[row]
    assert driver.pool.stats().produced == driver.num_steps


def test_an_episode_that_differs_when_computed_again_is_cut(make, tmp_path):
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)
    driver = make(plan=plan, noise=1e-3)
    mark(tmp_path, "step", "8 crash")
    driver.run(40)
    check(driver)
    (fault,) = driver.faults
    assert fault.cut
    assert "The episode ends there: step 1 had reward" in fault.message
    assert driver.pool.stats().recomputed == 0


def test_restore_need_not_return_the_observation(make, tmp_path):
    driver = make(answers=False)
    mark(tmp_path, "step", "8 crash")
    driver.run(40)
    check(driver)
    assert not driver.faults[0].cut


def test_a_snapshot_that_fails_costs_nothing_but_safety(make, tmp_path):
    driver = make()
    driver.run(3)
    mark(tmp_path, "snapshot", "always disk")
    driver.until(lambda: driver.faults)
    driver.run(30)
    (fault,) = driver.faults
    assert (fault.kind, fault.cut) == ("disk", False)
    assert "its snapshot raised OSError" in fault.message
    assert driver.pool.stats().process_starts == 1
    os.unlink(tmp_path / "marks" / "snapshot")
    before = driver.pool.stats().snapshots
    driver.until(lambda: driver.pool.stats().snapshots > before)
    check(driver)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_kills_cut_no_episode_that_has_a_snapshot(seed, make):
    random = np.random.default_rng(seed)
    driver = make(num_envs=4)
    driver.run(40)
    killed, steps_at_kill = set(), {}
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        for _ in range(int(random.integers(1, 60))):
            driver.turn()
        row = int(random.integers(4))
        pid, steps = int(driver.pool.pids()[row]), len(driver.streams[row])
        # who dies again and again without finishing a step is not continued for ever
        if pid and alive(pid) and steps_at_kill.get(row) != steps:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            steps_at_kill[row] = steps
    driver.until(lambda: driver.pool.pids().all())
    driver.until(lambda: len(driver.faults) >= len(killed))
    driver.settle()
    assert driver.pool.stats().produced == driver.num_steps
    assert len(killed) > 10
    for stream in driver.streams.values():
        episodes: dict[int, list] = {}
        for t in stream:
            episodes.setdefault(t.uid, []).append(t)
        for episode in episodes.values():
            replay(episode)
        for episode in list(episodes.values())[:-1]:
            # an episode has nothing to continue from before its first snapshot, which follows its first step
            assert episode[-1].truncated or len(episode) == 1


OWNER = """
    import json, sys
    import numpy as np
    from distrl.actors.process_pool import ProcessPool, SnapshotPlan
    from distrl.core.seeds import TrainingSeeds
    from distrl.core.types import EnvRecipe
    recipe = EnvRecipe("tests.fakes.environments:Continuable", {"step_s": 0.01}, max_episode_steps=19)
    pool = ProcessPool(recipe, 2, TrainingSeeds(0), scratch_dir=sys.argv[1], snapshots=SnapshotPlan(sys.argv[2], 0.2))
    print(json.dumps(pool.tree), flush=True)
    random = np.random.default_rng(0)
    asked = {}
    while True:
        outcomes, requests, _ = pool.recv(1.0)
        for row, reward in zip(outcomes.rows.tolist(), outcomes.reward.tolist()):
            print(json.dumps([row, *asked.pop(row), reward]), flush=True)   # committed
        actions = random.uniform(-1, 1, (len(requests.rows), 1)).astype(np.float32)
        for k, row in enumerate(requests.rows.tolist()):
            asked[row] = (int(requests.episode_uid[k]), int(requests.seed[k]), int(requests.step[k]),
                          requests.observation["array"][k].tolist(), float(actions[k, 0]))
        pool.send(actions, requests.rows)
"""


@pytest.mark.parametrize("steps", [1, 12, 50])
def test_a_killed_worker_s_episodes_go_on_in_its_next_life(steps, make, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path / "old"), str(tmp_path / "snapshots")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        tree = json.loads(owner.stdout.readline())
        lines = [owner.stdout.readline() for _ in range(steps)]
        owner.kill()
        lines += owner.stdout.readlines()
    committed = [json.loads(line) for line in lines if line.endswith("\n")]
    assert wait_for(lambda: not tree_pids(f"DISTRL_TREE={tree}".encode()), 2.0)
    cursors = {row: Cursor(uid, step) for row, uid, _, step, *_ in committed}
    has_snapshot = {
        row: bool(snapshot_steps(str(tmp_path / "snapshots"), row, cursor.episode_uid, cursor.step + 1))
        for row, cursor in cursors.items()
    }
    # the first one follows an episode's first step, behind which a slow row may have been killed
    assert all(has_snapshot[row] for row, cursor in cursors.items() if cursor.step)
    seeds = TrainingSeeds(0, incarnation=1)
    driver = make(num_envs=2, seeds=seeds, cursors=cursors)
    driver.until(lambda: all(len(driver.streams[row]) > 40 for row in (0, 1)))
    driver.settle()
    assert not driver.faults
    assert driver.pool.stats().produced == driver.num_steps
    for row in (0, 1):
        before = [entry for entry in committed if entry[0] == row]
        goes_on = has_snapshot.get(row, False) and before[-1][3] < 18
        assert driver.continued.get(row) == (before[-1][3] + 1 if goes_on else None)
        env = Continuable(length=20)
        for _, _, seed, step, observation, action, reward in before:
            if step == 0:
                env.reset(seed=seed)
            assert [env.t, env.x] == observation
            assert np.float32(env.step(np.array([action], np.float32))[1]) == np.float32(reward)
        own = iter(range(100))
        for t in driver.streams[row]:
            if t.step == 0:
                assert t.uid == seeds.episode_uid(row, next(own))
                env.reset(seed=t.seed)
            assert [env.t, env.x] == t.observation["array"].tolist()
            assert np.float32(env.step(t.action)[1]) == np.float32(t.reward)


def test_a_cursor_without_snapshots_begins_anew(make):
    driver = make(num_envs=2, cursors={0: Cursor(77, 5)})
    driver.run(30)
    check(driver)
    assert not driver.continued
    assert not driver.faults


def test_uncommitted_steps_of_the_dead_life_are_computed_with_new_actions(make, tmp_path):
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)
    old = make(plan=plan)
    old.run(12)
    old.settle()
    committed = old.streams[0][:6]
    driver = make(plan=plan, seeds=TrainingSeeds(0, incarnation=1), cursors={0: Cursor(committed[-1].uid, 5)})
    driver.actions = np.random.default_rng(9)
    driver.run(30)
    check(driver, committed)
    assert driver.continued == {0: 6}
    repeated = old.num_steps - 6
    assert [t.attempt for t in driver.streams[0]] == [1] * repeated + [0] * (driver.num_steps - repeated)
    assert driver.pool.stats().recomputed == 5


def test_a_fluid_simulation_goes_on_bit_by_bit(tmp_path):
    recipe = EnvRecipe("distrl/FinRay-v0", {"gusts": True}, fidelity="smoke", max_episode_steps=6)
    plan = SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e-9)  # one, after the first step
    pool = ProcessPool(recipe, 1, SEEDS, scratch_dir=str(tmp_path), snapshots=plan)
    try:
        driver = Driver(pool)
        driver.run(4)
        os.kill(int(pool.pids()[0]), signal.SIGKILL)
        driver.run(6, limit_s=60.0)
        assert not driver.faults[0].cut
        assert pool.stats().recomputed in (3, 4)
    finally:
        pool.close()
    env = make_env(recipe)
    observation, _ = env.reset(seed=driver.streams[0][0].seed)
    for t in driver.streams[0][:6]:
        np.testing.assert_array_equal(t.observation["array"], np.float32(observation))
        observation, reward, _, truncated, _ = env.step(t.action)
        assert (t.reward, t.truncated) == (np.float32(reward), truncated)
