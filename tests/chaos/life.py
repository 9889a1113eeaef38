"""One life of an env worker in a process of its own, with a real spool, real environments, and a learner at the other
end of a socket; it can be told at which moment to die.

    python -m tests.chaos.life RUN INCARNATION SOCKET MOMENT AFTER

The env worker is the one that runs on Ray; only what it would reach through Ray is replaced.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path

from distrl.cluster import env_worker_actor
from distrl.core.experience_log import encode
from distrl.core.run_directory import RunDirectory
from distrl.core.spool import Spool
from distrl.core.types import PolicySpec


class Death:
    """SIGKILL at a moment's n-th chance."""

    def __init__(self, moment: str, after: int):
        self._moment, self._left = moment, after

    def at(self, moment: str) -> None:
        """Die here, if it is time."""
        if moment == self._moment:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Socket:
    """A learner and a parameter server behind one connection."""

    def __init__(self, path: str):
        self._connection: Connection = Client(path, family="AF_UNIX")
        self._lock = threading.Lock()

    def ask(self, *question: object) -> object:
        """The answer."""
        with self._lock:
            self._connection.send(question)
            return self._connection.recv()


def live(run: RunDirectory, incarnation: int, path: str, death: Death, steps: int) -> None:
    """Until so many steps have been made, or death."""
    socket = Socket(path)

    class Sink:
        is_full, feeds = False, (0,)

        def __init__(self, *unused):
            pass

        def publish(self, fragment, secured):
            socket.ask("receive", encode(fragment))
            death.at("published")
            secured()
            death.at("acknowledged")

        def flush(self, timeout_s):
            pass

    class Source:
        def __init__(self, *unused):
            pass

        def pull_if_newer(self, version, wait_s=0.0):
            return socket.ask("pull", version)

    class MortalSpool(Spool):
        def commit(self, pieces, *, ends_fragment=False):
            if ends_fragment:
                death.at("uncommitted")
            super().commit(pieces, ends_fragment=ends_fragment)
            if ends_fragment:
                death.at("committed")

    env_worker_actor.RaySink, env_worker_actor.RaySource, env_worker_actor.Spool = Sink, Source, MortalSpool
    env_worker_actor.whereabouts = dict
    config = run.config().model_dump()
    worker = env_worker_actor.EnvWorkerActor(config, 0, incarnation, str(run.path), run.id, inline=False, env_steps=0)
    policy: PolicySpec = socket.ask("policy")
    worker.start({"default": policy}, None, None, None, wait_for_weights=True)
    faults = []
    while not (report := worker.report(0))["left"] and report["failure"] is None:
        faults += report["faults"]
        if report["produced"] >= steps:
            worker.stop(grace_s=1.0)
        time.sleep(0.02)
    socket.ask("report", report | {"faults": faults + report["faults"]})


if __name__ == "__main__":
    directory, number, address, when, after = sys.argv[1:]
    live(RunDirectory.open(Path(directory)), int(number), address, Death(when, int(after)), steps=150)
    os._exit(0)
