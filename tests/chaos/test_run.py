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
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.reproduce import reproduce
from tests.chaos.balance import MARK, assert_balanced, ledgered, working
from tests.fakes.fragments import fragment

STEPS_AFTER = 300  # the last one who was killed has been replaced
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
    """Follows a run and kills: in ``phase``, once ``count`` is ``at``, one group of roles after the other; each time a
    process that has not been killed before. Some steps after all
    have been replaced, if that was while the run trained, it lets it end.

    Attributes: statuses: of the training, with the process ids. updates: of the learner at the last kill.
    """

    def __init__(self, mark, *groups, phase="training", at=0, count="env_steps"):
        self._mark, self._groups, self._phase, self._at, self._count = mark, list(groups), phase, at, count
        self._killed, self._end_at = set(), None
        self.statuses, self.updates = [], 0
        self.stop = threading.Event()

    def follow(self, status):
        """What the run shows, about twice a second."""
        if self._groups and status["phase"] == self._phase and status.get(self._count, 0) >= self._at and self.kill():
            self.updates = status.get("updates", 0)
        if status["phase"] != "training":
            return
        self.statuses.append(status)
        over = self._phase == "training" and not self._groups and self._killed.isdisjoint(status["pids"].values())
        if over and self._end_at is None:
            self._end_at = status["env_steps"] + STEPS_AFTER
        if self._end_at is not None and status["env_steps"] >= self._end_at:
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


def undisturbed(killer):
    """The names of those who were one process throughout the training."""
    seen = {}
    for status in killer.statuses:
        for name, pid in status["pids"].items():
            seen.setdefault(name, set()).add(pid)
    return {name for name, pids in seen.items() if len(pids) == 1}


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
    killer = Killer(mark, ["env_worker"], ["env_worker"], ["environment_process"], at=300)
    run, summary = trained(ledgered(tmp_path / "run", ENDLESS), killer)
    assert restarts(run) == ["env_worker", "env_worker"]
    found = assert_balanced(run, in_flight=4 + 2 * OF_A_WORKER + 1, mark=mark)
    assert summary["transitions_rejected"].get("worker_died", 0) <= 2 * OF_A_WORKER
    assert [event["fault"] for event in read_json_lines(run / "events.jsonl") if event["kind"] == "fault"] == ["crash"]
    assert undisturbed(killer) >= {"learner", "parameter_server", "evaluator"}
    assert found["committed"] == found["secured"]


@pytest.mark.slow  # two minutes of silence
def test_a_learner_that_stands_still_is_replaced(tmp_path, mark):
    class Freezer(Killer):
        def kill(self):
            for process in working(self._mark, "learner"):
                process.suspend()
                self._killed.add(process.pid)
                del self._groups[0]
                return True
            return False

    run, summary = trained(ledgered(tmp_path / "run", ENDLESS), Freezer(mark, ["learner"], at=500))
    assert restarts(run) == ["learner"]
    assert_balanced(run, mark=mark)
    assert summary["transitions_lost"] == 0


def test_learner_and_parameter_server_together_then_learner_and_evaluator(tmp_path, mark):
    """Just after a checkpoint and long before the next one: there are updates to lose, however late a status comes."""
    killer = Killer(mark, ["learner", "parameter_server"], ["learner", "evaluator"], at=330, count="updates")
    run, summary = trained(
        ledgered(
            tmp_path / "run",
            "replay.samples_per_insert=16",
            "checkpoint.period=300",
            "learner.publish_period=1",  # updates that nobody has seen are not undone
            ENDLESS,
        ),
        killer,
    )
    assert sorted(restarts(run)) == ["evaluator", "learner", "learner", "parameter_server"]
    assert_balanced(run, mark=mark)
    assert summary["transitions_rejected"] == {}
    assert undisturbed(killer) >= {"env_worker_0", "env_worker_1"}
    assert summary["updates_undone"] > 0
    assert reproduce(RunDirectory.open(run)).difference is None


@pytest.mark.slow  # each of them once: the test above
def test_evaluator_and_parameter_server_one_after_the_other(tmp_path, mark):
    killer = Killer(mark, ["evaluator"], ["parameter_server"], ["parameter_server"], at=200)
    run, _ = trained(ledgered(tmp_path / "run", "evaluation.period=100", ENDLESS), killer)
    assert sorted(restarts(run)) == ["evaluator", "parameter_server", "parameter_server"]
    assert_balanced(run, mark=mark)
    versions = [fragment.columns["policy_version"].max() for _, fragment in read_log(run / "log")]
    assert max(versions) > killer.updates + 50, "env workers have weights of the last one"


def test_learner_and_env_worker_while_the_run_starts(tmp_path, mark):
    killer = Killer(mark, ["learner"], ["env_worker"], phase="starting")
    run, _ = trained(ledgered(tmp_path / "run", "run.steps=500"), killer)
    assert sorted(restarts(run)) == ["env_worker", "learner"]
    assert_balanced(run, in_flight=4 + OF_A_WORKER, mark=mark)


def test_the_learner_while_the_run_finishes(tmp_path, mark):
    killer = Killer(mark, ["learner"], phase="finishing")
    run, summary = trained(ledgered(tmp_path / "run", "run.steps=400", "replay.samples_per_insert=128"), killer)
    assert restarts(run) == ["learner"]
    assert_balanced(run, mark=mark)
    assert summary["updates"] >= (400 - 100) * 128 / 32


def test_a_hanging_environment_is_noticed_and_disturbs_nobody(tmp_path, mark):
    hang = ["env.id=tests.chaos.environments:Mortal", "env.kwargs.moment=hangs", "actors.step_timeout_s=2"]
    run, summary = trained(ledgered(tmp_path / "run", *hang), Killer(mark, phase="never"))
    (fault,) = [event for event in read_json_lines(run / "events.jsonl") if event["kind"] == "fault"]
    assert fault["fault"] == "hang"
    assert restarts(run) == []
    assert_balanced(run, mark=mark)
    assert summary["transitions_rejected"] == {}


@pytest.mark.slow  # joining: tests/chaos/test_command.py; leaving: test_nodes.py; the learner's death: above
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
