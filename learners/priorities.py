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

import numpy as np

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
