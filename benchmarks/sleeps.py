"""Sleeps of slow environments that step together, added up instead of slept."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from distrl.envs.delay import Delay


class Sleeps:
    """What the environments of a round would have slept by each of several laws.

    Args:
        laws: name → ``env.delay``. rows: environments that step together. seed: of the draws.

    Attributes:
        added_s: name → seconds so far.
    """

    def __init__(self, laws: Mapping[str, Mapping[str, Any]], rows: int, seed: int):
        self.added_s = dict.fromkeys(laws, 0.0)
        self._drawn = {name: [Delay(gymnasium.Env(), law) for _ in range(rows)] for name, law in laws.items()}
        for drawn in self._drawn.values():
            for row, delay in enumerate(drawn):
                delay.reset(seed=seed * rows + row)

    def add_round(self, already_s: float = 0.0) -> None:
        """The longest of a round, or what is left of it after so many seconds in which the environments could sleep."""
        for name, drawn in self._drawn.items():
            self.added_s[name] += max(0.0, max(delay.next_delay_s() for delay in drawn) - already_s)
