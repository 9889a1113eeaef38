"""Kills of every component of a training on a real Ray: the run goes on, and its books balance."""

import contextlib
import os
import threading
import uuid

import psutil
import pytest
import ray

from distrl.api import train
from distrl.cluster.ray_links import RaySink, start_actor
from distrl.core.contracts import Receipt
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.reproduce import reproduce
from tests.chaos.balance import MARK, assert_balanced, ledgered, working
from tests.fakes.fragments import fragment

STEPS_AFTER = 500  # the last kill
# Of each of its two environments: a step that has finished is committed while the next one computes.
OF_A_WORKER = 2 * 2
ENDLESS = "run.steps=1000000"


@pytest.fixture(scope="module")
def mark():
    """A Ray whose processes can be told from all others."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ[MARK] = uuid.uuid4().hex
    ray.init(
        address="local",
        namespace="distrl",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
    )
    yield os.environ[MARK]
    ray.shutdown()
    del os.environ[MARK]


class Killer:
    """Follows a run and kills: in ``phase``, once ``at_step`` steps are made, one group of roles after the other; each
    time a process that has not been killed before. Some steps after the last it lets the run end.
    """

    def __init__(self, mark, *groups, phase="training", at_step=0):
        self._mark, self._groups, self._phase, self._at_step = mark, list(groups), phase, at_step
        self._killed = set()
        self.stop = threading.Event()

    def follow(self, status):
        """What the run shows, about twice a second."""
        steps = status.get("env_steps", 0)
        if self._groups and status["phase"] == self._phase and steps >= self._at_step and self.kill():
            self._at_step += 0 if self._groups else STEPS_AFTER
        elif not self._groups and self._phase == "training" and steps >= self._at_step:
            self.stop.set()

    def kill(self):
        """Kill the next group, if all of its roles have somebody new to kill; whether they had."""
        found = {role: [p for p in working(self._mark, role) if p.pid not in self._killed] for role in self._groups[0]}
        if not all(found.values()):
            return False
        del self._groups[0]
        for processes in found.values():
            self._killed.add(processes[0].pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                processes[0].kill()
        return True

    @property
    def finished(self):
        """Whether all have been killed who were to be."""
        return not self._groups


def trained(config, killer):
    """The run to its end; (its directory, its summary)."""
    result = train(config, show=killer.follow, keep_ray=True, stop=killer.stop)
    assert killer.finished, "the run was over too early"
    return result.directory, result.summary


def restarts(run):
    return [event["role"] for event in read_json_lines(run / "events.jsonl") if event["kind"] == "restart"]


class Receiver:
    """A learner that secures at once."""

    def __init__(self):
        self.records = 0

    def receive(self, fragment):
        self.records += 1
        return Receipt(0, self.records, self.records)

    def secure(self):
        return self.records


def test_an_env_worker_whose_memory_is_full_goes_on_with_the_successor_of_the_successor(mark):
    learners, secured = [start_actor(Receiver) for _ in range(3)], []
    sink = RaySink(learners[0], max_bytes=1, who="the test")
    for learner in learners[:2]:
        ray.kill(learner)
    publisher = threading.Thread(target=sink.publish, args=(fragment(), lambda: secured.append(True)), daemon=True)
    publisher.start()
    for learner in learners[1:]:
        publisher.join(0.5)
        assert publisher.is_alive()
        sink.use_learner(learner)
    publisher.join(30)
    assert (publisher.is_alive(), secured) == (False, [True])


def test_an_env_worker_twice_in_quick_succession_and_an_environment_process(tmp_path, mark):
    killer = Killer(mark, ["env_worker"], ["env_worker"], ["environment_process"], at_step=300)
    run, summary = trained(ledgered(tmp_path / "run", ENDLESS), killer)
    assert restarts(run) == ["env_worker", "env_worker"]
    found = assert_balanced(run, in_flight=4 + 2 * OF_A_WORKER + 1, mark=mark)
    assert summary["transitions_rejected"].get("worker_died", 0) <= 2 * OF_A_WORKER
    assert found["committed"] == found["secured"]


@pytest.mark.slow  # two minutes of silence
def test_a_learner_that_stands_still_is_replaced(tmp_path, mark):
    class Freezer(Killer):
        def kill(self):
            for process in working(self._mark, "learner"):
                process.suspend()
                del self._groups[0]
                self._at_step += 10 * STEPS_AFTER  # made while nobody learns, and some more
                return True
            return False

    run, summary = trained(ledgered(tmp_path / "run", ENDLESS), Freezer(mark, ["learner"], at_step=500))
    assert restarts(run) == ["learner"]
    assert_balanced(run, mark=mark)
    assert summary["transitions_lost"] == 0


def test_learner_and_parameter_server_together(tmp_path, mark):
    killer = Killer(mark, ["learner", "parameter_server"], ["learner"], at_step=500)
    run, summary = trained(ledgered(tmp_path / "run", ENDLESS), killer)
    assert sorted(restarts(run)) == ["learner", "learner", "parameter_server"]
    assert_balanced(run, mark=mark)
    assert summary["transitions_rejected"] == {}
    assert reproduce(RunDirectory.open(run)).difference is None


def test_evaluator_and_parameter_server_one_after_the_other(tmp_path, mark):
    killer = Killer(mark, ["evaluator"], ["parameter_server"], ["parameter_server"], at_step=200)
    run, _ = trained(ledgered(tmp_path / "run", "evaluation.period=100", ENDLESS), killer)
    assert sorted(restarts(run)) == ["evaluator", "parameter_server", "parameter_server"]
    assert_balanced(run, mark=mark)


def test_learner_and_env_worker_while_the_run_starts(tmp_path, mark):
    killer = Killer(mark, ["learner"], ["env_worker"], phase="starting")
    run, _ = trained(ledgered(tmp_path / "run", "run.steps=500"), killer)
    assert sorted(restarts(run)) == ["env_worker", "learner"]
    assert_balanced(run, in_flight=4 + OF_A_WORKER, mark=mark)


def test_the_learner_while_the_run_finishes(tmp_path, mark):
    killer = Killer(mark, ["learner"], phase="finishing")
    run, summary = trained(ledgered(tmp_path / "run", "run.steps=1000", "replay.samples_per_insert=64"), killer)
    assert restarts(run) == ["learner"]
    assert_balanced(run, mark=mark)
    assert summary["updates"] >= (1000 - 100) * 64 / 32


def test_a_hanging_environment_is_noticed_and_disturbs_nobody(tmp_path, mark):
    hang = ["env.id=tests.chaos.environments:Mortal", "env.kwargs.moment=hangs", "actors.step_timeout_s=2"]
    run, summary = trained(ledgered(tmp_path / "run", *hang), Killer(mark, phase="never"))
    (fault,) = [event for event in read_json_lines(run / "events.jsonl") if event["kind"] == "fault"]
    assert fault["fault"] == "hang"
    assert restarts(run) == []
    assert_balanced(run, mark=mark)
    assert summary["transitions_rejected"] == {}


def test_env_workers_join_and_leave_under_load_while_the_learner_dies(tmp_path, mark):
    killer, asked = Killer(mark, ["learner"], phase="never"), []

    def follow(status):
        if status["phase"] != "training":
            return
        if len(asked) < 2 and status["env_workers"] == (2, 4)[len(asked)]:
            asked.append((4, 1)[len(asked)])
            if len(asked) == 2:  # those who leave now have published to a learner that is dead
                killer.kill()
            run = RunDirectory.open(tmp_path / "run")
            ray.get(ray.get_actor(run.facts["ray"]["supervisor"]).scale.remote(asked[-1]))
        if len(asked) == 2 and status["env_workers"] == 1:
            killer.stop.set()

    killer.follow = follow
    run, _ = trained(ledgered(tmp_path / "run", ENDLESS), killer)
    left = sorted(event["worker"] for event in read_json_lines(run / "events.jsonl") if event["kind"] == "leave")
    assert left == [1, 2, 3]
    assert restarts(run) == ["learner"]
    assert_balanced(run, mark=mark)
