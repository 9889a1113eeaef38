"""A shard of the parameter server as a Ray actor, which keeps its state in the run directory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from distrl.cluster.ray_actors import whereabouts
from distrl.cluster.shard_line import Address, ShardListener
from distrl.core.config import RunConfig
from distrl.core.published_version import PublishedVersion

SHARDS = "shards"  # folder of a run directory
_KEEP_S = 5.0  # between two states on the disk: what a shard's death undoes at most …
_KEEP_SHARE = 0.02  # … and of the time, where writing one takes long


class ParameterShardActor:
    """``ParameterShard``, to which learners have connections of their own; Ray's calls are the supervisor's.

    Args:
        key: see ``ShardListener``.
    """

    def __init__(self, config: dict[str, Any], directory: str, number: int, key: bytes):
        import torch

        from distrl.learners.parameter_shards import ParameterShard, ShardOptions
        from distrl.learners.trainer import from_bytes

        learner = RunConfig.validated(config).learner
        torch.set_num_threads(1)
        folder = Path(directory) / SHARDS
        folder.mkdir(exist_ok=True)
        self._file = folder / f"{number}-of-{learner.shards}.pt"
        self._published = PublishedVersion(folder / f"version-{number}")
        options = ShardOptions(learner.staleness_bound, learner.stale_rate_limit, learner.delay_compensation)
        self._shard = ParameterShard(options, self._published)
        if self._file.exists():
            self._shard.load_state(from_bytes(self._file.read_bytes(), torch.device("cpu")))
        self._kept_version, self._keeping = self._shard.version, threading.Lock()
        self._stop, self._failure = threading.Event(), ""
        own = {name: getattr(self._shard, name) for name in ("join", "push", "rest", "state")}
        calls: dict[str, Callable[..., Any]] = own | {"begin": self._begin}
        self._listener = ShardListener(calls, ray.util.get_node_ip_address(), key)
        threading.Thread(target=self._keep_on, name="keep", daemon=True).start()

    def address(self) -> Address:
        """Where learners connect to."""
        return self._listener.address

    def rest(self, learner: str) -> None:
        """See ``ParameterShard.rest``."""
        self._shard.rest(learner)

    def report(self) -> dict[str, Any]:
        """See ``ParameterShard.report``; where it is; and why it cannot go on."""
        return self._shard.report() | whereabouts() | {"failure": self._failure}

    def stop(self) -> dict[str, Any]:
        """Keep the state; the last report."""
        self._stop.set()
        self._keep()
        return self.report()

    def _begin(self, *arguments: Any) -> None:
        self._shard.begin(*arguments)
        self._keep()  # before anybody is told that it has begun

    def _keep_on(self) -> None:
        pause_s = _KEEP_S
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            try:
                if self._shard.version != self._kept_version:
                    self._keep()
            except OSError as error:  # the next report tells
                self._failure = f"{self._file} cannot be written: {error.strerror}"
            pause_s = max(_KEEP_S, (time.monotonic() - began) / _KEEP_SHARE)

    def _keep(self) -> None:
        from distrl.learners.trainer import to_bytes

        with self._keeping:
            state = self._shard.state()
            beside = self._file.with_suffix(".new")
            beside.write_bytes(to_bytes(state))
            os.replace(beside, self._file)
            self._kept_version = state["version"]


def forget_shards(run: Path, but: int | None = None) -> None:
    """Remove the state that shards of an earlier session have kept, other than of a division into ``but`` parts: the
    learners' checkpoints are newer. Versions stay, since they never decrease."""
    for path in (run / SHARDS).glob("*-of-*.pt"):
        if not path.name.endswith(f"-of-{but}.pt"):
            path.unlink()
