"""SIGKILL at the exact moments between a step's computation and its acknowledgement: what the next life makes of it.

An env worker's life runs in a process of its own (life.py); the learner is here.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Listener

import pytest

from distrl.cluster import components
from distrl.core.experience_log import decode
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec
from distrl.envs.describe import try_environment
from distrl.parameter_server import ParameterServer
from tests.chaos.balance import MARK, assert_balanced, ledgered, marked
from tests.fakes.processes import wait_until


class Node:
    """A run directory with a real learner in this process, and lives of its one env worker beside it."""

    def __init__(self, folder, *overrides):
        config = ledgered(folder / "run", "actors.env_workers=1", "env.kwargs.step_s=0.005", *overrides)
        self.run = RunDirectory.create(folder / "run", config)
        self.spec: EnvSpec = try_environment(config.env.recipe()).spec
        self.server = ParameterServer()
        self.learner = components.build_learner(config, self.spec, self.run.path, self.server.publish)
        self.learner.publish()
        self._listener = Listener(str(folder / "socket"), family="AF_UNIX")
        self.report = None

    def _serve(self):
        with self._listener.accept() as connection:
            while True:
                try:
                    what, *rest = connection.recv()
                except (EOFError, ConnectionError):
                    return
                answer = None
                if what == "receive":
                    self.learner.receive(decode(*rest))
                    self.learner.update()
                elif what == "report":
                    (self.report,) = rest
                elif what == "policy":
                    answer = self.learner.trainers["default"].policy_spec()
                elif what == "pull":
                    answer = self.server.pull_if_newer(*rest)
                connection.send(answer)

    def life(self, moment="", after=0):
        """One life of the env worker; its exit code. Whatever it had started is gone with it."""
        incarnation = self.run.next_incarnation()
        serving = threading.Thread(target=self._serve, daemon=True)
        serving.start()
        command = [sys.executable, "-m", "tests.chaos.life", self.run.path, incarnation, self._listener.address]
        environment = os.environ | {MARK: self.run.id}
        code = subprocess.run([*map(str, command), moment, str(after)], env=environment, timeout=120).returncode
        serving.join(30)
        assert wait_until(lambda: not marked(self.run.id))
        return code

    def end(self):
        self.learner.checkpoint()
        self.learner.close()
        self._listener.close()
        shutil.rmtree(self.run.scratch())  # what killed lives leave in shared memory goes with the session


@pytest.mark.parametrize("moment", ["uncommitted", "committed", "published", "acknowledged"])
def test_what_an_env_worker_had_finished_when_it_died_is_trained_once(tmp_path, moment):
    node = Node(tmp_path)
    assert node.life(moment, after=5) == -signal.SIGKILL
    spools = list((tmp_path / "spool").rglob("*.sqlite"))
    assert len(spools) == 1
    first = dict(node.learner.ledger.secured)
    assert node.life() == 0
    node.end()
    # an episode without a snapshot does not go on: then what the two environments were computing, and with
    # "uncommitted" the steps before, is in no log
    in_flight = 4 if moment == "uncommitted" else 2
    found = assert_balanced(node.run.path, in_flight=in_flight)
    assert found["computed"] > 150 + sum(first.values()) / 2
    adopted = node.report["adopted"]
    assert adopted[0] == node.learner.ledger.secured[0] >= first[0]
    assert node.learner.ledger.duplicates > 0 if moment == "published" else node.learner.ledger.duplicates >= 0
    # simulators finish again what was computed to continue an episode, and what had been in flight; nothing else
    assert 0 <= found["recomputed"] - node.report["recomputed"] <= in_flight


def test_episodes_go_on_in_the_next_life_from_where_they_were_committed(tmp_path):
    node = Node(tmp_path)
    node.life("committed", after=6)
    node.life("published", after=6)
    assert node.life() == 0
    node.end()
    assert_balanced(node.run.path, in_flight=2 * 2)
    episodes = node.learner._seen._episodes
    assert all(len(stretches) == 1 for stretches in episodes.values()), "an episode has a gap"
    assert any(stretches[0][1] == 100 for (uid, _), stretches in episodes.items() if uid >> 44 < 2)


@pytest.mark.parametrize(("moment", "at_least"), [("before", 0), ("computed", 1), ("told", 0)])
def test_an_environment_process_may_die_at_any_moment_of_a_step(tmp_path, moment, at_least):
    often = "actors.snapshot_cost=0.5"  # a snapshot is a moment too: one that took long would put off the next
    node = Node(tmp_path, "env.id=tests.chaos.environments:Mortal", f"env.kwargs.moment={moment}", often)
    assert node.life() == 0
    node.end()
    found = assert_balanced(node.run.path, in_flight=0)
    (fault,) = node.report["faults"]
    assert (fault["fault"], "was continued" in fault["message"]) == ("crash", True)
    assert found["recomputed"] >= at_least
    assert found["recomputed"] == node.report["recomputed"] + at_least
