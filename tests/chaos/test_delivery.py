"""Fragments that arrive twice, late, overlapping or in any order: each transition is trained once, and linked right."""

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distrl.core.experience_log import read_log
from distrl.core.fragments import part
from tests.fakes.fragments import fragment
from tests.learners.test_learner import make

EPISODES, LENGTH = 3, 12


def episode(uid):
    return fragment(LENGTH, episode_uid=uid, terminated=True)


@st.composite
def deliveries(draw):
    """Stretches (uid, first, stop) that cover every episode, some of them twice, in any order."""
    stretches = []
    for uid in range(EPISODES):
        for _ in range(draw(st.integers(1, 2))):  # a second way of cutting the same steps
            cuts = sorted({0, LENGTH, *draw(st.lists(st.integers(1, LENGTH - 1), max_size=4))})
            stretches += [(uid, *bounds) for bounds in itertools.pairwise(cuts)]
    repeated = draw(st.lists(st.sampled_from(stretches), max_size=5))
    return draw(st.permutations(stretches + repeated))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deliveries())
def test_whatever_the_order_each_transition_is_trained_once(tmp_path_factory, stretches):
    path = tmp_path_factory.mktemp("run")
    learner = make(path)
    for uid, first, stop in stretches:
        receipt = learner.receive(part(episode(uid), 0, first, stop))
    assert receipt.records == sum(1 for _ in read_log(path / "log"))
    logged = [
        key
        for _, f in read_log(path / "log")
        for key in zip(f.columns["episode_uid"][:, 0].tolist(), f.columns["step"][:, 0].tolist(), strict=True)
    ]
    assert sorted(logged) == [(uid, step) for uid in range(EPISODES) for step in range(LENGTH)]
    sent = sum(stop - first for _, first, stop in stretches)
    assert learner.report()["duplicates"] == sent - len(logged)

    while learner.update():
        pass
    report = learner.report()
    assert report["unsampled"] + report["evicted"] < report["inserted"] == len(logged)
    batch = learner.trainers["default"].store.sample(256, np.random.default_rng(0))
    check(batch)
    learner.close()


def check(batch):
    """Every sampled transition goes to the state that follows it in its own episode: observation = 100·uid + step."""
    before = np.asarray(batch.observation["array"])[:, 0].astype(int)
    after = np.asarray(batch.next_observation["array"])[:, 0].astype(int)
    assert (before // 100 == after // 100).all()
    assert np.isin(after - before, (1, 2)).all()  # n_step = 2; 1 at an end, or where the next one came elsewhere
