"""Every transition that an environment produced is in exactly one state; this ledger counts them and checks the sum.

    produced + warm = trained + queued + evicted + Σ rejected(reason)

*trained*: sampled at least once. *queued*: on its way or stored, not yet sampled. *evicted*: left the replay unsampled.
*rejected*: will never be trained on, with the reason. ``produced`` is counted by the environment processes themselves;
``warm`` are those that other runs had produced (replay.warm_start).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Accounts:
    """One balanced statement of the ledger, in transitions."""

    produced: int
    trained: int
    queued: int
    evicted: int
    rejected: dict[str, int]
    warm: int = 0

    @property
    def difference(self) -> int:
        """0 if every transition is in exactly one state."""
        return self.produced + self.warm - self.trained - self.queued - self.evicted - sum(self.rejected.values())

    def check(self) -> None:
        """
        Raises:
            AssertionError: the identity does not hold.
        """
        assert self.difference == 0, f"{self.difference} transitions are in no state or in two: {self}"


@dataclass
class Ledger:
    """What the learner side has secured, by the life of the env worker it came from, and what it refused.

    Attributes:
        secured: incarnation of an env worker → transitions appended to the log.
        duplicates: transitions that arrived again (not produced again, so in no state).
        rejected: reason → transitions.
        warm: transitions that another run had produced.
    """

    secured: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    warm: int = 0

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "secured": dict(self.secured),
            "duplicates": self.duplicates,
            "rejected": dict(self.rejected),
            "warm": self.warm,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Ledger:
        """The inverse of ``state``, also after a trip through JSON."""
        secured = Counter({int(key): value for key, value in state["secured"].items()})
        return Ledger(secured, state["duplicates"], Counter(state["rejected"]), state["warm"])

    def balance(
        self,
        produced: dict[int, int],
        live: set[int],
        unsampled: int,
        evicted: int,
        frozen: dict[int, int] | None = None,
    ) -> Accounts:
        """The statement, given what each worker's environments produced.

        Args:
            produced: incarnation → steps its environments finished.
            live: incarnations that are still running: what they have not delivered is queued. What a dead one has not
            delivered
                is lost with it, as ``rejected["worker_died"]``.
            unsampled: stored and not yet sampled. evicted: overwritten unsampled.
            frozen: incarnation → steps of policies that do not learn, as far as is known: ``rejected["frozen"]``.
        """
        rejected = Counter(self.rejected)
        under_way = 0
        total = 0
        for incarnation in set(produced) | set(self.secured):
            secured = self.secured[incarnation]
            # a counter read a moment before its fragments were secured may lag behind them
            aside = (frozen or {}).get(incarnation, 0)
            finished = max(produced.get(incarnation, 0) - aside, secured)
            total += finished + aside
            if aside:
                rejected["frozen"] += aside
            if incarnation in live:
                under_way += finished - secured
            elif finished > secured:
                rejected["worker_died"] += finished - secured
        stored = sum(self.secured.values()) + self.warm - sum(self.rejected.values())
        return Accounts(
            produced=total,
            trained=stored - unsampled - evicted,
            queued=unsampled + under_way,
            evicted=evicted,
            rejected=dict(rejected),
            warm=self.warm,
        )
