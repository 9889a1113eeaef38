"""What algorithms on a replay have in common: all that training changes is in an optimizer and in a bonus."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.core.types import PolicySpec, Weights
from distrl.learners.bonus import Bonus
from distrl.learners.networks import FlatParameters
from distrl.learners.optimizer import Gradients, Optimizer
from distrl.learners.policies import TRAINED


class Optimized:
    """An algorithm (``distrl.core.contracts.Algorithm``) without its gradients and its policy's weights."""

    optimizer: Optimizer
    _policy_spec: PolicySpec
    _bonus: Bonus | None = None

    def apply(self, gradients: Gradients) -> None:
        """One Adam step of what has a gradient; target networks follow where it is their turn."""
        if self.optimizer.step(gradients):
            self._stepped()

    def policy_spec(self) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        return self._policy_spec

    def state(self) -> dict[str, Any]:
        """Everything that an update reads or writes: tensors are copied to the CPU."""
        return {"optimizer": self.optimizer.state(), "bonus": self._bonus and self._bonus.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: it is of other networks; nothing has changed.
        """
        self.optimizer.load_state(state.get("optimizer", {}))
        if self._bonus is not None:
            self._bonus.load_state(state["bonus"])

    def _stepped(self) -> None:
        """What follows a step along a gradient."""
        if self._bonus is not None:
            self._bonus.follow(self.optimizer.together)


def actor_weights(actor: FlatParameters, updates: int) -> Weights:
    """``actor/…`` float32 and ``trained`` float32 []; one copy from the device."""
    host = actor.flat.detach().to("cpu", copy=True)
    weights = {f"actor/{name}": view.numpy() for name, view in actor.split(host).items()}
    weights[TRAINED] = np.array(updates > 0, np.float32)
    return weights
