"""Producers of an on-policy learner wait for weights that are new enough; what they have finished is not held back."""

import numpy as np
import pytest

from distrl.actors.env_worker import PolicyPart, build_env_worker, one_policy
from distrl.actors.inline_pool import InlinePool
from distrl.core.limiter import Admission
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from tests.actors.test_fragment_builder import Counting, Recorded, transitions
from tests.actors.test_seating import Marked


class Versions:
    """A parameter server whose version the test sets."""

    version = 0

    def pull_if_newer(self, version, wait_s=0.0):
        return (self.version, {"mark": self.version}) if version < self.version else None


def begin(max_staleness: int, share: int = 12, num_envs: int = 3, fragment_steps: int = 4, lockstep: bool = True):
    pool = InlinePool(EnvRecipe("tests.fakes.environments:Scripted"), num_envs, TrainingSeeds(run_seed=5))
    pool.lockstep = lockstep
    sink, source = Recorded(), Versions()
    worker = build_env_worker(
        pool,
        one_policy(Counting(), source, Admission(share, max_staleness)),
        sink,
        fragment_steps=fragment_steps,
        fragment_max_age_s=None,
    )
    worker.pull()
    return worker, pool, sink, source


def rounds(worker, count=20):
    for _ in range(count):
        worker.pull()
        worker.run_once(0.0)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_no_more_is_produced_than_so_many_rollouts_ahead(max_staleness):
    worker, pool, sink, source = begin(max_staleness)
    for version in range(4):
        source.version = version
        rounds(worker)
        assert worker.waits
        assert pool.stats().produced == (version + 1 + max_staleness) * 12
        assert sum(fragment.num_transitions for fragment in sink.fragments) == pool.stats().produced
    staleness = [  # of each rollout of 12, when it is trained on
        number - fragment.columns["policy_version"] for number, fragment in enumerate(sink.fragments)
    ]
    assert max(map(np.max, staleness)) == max_staleness
    worker.close()


def test_with_none_allowed_every_rollout_is_made_by_the_newest_weights():
    worker, _, sink, source = begin(max_staleness=0)
    for version in range(3):
        source.version = version
        rounds(worker)
    assert [set(fragment.columns["policy_version"].ravel()) for fragment in sink.fragments] == [{0}, {1}, {2}]
    worker.close()


@pytest.mark.parametrize("lockstep", [True, False])
def test_what_waits_loses_nothing_and_acts_with_the_new_weights(lockstep):
    """Every transition is there once, with its own next observation, whatever the waits."""
    worker, pool, sink, source = begin(max_staleness=0, share=10, fragment_steps=7, lockstep=lockstep)
    for version in range(6):
        source.version = version
        rounds(worker)
    worker.finish()
    found = transitions(sink.fragments)
    assert len(found) == pool.stats().produced >= 60
    for (_, step), (observation, action, _, _, _, following) in found.items():
        assert (observation[1], following[1]) == (step, step + 1)
        assert following[2] == action[0], "the action on record is the one that the environment was given"
    worker.close()


def test_open_fragments_are_published_where_the_learner_may_need_them():
    """A rollout of 6 in fragments of 4 steps: the rows stop inside their fragments."""
    worker, _, sink, _ = begin(max_staleness=0, share=6)
    rounds(worker)
    assert [fragment.columns["reward"].shape for fragment in sink.fragments] == [(2, 3)]
    worker.close()


def test_a_row_that_fails_while_others_wait_is_not_acted_on_twice():
    recipe = EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "raise", "after": 4, "bad_modulus": 2})
    pool = InlinePool(recipe, 3, TrainingSeeds(run_seed=1))
    sink, source = Recorded(), Versions()
    worker = build_env_worker(
        pool, one_policy(Counting(), source, Admission(12, 0)), sink, fragment_steps=4, fragment_max_age_s=None
    )
    worker.pull()
    for version in range(8):
        source.version = version
        rounds(worker)
    worker.finish()
    assert worker.report()["faults"]
    assert len(transitions(sink.fragments)) == pool.stats().produced
    worker.close()


class Counted(Recorded):
    """A sink before a learner that makes a version of every 12 transitions."""

    version = 0

    def lacking(self):
        missing = (self.version + 1) * 12 - sum(fragment.num_transitions for fragment in self.fragments)
        return {"default": (self.version, missing)} if missing > 0 else {}


def test_agents_that_take_turns_finish_a_rollout_too():
    """What a player of tic-tac-toe has begun finishes with the other's move, which must be admitted for it."""
    pool = InlinePool(EnvRecipe("pettingzoo.classic.tictactoe_v3"), 3, TrainingSeeds(0))
    sink, source = Counted(), Versions()
    parts = {"default": PolicyPart(Marked(), source, agents=(0, 1), admission=Admission(12, 0))}
    worker = build_env_worker(pool, parts, sink, fragment_steps=4, fragment_max_age_s=None)
    for version in range(4):
        source.version = sink.version = version
        rounds(worker)
        assert worker.waits
        finished = sum(fragment.num_transitions for fragment in sink.fragments)
        assert (version + 1) * 12 <= finished <= (version + 1) * 12 + 2 * 3
    worker.close()


def test_what_another_env_worker_cannot_make_is_made_here():
    """Its share is made, but the learner lacks the other's, whose environments wait for another policy."""
    pool = InlinePool(EnvRecipe("pettingzoo.classic.tictactoe_v3"), 3, TrainingSeeds(0))
    sink, source = Counted(), Versions()
    parts = {"default": PolicyPart(Marked(), source, agents=(0, 1), admission=Admission(6, 0))}
    worker = build_env_worker(pool, parts, sink, fragment_steps=4, fragment_max_age_s=None)
    worker.pull()
    while not worker.waits:
        worker.run_once(0.0)
    assert sum(fragment.num_transitions for fragment in sink.fragments) < 12
    rounds(worker)
    assert 12 <= sum(fragment.num_transitions for fragment in sink.fragments) <= 12 + 2 * 3
    worker.close()
