"""An env worker as a Ray actor: it hosts environments, adopts what dead lives of its number have left, and sends
fragments to the learner.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

from distrl.cluster import components
from distrl.cluster.components import PolicySpecs
from distrl.cluster.inference import RayServerLink
from distrl.cluster.ray_actors import LoopActor, whereabouts
from distrl.cluster.ray_links import RaySink, RaySource, adopt_all, send_again
from distrl.core.config import RunConfig
from distrl.core.contracts import EnvPool
from distrl.core.errors import DistrlError, RunFailed
from distrl.core.metrics import write_json
from distrl.core.run_directory import scratch_directory
from distrl.core.spool import Orphan, Spool
from distrl.core.types import Cursor

_SECURED_S = 600.0  # for what an env worker that leaves has published: a new learner first refills its replay


class EnvWorkerActor(LoopActor):
    """Hosts a pool; its environments start while the rest of the run does.

    It adopts the spools that earlier lives of its number have left on this node: what they had not seen secured is
    sent again, and their episodes continue where a snapshot allows it.
    """

    def __init__(
        self, config: dict[str, Any], worker: int, incarnation: int, run: str, run_id: str, inline: bool, env_steps: int
    ):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._identity = {"worker": worker, "incarnation": incarnation}
        self._grace_s = 0.0
        self._left = False
        self._sink: RaySink | None = None
        self._server: Any = None
        self._link: RayServerLink | None = None
        self._refusal: DistrlError | None = None
        self._snapshots = Path(run) / "snapshots" / f"worker-{worker}"
        self._spools = components.spool_directory(self._config, run_id) / f"worker-{worker}"
        self._orphans: list[Orphan] = []
        self._adopted: dict[int, int] = {}
        self._told = 0  # complaints of orphans
        try:
            self._orphans = adopt_all(self._spools)
            self._adopted = {orphan.incarnation: orphan.num_committed for orphan in self._orphans}
            self._spool = self._new_spool(inline)
            self._inherited = read_cursors(self._snapshots)
            for orphan in self._orphans:
                self._inherited |= orphan.cursors
            if self._spool is not None:
                self._spool.inherit(self._inherited)
            self._pool = self._host(scratch_directory(run_id), inline, env_steps)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error

    def _new_spool(self, inline: bool) -> Spool | None:
        run = self._config.run
        if run.durability == "off" or (run.durability == "auto" and inline):
            return None
        return Spool(self._spools, self._identity["incarnation"], worker=self._identity["worker"], sync=run.sync)

    def _host(self, scratch: Path, inline: bool, env_steps: int) -> EnvPool:
        return components.build_training_pool(
            self._config,
            **self._identity,
            scratch=scratch,
            inline=inline,
            env_steps=env_steps,
            snapshots=self._snapshots,
            cursors=self._inherited,
        )

    def start(
        self,
        policies: PolicySpecs,
        learner: Any,
        server: Any,
        inference: Any,
        wait_for_weights: bool,
        rank: int = 0,
    ) -> int:
        """Begin to act, see ``EnvWorker.run``; ``inference``: a server to ask, or None; ``rank``: the learner's.
        Returns the process id."""
        if self._refusal is not None or self._loop is not None:
            return os.getpid()  # the next report tells
        name = f"env worker {self._identity['worker']}"
        sink = self._sink = RaySink(learner, self._config.actors.max_unacknowledged_mb * 1e6, name, rank)

        self._server = server

        if self._config.actors.inference != "local":
            self._link = RayServerLink(inference)
        try:
            self._worker = components.build_worker(
                self._config,
                self._pool,
                policies,
                sink,
                lambda policy_id: RaySource(lambda: self._server, policy_id),
                timed=True,
                spool=self._spool,
                server=self._link,
                worker=self._identity["worker"],
                incarnation=self._identity["incarnation"],
            )
        except Exception as error:  # noqa: BLE001  nobody waits for this call's answer: the next report tells
            traceback.print_exc()
            self._refusal = RunFailed(
                f"env worker {self._identity['worker']} cannot begin: {type(error).__name__}: {error}"
            )
            return os.getpid()

        def body() -> None:
            send_again(self._orphans, sink)
            self._worker.run(
                self._stop, self._config.actors.pull_period_s, wait_for_weights, grace_s=lambda: self._grace_s
            )
            sink.flush(_SECURED_S)
            begun = self._pool.stats().produced > 0
            write_cursors(self._snapshots, self._worker.cursors() if begun else self._inherited)
            self._worker.close()
            for orphan in self._orphans:
                orphan.close()
            self._left = True

        self._begin(body)
        return os.getpid()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._server = server

    def use_learner(self, learner: Any, rank: int) -> None:
        """A new learner has taken the place of the old one of this rank."""
        if self._sink is not None:
            self._sink.use_learner(learner, rank)

    def feed(self, learner: Any, rank: int) -> None:
        """Send what comes from now on to this learner."""
        if self._sink is not None:
            self._sink.feed(learner, rank)

    def use_inference(self, server: Any) -> None:
        """Ask this inference server from now on."""
        if self._link is not None:
            self._link.use(server)

    def report(self, env_steps: int) -> dict[str, Any]:
        """See ``EnvWorker.progress`` and ``EnvWorker.report``; ``feeds``: see ``RaySink``.

        Returns:
            Also ``failure`` where the loop has ended in one, ``left`` where this is the last report of one that was
            told to stop, ``adopted``: incarnation → transitions committed by the lives whose spools it took over,
            ``notes``: what of these could not be read, told once. ``asks``: whether an inference server chooses the
            actions. ``worker``: its number.

        Raises:
            DistrlError: why there are no environments.
        """
        if self._refusal is not None:
            raise self._refusal
        self._worker.progress(env_steps)
        complaints = [complaint for orphan in self._orphans for complaint in orphan.complaints]
        notes, self._told = complaints[self._told :], len(complaints)
        # before the rest: it is final
        facts: dict[str, Any] = {"failure": self._failure, "left": self._left, "adopted": self._adopted, "notes": notes}
        facts["asks"] = self._link is not None and self._link.alive
        facts["worker"] = self._identity["worker"]
        facts["feeds"] = [] if self._sink is None else self._sink.feeds
        report = self._worker.report() | facts | whereabouts()
        if self._sink is not None and self._sink.is_full:
            report["waits_for"] = "the learner's acknowledgement"
        return report

    def stop(self, grace_s: float) -> None:
        """Let steps under way finish within the grace, publish what is finished, wait until it is secured, end the
        environments. Where the episodes stand is left beside their snapshots. Reports go on, until one says ``left``.
        """
        self._grace_s = grace_s
        self._stop.set()


def write_cursors(folder: Path, cursors: dict[int, Cursor]) -> None:
    """Where a worker that leaves in order had come to; only beside snapshots, from which its successor continues."""
    if folder.exists():
        write_json(folder / "cursors.json", {str(env): [c.episode_uid, c.step] for env, c in cursors.items()})


def read_cursors(folder: Path) -> dict[int, Cursor]:
    """What ``write_cursors`` left, once."""
    path = folder / "cursors.json"
    try:
        found = json.loads(path.read_text())
        path.unlink()
    except FileNotFoundError:
        return {}
    return {int(env): Cursor(uid, step) for env, (uid, step) in found.items()}
