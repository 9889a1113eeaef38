"""The wall times of an environment's finished steps go in, how long one more may take comes out."""

from __future__ import annotations

import math

FLOOR_S = 10.0  # below which no step is called a hang: any process may stand still for a while on a busy machine
MIN_STEPS = 50  # finished steps before the rule applies
_RATIO = math.log(1.1)
_SHORTEST_S = 1e-6
_BINS = 300  # up to 1e-6 · 1.1^300 s ≈ 30 days
_PERIOD = 16  # steps between two looks at the histogram


class HangLimit:
    """``factor`` times the running p99 of the steps so far, at least FLOOR_S; infinite before MIN_STEPS steps.

    The p99 is read from a histogram with bins 10 % wide, so it is at most 10 % too large, and a step costs
    a logarithm and a count.
    """

    def __init__(self, factor: float):
        self._factor = factor
        self._counts = [0] * (_BINS + 1)
        self._total = 0
        self.p99_s = math.nan
        self.limit_s = math.inf

    def add(self, wall_s: float) -> None:
        """A step has finished."""
        place = int(math.log(wall_s / _SHORTEST_S) / _RATIO) + 1 if wall_s > _SHORTEST_S else 0
        self._counts[min(place, _BINS)] += 1
        self._total += 1
        if self._total >= MIN_STEPS and (self._total % _PERIOD == 0 or self._total == MIN_STEPS):
            self._look()

    def _look(self) -> None:
        above, place = 0, _BINS
        while (above := above + self._counts[place]) <= 0.01 * self._total:
            place -= 1
        self.p99_s = _SHORTEST_S * math.exp(place * _RATIO)
        self.limit_s = max(FLOOR_S, self._factor * self.p99_s)
