"""A shard of the parameter server as a Ray actor, which keeps its state in the run directory; and the way to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from distrl.cluster.ray_actors import whereabouts
from distrl.core.config import RunConfig
from distrl.core.published_version import PublishedVersion

Arrays = dict[str, np.ndarray]
Layout = tuple[tuple[str, int], ...]  # names and lengths of vectors, one behind the other
SHARDS = "shards"  # folder of a run directory
_KEEP_S = 5.0  # between two states on the disk: what a shard's death undoes at most …
_KEEP_SHARE = 0.02  # … and of the time, where writing one takes long
_LOOK_S = 0.1  # between two looks for a dead shard's successor
# Ray sends what is below 100 KB with the call, in a third of the time that a larger array takes by its object store
# from one node to another. Of one call it sends 10 MB so.
_PIECE = 24_000  # float32
_PIECES = 80


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

    def push_pieces(
        self, learner: str, number: int, clock: int, version: int, layout: Layout, rate: float, *pieces: np.ndarray
    ) -> tuple[Any, ...]:
        """``push`` of gradients in pieces; the answer's numbers, and its vectors in pieces."""
        gradients = from_pieces(layout, pieces)
        answer = self._shard.push(learner, number, clock, version, gradients, rate)
        numbers = answer.version, answer.staleness, answer.clock
        return numbers, *in_pieces([*answer.flat.values(), *answer.target.values()])

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
        self._flat: Layout = ()  # of an answer, once there was one
        self._target: Layout = ()

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """See ``ShardLink``."""
        cut = method == "push" and bool(self._flat)

        def begin(shard: Any) -> Any:
            return self._push(shard, *arguments) if cut else getattr(shard, method).remote(*arguments)

        shard = self._newest(self._number)
        answer = begin(shard)

        def wait() -> Any:
            nonlocal shard, answer
            while True:
                with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                    return self._pulled(ray.get(answer), cut)
                if shard is self._newest(self._number):
                    time.sleep(_LOOK_S)  # until we are told of its successor
                shard = self._newest(self._number)
                answer = begin(shard)

        return wait

    def _push(
        self, shard: Any, learner: str, number: int, clock: int, version: int, gradients: Arrays, rate: float
    ) -> Any:
        size = sum(size for _, size in (*self._flat, *self._target))
        call = shard.push_pieces.options(num_returns=1 + len(_cuts(size)))
        return call.remote(
            learner, number, clock, version, layout_of(gradients), rate, *in_pieces(list(gradients.values()))
        )

    def _pulled(self, answer: Any, cut: bool) -> Any:
        from distrl.learners.parameter_shards import Pulled

        if cut:
            numbers, *pieces = answer
            vector, size = _joined(pieces), sum(size for _, size in self._flat)
            version, staleness, clock = numbers
            flat, target = from_pieces(self._flat, [vector[:size]]), from_pieces(self._target, [vector[size:]])
            return Pulled(version, staleness, clock, flat, target)
        if isinstance(answer, Pulled):
            self._flat, self._target = layout_of(answer.flat), layout_of(answer.target)
        return answer


def layout_of(arrays: Arrays) -> Layout:
    """How vectors lie one behind the other."""
    return tuple((name, len(array)) for name, array in arrays.items())


def _cuts(size: int) -> list[slice]:
    """Pieces of a vector that Ray sends with a call; of one that is too long for that, the whole."""
    if size > _PIECE * _PIECES:
        return [slice(0, size)]
    return [slice(begin, begin + _PIECE) for begin in range(0, max(size, 1), _PIECE)]


def in_pieces(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Vectors one behind the other, cut into pieces that Ray sends with a call."""
    vector = _joined(arrays)
    return [vector[cut] for cut in _cuts(len(vector))]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def from_pieces(layout: Layout, pieces: Sequence[np.ndarray]) -> Arrays:
    """What ``in_pieces`` has cut."""
    vector = _joined(pieces)
    cuts = np.cumsum([size for _, size in layout])[:-1]
    return dict(zip([name for name, _ in layout], np.split(vector, cuts), strict=True)) if layout else {}
