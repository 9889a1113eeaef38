"""Errors of transitions flow in, slots drawn the more often the larger their error flow out (numpy only).

Proportional prioritisation: Schaul et al. 2016, "Prioritized Experience Replay", arXiv 1511.05952. With |δ_i| the size
of transition i's temporal-difference error when it was trained on last, N transitions stored and α, β of the rule:

    p_i = |δ_i| + ε                      section 3.3; of what has never been drawn, the largest p so far
    P(i) = p_i^α / Σ_k p_k^α             equation 1
    w_i = (N · P(i))^−β / max_j w_j      section 3.4, what i counts in the losses; the maximum is the batch's

The p_i^α are the leaves of a tree of sums. Each sum is made of its children whenever one of them changes,
never adjusted by a difference, so that the tree is a function of its leaves alone, whatever happened before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError
from distrl.learners.replay import Replay, SampleBatch

_BRANCHES = 16  # leaves of a group, groups of a block; over blocks, of which there are few, a draw takes a running sum
_BELOW = 1.0 - 1e-12
_EPSILON = 1e-6  # so that nothing is never drawn


@dataclass(frozen=True)
class PriorityRule:
    """Attributes: exponent: α. correction: β at first. full_at: transitions after which it is 1; it grows linearly."""

    exponent: float
    correction: float
    full_at: int

    def beta(self, added: int) -> float:
        """β once so many transitions have been added."""
        if added >= self.full_at:
            return 1.0
        return self.correction + (1.0 - self.correction) * added / self.full_at


class Priorities:
    """Of the slots of a ring.

        priorities.admit(slots)                    # before a slot can be drawn
        slots, chances = priorities.draw(uniform)
        priorities.update(slots, errors)

    Attributes:
        largest: p so far.
    """

    def __init__(self, capacity: int, exponent: float):
        self.largest = 1.0
        self._exponent = exponent
        blocks = -(-capacity // _BRANCHES**2)
        self._leaves = np.zeros(blocks * _BRANCHES**2, np.float32)
        self._groups = np.zeros(blocks * _BRANCHES)  # sums of leaves
        self._blocks = np.zeros(blocks)  # sums of groups

    @property
    def nbytes(self) -> int:
        """Bytes of the tree."""
        return self._leaves.nbytes + self._groups.nbytes + self._blocks.nbytes

    def admit(self, slots: np.ndarray) -> None:
        """New transitions lie in these slots, int64 [S]."""
        self._set(slots, np.full(len(slots), self.largest))

    def update(self, slots: np.ndarray, errors: np.ndarray) -> None:
        """The transitions in slots int64 [S] have been trained on, with errors |δ| [S] that are finite."""
        priorities = np.abs(errors).astype(np.float64) + _EPSILON
        self.largest = max(self.largest, float(priorities.max(initial=0.0)))
        self._set(slots, priorities)

    def draw(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slots int64 [S] for numbers [S] in [0, 1), and the chance P of each."""
        passed = self._blocks.cumsum()
        total = passed[-1]
        mass = np.minimum(uniform * total, total * _BELOW)
        node = np.searchsorted(passed, mass, side="right")
        mass -= np.where(node > 0, passed[node - 1], 0.0)
        for level in (self._groups, self._leaves):
            below = level.reshape(-1, _BRANCHES)[node].cumsum(1, np.float64)
            np.minimum(mass, below[:, -1] * _BELOW, out=mass)  # sums differ in their last digits
            child = (below > mass[:, None]).argmax(1)
            mass -= np.where(child > 0, below[np.arange(len(child)), child - 1], 0.0)
            node = node * _BRANCHES + child
        return node, self._leaves[node] / total

    def leaves(self, slots: np.ndarray) -> np.ndarray:
        """p^α of slots, float32 [S]: what a checkpoint keeps."""
        return self._leaves[slots]

    def restore(self, slots: np.ndarray, leaves: np.ndarray) -> None:
        """What ``leaves`` gave, for the slots where the transitions lie now."""
        self._write(slots, leaves)

    def _set(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._write(slots, priorities**self._exponent)

    def _write(self, slots: np.ndarray, leaves: np.ndarray) -> None:
        self._leaves[slots] = leaves
        groups = slots // _BRANCHES
        self._groups[groups] = self._leaves.reshape(-1, _BRANCHES)[groups].sum(1, np.float64)
        blocks = groups // _BRANCHES
        self._blocks[blocks] = self._groups.reshape(-1, _BRANCHES)[blocks].sum(1)


class PrioritizedReplay(Replay):
    """A ``Replay`` that draws by priority; ``SampleBatch.weight`` makes up for it.

    Args:
        rule: of the priorities. options: of ``Replay``.
    """

    def __init__(self, capacity: int, rule: PriorityRule, **options: Any):
        super().__init__(capacity, **options)
        self._rule, self._priorities = rule, Priorities(capacity, rule.exponent)
        self._admitted = self._next  # numbers below have a priority; what is newer gets it with the next draw

    @property
    def nbytes(self) -> int:
        """See ``Replay``."""
        return super().nbytes + self._priorities.nbytes

    def sample(self, batch_size: int, rng: np.random.Generator) -> SampleBatch:
        """Draw one from each of ``batch_size`` strata of equal priority, and mark it as sampled."""
        with self._lock:
            if self._next == self._oldest:
                raise ValueError("a sample batch needs at least one stored transition; the replay is empty")
            # Not when it arrives: what the largest priority is then depends on how far an update beside it has come.
            self._priorities.admit(self._slots(max(self._admitted, self._oldest), self._next))
            self._admitted = self._next
            strata = (np.arange(batch_size) + rng.random(batch_size)) / batch_size
            slots, chance = self._priorities.draw(strata)
            batch = self._gather(self._oldest + (slots - self._oldest) % self.capacity)
            weight = (len(self) * chance) ** -self._rule.beta(self._next)
            weight = (weight / weight.max()).astype(np.float32)
            batch.weight = weight if batch.weight is None else weight * batch.weight
            return batch

    def learned(self, batch: SampleBatch) -> None:
        """Draw the batch's transitions from now on by the errors that ``gradients`` has left in it.

        Raises:
            ConfigError: there are none.
        """
        if batch.error is None:
            raise ConfigError(
                "replay.priority_exponent needs an algorithm whose gradients leave temporal-difference errors in the "
                "sample batch: leave it out"
            )
        errors = batch.error.numpy(force=True)
        with self._lock:
            kept = np.isfinite(errors) & (batch.number >= self._oldest)  # others have been overwritten meanwhile
            self._priorities.update(batch.number[kept] % self.capacity, errors[kept])

    def sampled_state(self) -> dict[str, np.ndarray]:
        """See ``Replay``; and the priorities."""
        with self._lock:
            known = self._slots(self._oldest, max(self._admitted, self._oldest))
            found = {"priorities": self._priorities.leaves(known), "largest": np.array(self._priorities.largest)}
            return super().sampled_state() | found

    def restore_sampled(self, state: dict[str, np.ndarray]) -> None:
        """See ``Replay``; of a state without priorities, all begin with the largest."""
        with self._lock:
            super().restore_sampled(state)
            leaves, oldest = state.get("priorities", np.zeros(0, np.float32)), int(state["oldest"])
            self._priorities.largest = float(state.get("largest", 1.0))
            first, self._admitted = max(oldest, self._oldest), max(oldest + len(leaves), self._oldest)
            self._priorities.admit(self._slots(self._oldest, min(first, self._admitted)))
            self._priorities.restore(self._slots(first, self._admitted), leaves[first - oldest :])
