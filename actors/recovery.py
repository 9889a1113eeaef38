"""Failures of rows go in; what to report, and how each row is to be started next, come out: the recovery ladder.

After a failure inside an episode that has snapshots, the row's next process continues it from the newest; fails that
too, from an older one; after MAX_FAILURES − 1 failures in a row without a finished step the episode is cut and the row
resets; after MAX_FAILURES it is quarantined.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from distrl.actors.snapshots import Continuation, SnapshotPlan, snapshot_steps
from distrl.core.contracts import Fault
from distrl.core.errors import EnvironmentFault
from distrl.core.types import Cursor

MAX_FAILURES = 5  # failures in a row without a finished step, after which a row is quarantined


@dataclass(frozen=True)
class Running:
    """An episode that is under way. Attributes: episode_uid. step: its finished steps.
    begun: how often its next step has been begun. known: whether it was given out in this life of the env worker."""

    episode_uid: int
    step: int
    begun: int = 0
    known: bool = True


class Recovery:
    """The ladder of every row of a pool.

    Attributes:
        orders: for each row, the episode that its next process continues; None: it resets.
        failures: of each row, in a row without a finished step. cause: the last failure.
    """

    def __init__(self, env_id: str, num_rows: int, plan: SnapshotPlan | None, cursors: Mapping[int, Cursor]):
        self._id = env_id
        self._plan = plan
        self.failures = [0] * num_rows
        self.cause = EnvironmentFault("no environment was started.", "error")
        self._episodes: list[Running | None] = [None] * num_rows
        self._held: list[Fault | None] = [None] * num_rows  # reported when it is known what became of the episode
        self._history: list[deque[dict]] = [deque(maxlen=MAX_FAILURES) for _ in range(num_rows)]
        for row, cursor in cursors.items():
            self._episodes[row] = Running(cursor.episode_uid, cursor.step + 1, known=False)
        self.orders = [self._rung(row) for row in range(num_rows)]

    def sentence(self, row: int, message: str) -> str:
        """A message about a row."""
        return f"environment {row} ({self._id}): {message.rstrip('.')}."

    def failed(self, row: int, kind: str, message: str, running: Running | None) -> list[Fault]:
        """A row's process has failed: what to report now.

        Args:
            running: the episode that the caller had been given; None: the row was starting, resetting or restoring.
        """
        if running is not None:
            self._episodes[row] = running
        self.failures[row] += 1
        fault = Fault(row, kind, self.sentence(row, message), False)
        self.cause = EnvironmentFault(fault.message, kind)
        self._history[row].append({"time_s": time.time(), **asdict(fault)})
        faults = self._release(row)
        if self.quarantined(row):
            fault.message += (
                f" It failed {MAX_FAILURES} times in a row without finishing a step: it is quarantined and not started "
                f"again{self._report(row)}."
            )
        self.orders[row] = self._rung(row)
        if self.orders[row] is not None:
            self._held[row] = fault
            return faults
        return [*faults, self._cut(row, fault)]

    def continued(self, row: int, recomputed: int) -> tuple[bool, list[Fault]]:
        """The row's episode goes on.

        Returns:
            (whether the caller has been asked for its next action before, what to report).
        """
        episode, self._episodes[row], self.orders[row] = self._episodes[row], None, None
        assert episode is not None
        fault = self._held[row]
        if fault is not None:
            fault.message += f" Its episode was continued at step {episode.step}; {recomputed} steps recomputed."
        return episode.known, self._release(row)

    def discontinued(self, row: int, message: str) -> Fault:
        """The row's episode cannot go on, and nothing is wrong with the environment: it is cut, the row resets."""
        self.orders[row] = None
        fault = self._held[row] or Fault(row, "protocol", self.sentence(row, "its episode was to be continued"), False)
        self._held[row] = None
        fault.message += f" The episode ends there: {message}."
        return self._cut(row, fault)

    def began(self, row: int) -> None:
        """The row has begun another episode."""
        self._episodes[row] = self.orders[row] = None

    def finished(self, row: int) -> None:
        """The row has finished a step."""
        self.failures[row] = 0

    def quarantined(self, row: int) -> bool:
        """Whether the row is given up."""
        return self.failures[row] >= MAX_FAILURES

    def _rung(self, row: int) -> Continuation | None:
        episode, failures = self._episodes[row], self.failures[row]
        if self._plan is None or episode is None or failures >= MAX_FAILURES - 1:
            return None
        steps = snapshot_steps(self._plan.directory, row, episode.episode_uid, episode.step)
        if not steps:
            return None
        snapshot = steps[min(max(failures - 1, 0), len(steps) - 1)]
        return Continuation(episode.episode_uid, snapshot, episode.step, episode.begun)

    def _cut(self, row: int, fault: Fault) -> Fault:
        episode, self._episodes[row] = self._episodes[row], None
        fault.cut = episode is not None and episode.known
        return fault

    def _release(self, row: int) -> list[Fault]:
        fault, self._held[row] = self._held[row], None
        return [] if fault is None else [fault]

    def _report(self, row: int) -> str:
        """Leave the last failures of a row in a file; the words that name it."""
        if self._plan is None:
            return ""
        path = os.path.join(self._plan.directory, f"env-{row}", "quarantine.json")
        with contextlib.suppress(OSError):  # the fault itself is reported either way
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"env": self._id, "row": row, "faults": list(self._history[row])}, file, indent=1)
            return f" (see {path})"
        return ""
