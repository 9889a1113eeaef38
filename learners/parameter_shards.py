"""Gradients of several learners flow in, each a part of the vectors; newer parameters flow out to whoever pushed.

The vectors of an algorithm are cut into as many parts as there are shards. A shard has its part's optimizer: a learner
pulls, computes a gradient on a batch of its own, and pushes it with the version of the parameters that it was computed
at; the answer holds the newest parameters. A version is the number of updates that the shard has applied.

**Staleness of a gradient**, τ: the version that it is applied at less the one that it was computed at. Its bound is
of Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server": a learner
that is more than ``bound`` pushes ahead of the slowest one at work is answered once that one has pushed, so

    τ ≤ (learners − 1) · (2 · bound + 1)

With ``bound = 0`` all learners go in step: a version is one step along the mean of everybody's gradients. A learner
that waits for transitions rests: nobody waits for it.

Two corrections of what is stale:

    rate · 1 / min(1 + τ, limit)                          Zhang et al. 2016, arXiv 1511.05950, equation 6, bounded
    g + λ g ⊙ g ⊙ (w − w_pulled)                          Zheng et al. 2017, DC-ASGD, arXiv 1609.08326, equation 10
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distrl.core.published_version import PublishedVersion
from distrl.core.staleness import StalenessHistogram
from distrl.learners.optimizer import Rule, Trained

ALIGNMENT = 64  # elements: a part that begins at a multiple of it is stepped as it would be in the whole
Span = tuple[int, int]  # [begin, end) of a vector
Arrays = dict[str, np.ndarray]


class Pulled(NamedTuple):
    """A shard's answer.

    Attributes:
        version: of what follows. staleness: τ of the push, 0 of a pull.
        clock: of the learner that is farthest, by pushes: where one that joins begins to count.
        flat, target: float32 parts, by vector.
    """

    version: int
    staleness: int
    clock: int
    flat: Arrays
    target: Arrays


@dataclass(frozen=True)
class ShardOptions:
    """Attributes: bound: see the top; None: none. rate_limit: of the division by 1 + τ; None: there is none.
    compensation: λ; None: there is none.
    """

    bound: int | None = None
    rate_limit: float | None = None
    compensation: float | None = None


@dataclass
class _Learner:
    """What a shard knows of one. Attributes: pushes: number of its newest. clock: by which it is compared with others.
    pulled: what it was given last, where gradients are compensated.
    """

    pushes: int = 0
    clock: int = 0
    answer_staleness: int = 0
    pulled: dict[str, Tensor] = field(default_factory=dict)


def parts(sizes: Mapping[str, int], count: int) -> list[dict[str, Span]]:
    """Which part of each vector each of ``count`` shards has, so that all have about as many bytes.

    Args:
        sizes: elements of each vector.
    """
    total = sum(sizes.values())
    found: list[dict[str, Span]] = [{} for _ in range(count)]
    offset = 0
    for name, size in sizes.items():
        cuts = [_aligned(total * shard / count - offset, size) for shard in range(count + 1)]
        for shard, (begin, end) in enumerate(pairwise(cuts)):
            if begin < end:
                found[shard][name] = (begin, end)
        offset += size
    return found


def _aligned(position: float, size: int) -> int:
    if position >= size:
        return size
    return min(max(0, round(position / ALIGNMENT) * ALIGNMENT), size)


class ParameterShard:
    """One part of the vectors, and the optimizer of it.

        shard.begin(spans, rules, states)                    # the first learner's is taken
        shard.join(learner) → Pulled
        shard.push(learner, number, clock, version, gradients, rate) → Pulled      # may wait: see the top
        shard.rest(learner)

    Any method may be called from any thread, and again with the same arguments: a push that has been applied is not
    applied again.

    Args:
        options: see there.
        published: where the version is kept from before it is told on, so that it never decreases.
    """

    def __init__(self, options: ShardOptions, published: PublishedVersion | None = None):
        self._options, self._published = options, published
        self._changed = threading.Condition()
        self._begun = False
        self._vectors: dict[str, Trained] = {}
        self._spans: dict[str, Span] = {}
        self._learners: dict[str, _Learner] = {}
        self._at_work: set[str] = set()
        self._pending: dict[str, tuple[dict[str, Tensor], float]] = {}  # of this round, where all go in step
        self.version = 0 if published is None else published.read()
        self.staleness = StalenessHistogram()
        self.num_pushes = self.num_bytes = 0

    def begin(self, spans: Mapping[str, Span], rules: Mapping[str, Rule], states: Mapping[str, dict[str, Any]]) -> None:
        """Take parameters and optimizer of a part, unless there are some already.

        Args:
            states: ``Trained.state`` of each part.
        """
        with self._changed:
            if self._begun:
                return
            self._begun, self._spans = True, dict(spans)
            for name, state in states.items():
                vector = Trained(state["flat"].clone(), rules[name])
                vector.load_state(state)
                self._vectors[name] = vector
            self._changed.notify_all()

    def join(self, learner: str) -> Pulled:
        """The newest parameters, once there are any, for a learner that begins or has rested; it is at work now."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun)
            known = self._learners.setdefault(learner, _Learner())
            if learner not in self._at_work:
                known.clock = max([known.clock, *(self._learners[other].clock for other in self._at_work)])
                self._at_work.add(learner)
            return self._answer(known, 0)

    def rest(self, learner: str) -> None:
        """This learner will not push for some time, or has gone: nobody is to wait for it."""
        with self._changed:
            self._at_work.discard(learner)
            self._pending.pop(learner, None)
            self._complete_round()
            self._changed.notify_all()

    def push(self, learner: str, number: int, clock: int, version: int, gradients: Arrays, rate: float) -> Pulled:
        """Apply a gradient, and answer with what has become of the parameters.

        Args:
            number: of this learner's pushes, from 1. clock: of the learner with this push, the same for all shards: if
                each counted by itself, two of them could let two learners wait for each other.
            version: of the parameters that the gradient was computed at.
            gradients: float32 parts, of the vectors that have one.
            rate: factor on the learning rates.
        """
        with self._changed:
            known = self._learners.setdefault(learner, _Learner())
            self._at_work.add(learner)
            if number > known.pushes:
                known.pushes = number
                self.num_pushes += 1
                self.num_bytes += sum(gradient.nbytes for gradient in gradients.values())
                tensors = {name: torch.from_numpy(np.array(gradient)) for name, gradient in gradients.items()}
                if self._options.bound == 0:
                    self._pending[learner] = (tensors, rate)
                    self._complete_round()
                else:
                    known.answer_staleness = max(self.version - version, 0)
                    self.staleness.add(self.version, np.array([min(version, self.version)]))
                    self._apply(self._corrected(known, tensors), rate * self._slowed(known.answer_staleness))
                known.clock = clock
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._may_go_on(learner))
            return self._answer(known, known.answer_staleness)

    def state(self) -> dict[str, Any]:
        """``Trained.state`` of each part, ``spans`` and the version: what ``load_state`` takes."""
        with self._changed:
            return {
                "spans": dict(self._spans),
                "version": self.version,
                "vectors": {name: vector.state() for name, vector in self._vectors.items()},
                "rules": {name: vector.rule for name, vector in self._vectors.items()},
                "pushes": {name: known.pushes for name, known in self._learners.items()},
            }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken, before anybody has joined."""
        self.begin(state["spans"], state["rules"], state["vectors"])
        with self._changed:
            self.version = max(self.version, state["version"])
            for name, pushes in state["pushes"].items():
                self._learners[name] = _Learner(pushes=pushes)

    def report(self) -> dict[str, Any]:
        """Counters since it started."""
        with self._changed:
            return {
                "version": self.version,
                "pushes": self.num_pushes,
                "bytes": self.num_bytes,
                "at_work": sorted(self._at_work),
                **{f"gradient_{name}": value for name, value in self.staleness.summary().items()},
            }

    def _may_go_on(self, learner: str) -> bool:
        if learner not in self._at_work:  # it was given up meanwhile
            return True
        if self._options.bound == 0:
            return learner not in self._pending
        if self._options.bound is None:
            return True
        slowest = min(self._learners[other].clock for other in self._at_work)
        return self._learners[learner].clock <= slowest + self._options.bound

    def _complete_round(self) -> None:
        """Where all go in step and everybody at work has pushed: one step along the mean, in the order of names."""
        if not self._pending or not self._at_work <= set(self._pending):
            return
        pushed = [self._pending[name] for name in sorted(self._pending)]
        self._pending.clear()
        names = {name for gradients, _ in pushed for name in gradients}
        mean = {
            name: torch.stack([gradients[name] for gradients, _ in pushed if name in gradients]).mean(0)
            for name in sorted(names)
        }
        self.staleness.add(self.version, np.full(len(pushed), self.version))
        self._apply(mean, pushed[0][1])

    def _corrected(self, known: _Learner, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        factor = self._options.compensation
        if factor is None or not known.pulled:
            return gradients
        return {
            name: gradient + factor * gradient.square() * (self._vectors[name].flat - known.pulled[name])
            for name, gradient in gradients.items()
        }

    def _slowed(self, staleness: int) -> float:
        limit = self._options.rate_limit
        return 1.0 if limit is None else 1.0 / min(1.0 + staleness, limit)

    def _apply(self, gradients: dict[str, Tensor], rate: float) -> None:
        if self._published is not None:
            self._published.write(self.version + 1)
        for name, gradient in gradients.items():
            self._vectors[name].step(gradient, rate)
        self.version += 1

    def _answer(self, known: _Learner, staleness: int) -> Pulled:
        """Copies: the vectors change while they travel."""
        flat = {name: vector.flat.numpy().copy() for name, vector in self._vectors.items()}
        target = {
            name: vector.target.numpy().copy() for name, vector in self._vectors.items() if vector.target is not None
        }
        if self._options.compensation is not None:
            known.pulled = {name: torch.from_numpy(array) for name, array in flat.items()}
        clock = max((other.clock for other in self._learners.values()), default=0)
        return Pulled(self.version, staleness, clock, flat, target)


def gradient_staleness_bound(bound: int | None, learners: int) -> float:
    """The largest τ that can come, while nobody joins."""
    return math.inf if bound is None else (learners - 1) * (2 * bound + 1) * (bound > 0)


def joined(states: Sequence[dict[str, Any]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """``Trained.state`` of whole vectors, from all shards' states.

    Args:
        sizes: elements of each vector.
    """
    whole: dict[str, Any] = {}
    for name, size in sizes.items():
        found = [(state["spans"][name], state["vectors"][name]) for state in states if name in state["spans"]]
        kinds = [kind for kind, value in found[0][1].items() if isinstance(value, Tensor)]
        whole[name] = {kind: torch.empty(size) for kind in kinds} | {"steps": max(part["steps"] for _, part in found)}
        for (begin, end), part in found:
            for kind in kinds:
                whole[name][kind][begin:end] = part[kind]
    return whole
