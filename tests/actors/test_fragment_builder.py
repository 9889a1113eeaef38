"""However a stream is cut into fragments, putting them together again gives the stream."""

import numpy as np
import pytest

from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.inline_pool import InlinePool
from distrl.actors.vector_pool import VectorPool
from distrl.core.limiter import Admission
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import ARRAY, FINAL, OBSERVATION, EnvRecipe
from tests.fakes.environments import scripted_episode
from tests.fakes.vector_environments import counted_episode


class Recorded:
    """A sink that keeps what is published."""

    def __init__(self):
        self.fragments = []

    def publish(self, fragment, secured):
        self.fragments.append(fragment)
        secured()

    def flush(self, timeout_s):
        pass


class Counting:
    """A policy whose action is a running number, so that every transition can be told apart; its state counts steps."""

    def __init__(self):
        self.count = 0

    def load(self, weights):
        pass

    def initial_state(self, num_rows):
        return {"steps": np.zeros((num_rows, 1), np.int64)}

    def step(self, observation, state, is_first):
        rows = len(is_first)
        action = (np.arange(self.count, self.count + rows)[:, None] % 1000 / 1000).astype(np.float32)
        self.count += rows
        return action, np.full(rows, -0.5, np.float32), {"steps": state["steps"] + 1}

    def env_action(self, action):
        return action


class OneVersion:
    def pull_if_newer(self, version, wait_s=0.0):
        return (7, {}) if version < 7 else None


def transitions(fragments):
    """(episode, step) → (observation, action, reward, terminated, truncated, next observation)."""
    found = {}
    for fragment in fragments:
        c = fragment.columns
        finals = {(int(t), int(b)): k for k, (t, b) in enumerate(c["final_index"])}
        for t in range(fragment.num_steps):
            for b in range(fragment.num_rows):
                k = finals.get((t, b))
                following = c[OBSERVATION + ARRAY][t + 1, b] if k is None else c[FINAL + ARRAY][k]
                key = (int(c["episode_uid"][t, b]), int(c["step"][t, b]))
                assert key not in found
                found[key] = (
                    c[OBSERVATION + ARRAY][t, b],
                    c["action"][t, b],
                    c["reward"][t, b],
                    c["terminated"][t, b],
                    c["truncated"][t, b],
                    following,
                )
    return found


def run(max_steps: int, lockstep: bool, rounds: int = 60, bad_modulus: int = 0):
    """(fragments, those of them that closed before the worker stopped, produced steps, worker) of three rows."""
    recipe = EnvRecipe("tests.fakes.environments:Scripted", {"bad_modulus": bad_modulus})
    pool = InlinePool(recipe, 3, TrainingSeeds(run_seed=5))
    pool.lockstep = lockstep
    return drive(pool, max_steps, rounds)


def drive(pool, max_steps: int, rounds: int, admission=None):
    sink = Recorded()
    worker = build_env_worker(
        pool, one_policy(Counting(), OneVersion(), admission), sink, fragment_steps=max_steps, fragment_max_age_s=None
    )
    worker.pull()
    for _ in range(rounds):
        worker.run_once(0.0)
    full = list(sink.fragments)
    worker.finish()
    produced = pool.stats().produced
    worker.close()
    return sink.fragments, full, produced, worker


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("max_steps", [1, 2, 7, 100])
def test_every_transition_is_there_once_with_its_own_next_observation(max_steps, lockstep):
    fragments, _, produced, _ = run(max_steps, lockstep)
    found = transitions(fragments)
    assert len(found) == produced > 100
    for (uid, step), (observation, action, reward, terminated, truncated, following) in found.items():
        seed = TrainingSeeds(run_seed=5).seed(uid >> 32 & 0xFFF, uid & 0xFFFFFFFF)
        length, terminates = scripted_episode(seed)
        assert observation[0] == following[0] == seed % 1000
        assert observation[1] == step
        assert following[1] == step + 1
        assert following[2] == action[0]
        assert reward == np.float32(100 * (seed % 10) + step + 1 + action[0])
        assert (terminated, truncated) == (step + 1 == length and terminates, step + 1 == length and not terminates)


def test_rows_in_step_make_rectangles_and_others_make_single_rows():
    _, rectangles, _, _ = run(7, lockstep=True)
    assert {(f.num_steps, f.num_rows) for f in rectangles} == {(7, 3)}
    singles, _, _, _ = run(7, lockstep=False)
    assert {f.num_rows for f in singles} == {1}
    assert all(f.columns["terminated"][:-1].sum() == 0 for f in singles)


@pytest.mark.parametrize("lockstep", [True, False])
def test_provenance_and_the_policys_state_are_kept_of_each_step(lockstep):
    fragments, _, _, worker = run(3, lockstep)
    for fragment in fragments:
        c = fragment.columns
        assert (c["policy_version"] == 7).all()
        assert (c["log_prob"] == np.float32(-0.5)).all()
        assert (c["end_s"] >= c["start_s"]).all()
        assert c["state/steps"][..., 0].tolist() == c["step"].tolist()
    episodes = worker.report()["episodes"]
    assert all(episode["length"] == scripted_episode(episode["seed"])[0] for episode in episodes)


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("max_steps", [1, 2, 7])
def test_a_failing_environment_cuts_its_own_episode_and_nobody_elses(max_steps, lockstep):
    fragments, full, produced, worker = run(max_steps, lockstep, rounds=80, bad_modulus=3)
    found = transitions(fragments)
    assert len(found) == produced
    last = {key for f in fragments for key in zip(f.columns["episode_uid"][-1], f.columns["step"][-1], strict=True)}
    num_failed = 0
    for (uid, step), (_, _, _, terminated, truncated, following) in found.items():
        seed = TrainingSeeds(run_seed=5).seed(uid >> 32 & 0xFFF, uid & 0xFFFFFFFF)
        length, terminates = scripted_episode(seed)
        if seed % 3 == 0:
            assert step == 0
            length, terminates, num_failed = 1, False, num_failed + 1
        assert following[:2].tolist() == [seed % 1000, step + 1]  # where a lost action was chosen, if one was lost
        assert terminated == (step + 1 == length and terminates)
        # a fragment that was closed before the failure does not know of it
        unknown = seed % 3 == 0 and (uid, step) in last
        assert truncated == (step + 1 == length and not terminates) or unknown
    assert num_failed > 10
    assert {e["length"] for e in worker.report()["episodes"] if e["info"] == {"failed": True}} == {1}
    if lockstep:
        assert {f.num_steps for f in full} == {max_steps}
        assert {f.num_rows for f in full} == {1, 2, 3}  # a row that missed a round stays behind


@pytest.mark.parametrize("max_steps", [1, 2, 7])
def test_fragments_for_on_policy_learners_are_whole_also_of_rows_that_are_not_in_step(max_steps):
    recipe = EnvRecipe("tests.fakes.vector_environments:CountedVector", {"modes": ("NextStep",)})
    admits_all = Admission(share=10**9, max_staleness=0)
    fragments, full, produced, _ = drive(VectorPool(recipe, 3, TrainingSeeds(5)), max_steps, 60, admits_all)
    assert {f.num_steps for f in full} == {max_steps}
    assert sum(f.num_rows for f in full) > 3 * 40 // max_steps
    found = transitions(fragments)
    assert len(found) == produced
    for (uid, step), (observation, action, _, terminated, truncated, following) in found.items():
        row, episode = uid >> 32 & 0xFFF, uid & 0xFFFFFFFF
        length, _ = counted_episode(row, episode)
        assert observation[:3].tolist() == [row, episode, step]
        assert following.tolist() == [row, episode, step + 1, action[0]]
        assert (terminated | truncated) == (step + 1 == length)
    for f in full:
        ended = np.argwhere(f.columns["terminated"] | f.columns["truncated"])
        assert sorted(map(tuple, ended)) == sorted(map(tuple, f.columns["final_index"]))
        assert f.columns["state/steps"][..., 0].tolist() == f.columns["step"].tolist()


def test_what_is_open_can_be_published_at_any_time_without_losing_a_step():
    pool = InlinePool(EnvRecipe("tests.fakes.environments:Scripted"), 3, TrainingSeeds(run_seed=5))
    sink = Recorded()
    worker = build_env_worker(
        pool, one_policy(Counting(), OneVersion()), sink, fragment_steps=7, fragment_max_age_s=None
    )
    worker.pull()
    for round_ in range(60):
        worker.run_once(0.0)
        if round_ % 5 == 0:
            worker.streams[0].builder.flush()
    worker.finish()
    assert {f.num_steps for f in sink.fragments} == {4, 5}
    assert len(transitions(sink.fragments)) == pool.stats().produced
    worker.close()


def test_old_fragments_are_closed_so_that_a_slow_environment_delays_nobody():
    pool = InlinePool(EnvRecipe("tests.fakes.environments:Scripted", {"step_s": 0.002}), 1, TrainingSeeds(run_seed=5))
    pool.lockstep = False
    sink = Recorded()
    worker = build_env_worker(
        pool, one_policy(Counting(), OneVersion()), sink, fragment_steps=1000, fragment_max_age_s=1e-4
    )
    worker.pull()
    for _ in range(20):
        worker.run_once(0.0)
    assert max(fragment.num_steps for fragment in sink.fragments) <= 2
    worker.close()


def test_what_had_finished_when_the_worker_stops_is_published_and_nothing_else_was_produced(tmp_path):
    from distrl.actors.process_pool import ProcessPool

    recipe = EnvRecipe("tests.fakes.environments:Scripted", {"step_s": 0.01})
    for _ in range(3):  # steps end at any moment of the stop
        pool = ProcessPool(recipe, 4, TrainingSeeds(run_seed=5), scratch_dir=str(tmp_path))
        sink = Recorded()
        worker = build_env_worker(
            pool, one_policy(Counting(), OneVersion()), sink, fragment_steps=50, fragment_max_age_s=10.0
        )
        worker.pull()
        for _ in range(100):
            worker.run_once(1.0)
        worker.finish()
        published = sum(fragment.num_transitions for fragment in sink.fragments)
        assert published == worker.report()["produced"] >= 50
        worker.close()
