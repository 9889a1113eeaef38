"""A learner's gradients flow in and go to the shards of the parameter server; the newest parameters flow back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch

from distrl.learners.optimizer import Gradients, Optimizer, Trained
from distrl.learners.parameter_shards import Arrays, ParameterShard, Pulled, joined, parts


class ShardLink(Protocol):
    """The way to one shard."""

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a call of a method of ``ParameterShard``, without waiting; what comes back waits for the answer, from
        the shard or, where it has died, from its successor. The next call begins after that."""


class DirectLink:
    """To a shard in this process. A call has a thread of its own: who waits in one shard must have reached the others,
    or two learners could wait for each other."""

    def __init__(self, shard: ParameterShard):
        self._shard, self._thread = shard, ThreadPoolExecutor(1)

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """See ``ShardLink``."""
        return self._thread.submit(getattr(self._shard, method), *arguments).result


class ShardedOptimizer(Optimizer):
    """In place of an algorithm's own optimizer, whose vectors become copies of what the shards hold.

        optimizer.refresh()             # before a gradient: where it has rested, pull
        optimizer.step(gradients)       # push, and pull
        optimizer.rest()                # no gradient will come for some time

    Args:
        trained: the algorithm's vectors.
        links: to the shards.
        learner: unique in the run, for each life of a learner.
        first: whether the shards, where they have nothing yet, begin with these vectors; one learner does that.

    Attributes:
        version: of the parameters here, the least of the shards'. staleness: of the newest gradient, τ.
        num_bytes: pushed and pulled.
    """

    def __init__(self, trained: Mapping[str, Trained], links: Sequence[ShardLink], learner: str, first: bool = True):
        super().__init__(trained)
        self.look_period = 1  # what is pushed is on the host anyway
        self._links, self._learner = links, learner
        self._sizes = {name: len(vector.flat) for name, vector in trained.items()}
        self._parts = parts(self._sizes, len(links))
        self._versions = [0] * len(links)
        self._pushes = self._clock = self.num_bytes = self.staleness = 0
        self._at_work = False
        if first:
            self._offer()
        self.refresh()

    def _offer(self) -> None:
        states = {name: vector.state() for name, vector in self.trained.items()}
        waits = []
        for link, spans in zip(self._links, self._parts, strict=True):
            offer = {
                name: {
                    kind: value[begin:end] if isinstance(value, torch.Tensor) else value
                    for kind, value in states[name].items()
                }
                for name, (begin, end) in spans.items()
            }
            waits.append(link.call("begin", spans, {name: self.trained[name].rule for name in spans}, offer))
        for wait in waits:
            wait()

    @property
    def version(self) -> int:
        """See above."""
        return min(self._versions)

    def refresh(self) -> None:
        """Have the newest parameters, and be waited for from now on; nothing where it has not rested."""
        if self._at_work:
            return
        waits = [link.call("join", self._learner) for link in self._links]
        answers = [wait() for wait in waits]
        self._take(answers)
        self._clock = max(answer.clock for answer in answers)
        self._at_work = True

    def rest(self) -> None:
        """Nobody is to wait for this learner until ``refresh``."""
        if not self._at_work:
            return
        for wait in [link.call("rest", self._learner) for link in self._links]:
            wait()
        self._at_work = False

    def state(self) -> dict[str, Any]:
        """Of the shards, as an optimizer of one process has it: either continues from it."""
        waits = [link.call("state") for link in self._links]
        return {"updates": self.updates, **joined([wait() for wait in waits], self._sizes)}

    def _move(self, gradients: Gradients, rate: float) -> None:
        self._pushes += 1
        self._clock += 1
        host = {name: gradient.to("cpu").numpy() for name, gradient in gradients.items()}
        waits = []
        for link, spans, version in zip(self._links, self._parts, self._versions, strict=True):
            part: Arrays = {name: host[name][begin:end] for name, (begin, end) in spans.items() if name in host}
            self.num_bytes += sum(array.nbytes for array in part.values())
            waits.append(link.call("push", self._learner, self._pushes, self._clock, version, part, rate))
        self._take([wait() for wait in waits])
        self.updates += 1

    def _take(self, answers: Sequence[Pulled]) -> None:
        for number, (pulled, spans) in enumerate(zip(answers, self._parts, strict=True)):
            self._versions[number] = pulled.version
            for name, (begin, end) in spans.items():
                vector = self.trained[name]
                vector.flat[begin:end] = torch.from_numpy(pulled.flat[name])
                if vector.target is not None:
                    vector.target[begin:end] = torch.from_numpy(pulled.target[name])
            for arrays in (pulled.flat, pulled.target):
                self.num_bytes += sum(array.nbytes for array in arrays.values())
        self.staleness = max(pulled.staleness for pulled in answers)
