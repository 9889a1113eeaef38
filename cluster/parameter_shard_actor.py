"""A shard of the parameter server as a Ray actor, which keeps its state in the run directory; and the way to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from distrl.cluster.ray_actors import whereabouts
from distrl.core.config import RunConfig
from distrl.core.published_version import PublishedVersion

SHARDS = "shards"  # folder of a run directory
_KEEP_S = 5.0  # between two states on the disk: what a shard's death undoes at most …
_KEEP_SHARE = 0.02  # … and of the time, where writing one takes long
_LOOK_S = 0.1  # between two looks for a dead shard's successor


class ParameterShardActor:
    """``ParameterShard`` behind Ray; learners wait in threads of it."""

    def __init__(self, config: dict[str, Any], directory: str, number: int):
        import torch

        from distrl.learners.parameter_shards import ParameterShard, ShardOptions
        from distrl.learners.trainer import from_bytes

        learner = RunConfig.validated(config).learner
        torch.set_num_threads(1)
        folder = Path(directory) / SHARDS
        folder.mkdir(exist_ok=True)
        self._file = folder / f"{number}-of-{learner.shards}.pt"  # those of another division are of no use
        self._published = PublishedVersion(folder / f"version-{number}")
        options = ShardOptions(learner.staleness_bound, learner.stale_rate_limit, learner.delay_compensation)
        self._shard = ParameterShard(options, self._published)
        if self._file.exists():
            self._shard.load_state(from_bytes(self._file.read_bytes(), torch.device("cpu")))
        self._kept_version, self._keeping = self._shard.version, threading.Lock()
        self._stop = threading.Event()
        threading.Thread(target=self._keep_on, name="keep", daemon=True).start()

    def begin(self, *arguments: Any) -> None:
        """See ``ParameterShard.begin``; on the disk before anybody builds on it."""
        self._shard.begin(*arguments)
        self._keep()

    def join(self, learner: str) -> Any:
        """See ``ParameterShard.join``."""
        return self._shard.join(learner)

    def rest(self, learner: str) -> None:
        """See ``ParameterShard.rest``."""
        self._shard.rest(learner)

    def push(self, *arguments: Any) -> Any:
        """See ``ParameterShard.push``."""
        return self._shard.push(*arguments)

    def state(self) -> dict[str, Any]:
        """See ``ParameterShard.state``."""
        return self._shard.state()

    def report(self) -> dict[str, Any]:
        """See ``ParameterShard.report``; and where it is."""
        return self._shard.report() | whereabouts()

    def stop(self) -> dict[str, Any]:
        """Keep the state; the last report."""
        self._stop.set()
        self._keep()
        return self.report()

    def _keep_on(self) -> None:
        pause_s = _KEEP_S
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            if self._shard.version != self._kept_version:
                self._keep()
            pause_s = max(_KEEP_S, (time.monotonic() - began) / _KEEP_SHARE)

    def _keep(self) -> None:
        from distrl.learners.trainer import to_bytes

        with self._keeping:
            state = self._shard.state()
            beside = self._file.with_suffix(".new")
            beside.write_bytes(to_bytes(state))
            os.replace(beside, self._file)
            self._kept_version = state["version"]


def forget_shards(run: Path) -> None:
    """Remove what the shards of an earlier session have kept."""
    shutil.rmtree(run / SHARDS, ignore_errors=True)


class RayShardLink:
    """Implements ``distrl.learners.sharded_optimizer.ShardLink``.

    Args:
        newest: number → the shard there is now; the supervisor starts another where one has died.
    """

    def __init__(self, number: int, newest: Callable[[int], Any]):
        self._number, self._newest = number, newest

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """See ``ShardLink``."""
        shard = self._newest(self._number)
        answer = getattr(shard, method).remote(*arguments)

        def wait() -> Any:
            nonlocal shard, answer
            while True:
                with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                    return ray.get(answer)
                if shard is self._newest(self._number):
                    time.sleep(_LOOK_S)  # until we are told of its successor
                shard = self._newest(self._number)
                answer = getattr(shard, method).remote(*arguments)

        return wait
