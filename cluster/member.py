"""One actor of a run: asked for a report at a time, and by the answer that it owes, or by what it says, found dead."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import ray

_PROMPT_S = 3.0  # for a report of a server that env workers may be sent to
# Who has reported before and does not for so long is taken for dead; a learner after longer, because it may have much
# to receive between two reports. Who is not named here may take any time.
_PATIENCE_S = {"env_worker": 60.0, "inference_server": 60.0, "learner": 120.0}


@dataclass(eq=False)
class Member:
    """An actor with a method ``report``, and the answer that it owes.

    Attributes:
        role: as in events. number: among those of its role; None: there is one.
        answer: reference to the report that it owes, or None: nothing is asked. since: when that was asked.
        heard: whether it has ever answered. still_s: that its loop had stood still when it last did.
        leaving: whether it has been told to; only env workers are.
    """

    role: str
    actor: Any
    number: int | None = None
    answer: Any = None
    since: float = 0.0
    heard: bool = False
    still_s: float = 0.0
    leaving: bool = False

    @property
    def name(self) -> str:
        """In sentences."""
        words = self.role.replace("_", " ")
        return f"the {words}" if self.number is None else f"{words} {self.number}"

    @property
    def key(self) -> str:
        """Among the run's processes."""
        return self.role if self.number is None else f"{self.role}_{self.number}"

    @property
    def patience_s(self) -> float:
        """After which it is taken for dead."""
        return _PATIENCE_S.get(self.role, math.inf)

    @property
    def is_silent(self) -> bool:
        """Whether it has answered before, and not for too long."""
        return self.heard and time.monotonic() - self.since > self.patience_s

    @property
    def stands_still(self) -> bool:
        """Whether it answers, but does nothing else."""
        return self.still_s > self.patience_s

    @property
    def is_prompt(self) -> bool:
        """Whether it answers and works without delay."""
        return self.heard and max(self.still_s, time.monotonic() - self.since) < _PROMPT_S

    def ask(self, *arguments: Any) -> Any:
        """For a report, unless it owes one; the reference to it."""
        if self.answer is None:
            self.answer, self.since = self.actor.report.remote(*arguments), time.monotonic()
        return self.answer

    def take(self) -> dict[str, Any]:
        """The report that has come.

        Raises:
            RayError: it has died instead.
        """
        answer, self.answer = self.answer, None
        report = ray.get(answer)
        self.heard, self.still_s = True, report.get("still_s", 0.0)
        return report


@dataclass(eq=False)
class Worker(Member):
    """An env worker's life. Attributes: rank: of the learner that it is to feed. feeds: ranks of those that it did when
    it was last heard.
    """

    number: int = -1
    incarnation: int = -1
    node_id: str = ""
    rank: int = 0
    feeds: frozenset[int] = frozenset()
