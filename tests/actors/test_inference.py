"""An inference server answers many env workers at once; rows that wait for it lose nothing, nor when it dies."""

import threading

import numpy as np
import pytest

from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.inference import Answer, LocalInference, ThreadInference
from distrl.actors.inference_server import InferenceServer
from distrl.actors.inline_pool import InlinePool
from distrl.core.limiter import Admission
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from tests.actors.test_fragment_builder import Counting, Recorded, transitions


class Versions:
    """A parameter server whose version the test sets."""

    def __init__(self, version=0):
        self.version = version

    def pull_if_newer(self, version, wait_s=0.0):
        return (self.version, {}) if version < self.version else None


class Untrained(Counting):
    ready = False

    def load(self, weights):
        self.ready = True


class Link:
    """A server in this process that computes when the test says so; it can be cut off."""

    def __init__(self, server):
        self.server, self.alive, self.asked = server, True, {}

    def ask(self, ticket, observation, state, is_first, at_least):
        copies = [{path: array.copy() for path, array in part.items()} for part in (observation, state)]
        self.asked[ticket] = self.server.ask(*copies, is_first.copy(), at_least)

    def answers(self, timeout_s):
        if not self.alive:
            tickets, self.asked = list(self.asked), {}
            return [(ticket, None) for ticket in tickets]
        done = [ticket for ticket, future in self.asked.items() if future.done()]
        return [(ticket, self.asked.pop(ticket).result()) for ticket in reversed(done)]

    def newer_version(self, version, wait_s):
        self.server.pull()
        return self.server.version if self.server.version > version else None


def request(rows, value=0.0):
    return (
        {"array": np.full((rows, 2), value, np.float32)},
        {"steps": np.zeros((rows, 1), np.int64)},
        np.ones(rows, bool),
    )


def server_of(source, max_rows=8, max_wait_s=0.0):
    server = InferenceServer(Untrained(), source, max_rows, max_wait_s)
    server.pull()
    return server


def test_requests_that_are_there_together_are_one_batch_and_each_gets_its_own_rows():
    server = server_of(Versions(3), max_rows=6)
    first, second, third = (server.ask(*request(rows)) for rows in (2, 3, 4))
    assert server.run_once(0.0) == 5, "the third would be more than 6"
    assert not third.done()
    assert isinstance(first.result(), Answer)
    assert first.result().action[:, 0].tolist() == pytest.approx([0.0, 0.001])
    assert second.result().action[:, 0].tolist() == pytest.approx([0.002, 0.003, 0.004])
    assert second.result().version == 3
    assert second.result().state["steps"].ravel().tolist() == [1, 1, 1]
    assert server.run_once(0.0) == 4
    assert server.run_once(0.0) == 0
    report = server.report()
    assert (report["batches"], report["rows"]) == (2, 9)


def test_a_request_larger_than_a_batch_is_one_of_its_own():
    server = server_of(Versions(), max_rows=4)
    asked = server.ask(*request(9))
    assert server.run_once(0.0) == 9
    assert len(asked.result().action) == 9


def test_a_full_batch_waits_for_nobody_and_another_waits_for_company():
    server = server_of(Versions(), max_rows=4, max_wait_s=60.0)
    for _ in range(2):
        server.ask(*request(2))
    assert server.run_once(0.0) == 4
    server.ask(*request(1))
    later = threading.Timer(0.05, server.ask, request(3))
    later.start()
    assert server.run_once(0.0) == 4
    later.join()


def test_whoever_asks_hears_what_the_policy_refused():
    server = server_of(Versions())
    asked = server.ask({"array": np.zeros((1, 2))}, {}, np.ones(1, bool))
    assert server.run_once(0.0) == 0
    with pytest.raises(KeyError, match="steps"):
        asked.result()


def test_the_loop_answers_with_the_newest_weights_and_ends_when_told():
    source, stop, news = Versions(), threading.Event(), threading.Event()
    server = InferenceServer(Untrained(), source, 4, 0.001, on_news=news.set)
    loop = threading.Thread(target=server.run, args=(stop, True))
    loop.start()
    assert server.ask(*request(2)).result(timeout=30).version == 0
    news.clear()
    source.version = 5
    assert news.wait(30)
    assert server.ask(*request(2)).result(timeout=30).version == 5
    stop.set()
    loop.join(30)
    assert not loop.is_alive()


def begin(admission=None, fragment_steps=7, num_envs=4, recipe=None):
    pool = InlinePool(recipe or EnvRecipe("tests.fakes.environments:Scripted"), num_envs, TrainingSeeds(run_seed=5))
    pool.lockstep = False
    sink, source = Recorded(), Versions()
    server = server_of(source)
    link = Link(server)
    worker = build_env_worker(
        pool,
        one_policy(Untrained(), source, admission, link),
        sink,
        fragment_steps=fragment_steps,
        fragment_max_age_s=None,
    )
    worker.pull()
    return worker, pool, sink, source, server, link


def check(sink, pool, at_least):
    found = transitions(sink.fragments)
    assert len(found) == pool.stats().produced >= at_least
    for (_, step), (observation, action, _, _, _, following) in found.items():
        assert (observation[1], following[1]) == (step, step + 1)
        assert following[2] == action[0], "the action on record is the one that the environment was given"


def test_rows_wait_for_the_server_while_the_others_go_on():
    """Whenever it computes, in whatever order its answers come: every transition is there once, with its own action."""
    worker, pool, sink, source, server, _ = begin()
    rng = np.random.default_rng(0)
    for turn in range(300):
        source.version = turn // 20
        if rng.random() < 0.5:
            server.run_once(0.0)
        server.pull()
        worker.run_once(0.0)
    worker.finish()
    check(sink, pool, at_least=200)
    versions = np.concatenate([fragment.columns["policy_version"].ravel() for fragment in sink.fragments])
    assert set(versions) == set(range(15)), "of the weights that chose"
    worker.close()


def test_the_workers_own_copy_stands_in_for_a_server_that_died():
    worker, pool, sink, source, server, link = begin()
    for _ in range(10):
        server.run_once(0.0)
        worker.run_once(0.0)
    before = pool.stats().produced
    link.alive, source.version = False, 4
    for _ in range(10):
        worker.run_once(0.0)
    assert pool.stats().produced >= before + 9 * 4
    assert worker.version == 4
    link.alive = True  # another has taken its place
    server.pull()
    answered = server.report()["rows"]
    for _ in range(10):
        server.run_once(0.0)
        worker.run_once(0.0)
    assert server.report()["rows"] > answered
    worker.finish()
    check(sink, pool, at_least=60)
    worker.close()


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_admission_is_by_the_servers_version(max_staleness):
    worker, pool, _, source, server, _ = begin(Admission(12, max_staleness), fragment_steps=3)
    for version in range(4):
        source.version = version
        for _ in range(30):
            server.run_once(0.0)
            worker.pull()
            worker.run_once(0.0)
        assert worker.waits
        assert pool.stats().produced == (version + 1 + max_staleness) * 12
    worker.finish()
    worker.close()


def test_a_row_that_fails_while_others_wait_for_answers_is_answered_once():
    recipe = EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "raise", "after": 4, "bad_modulus": 2})
    worker, pool, sink, _, server, _ = begin(recipe=recipe)
    rng = np.random.default_rng(1)
    for _ in range(60):
        if rng.random() < 0.6:
            server.run_once(0.0)
        worker.run_once(0.0)
    worker.finish()
    assert worker.report()["faults"]
    assert len(transitions(sink.fragments)) == pool.stats().produced > 20
    worker.close()


class Thoughtful(Untrained):
    """Does not answer before it is told to."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()

    def step(self, observation, state, is_first):
        assert self.may.wait(20.0)
        return super().step(observation, state, is_first)


def test_a_policy_in_a_thread_of_its_own_keeps_nobody_waiting():
    policy = Thoughtful()
    inference = ThreadInference(LocalInference(policy, Versions()))
    for ticket in (0, 1):
        inference.ask(ticket, *request(2))
    assert inference.answers(0.01) == []
    policy.may.set()
    found = {}
    while len(found) < 2:
        found |= dict(inference.answers(5.0))
    assert [len(found[ticket].action) for ticket in (0, 1)] == [2, 2]
    inference.close()
