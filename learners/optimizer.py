"""Gradients flow in; steps of vectors of parameters, and of their target networks, flow out.

What training changes in an algorithm is a few named vectors. Every element of one goes its own way (Adam, and the lag
of the target network), so a part of a vector that is stepped elsewhere comes out the same, bit for bit: so parameter
servers can share the vectors out. What gradients need before they are applied, their mean over several learners or
their whole norm, is the optimizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distrl.core.errors import RunFailed
from distrl.learners.together import ALONE, Together

Gradients = dict[str, Tensor]  # by vector, float32, on the device
MAX_SKIPPED = 10  # gradients in a row that are not finite, before the run ends


@dataclass(frozen=True)
class Rule:
    """How a vector follows its gradient: Kingma & Ba 2015, arXiv 1412.6980, algorithm 1, with β₁ = 0.9, β₂ = 0.999.

    Attributes:
        learning_rate: Adam's step size. epsilon: added to the root of the second moment.
        max_gradient_norm: longer gradients are shortened to it; None: none is.
        tau: share of the vector that its target network takes over; None: it has none.
        target_period: in steps of the vector, between two such moves.
    """

    learning_rate: float
    epsilon: float = 1e-8
    max_gradient_norm: float | None = None
    tau: float | None = None
    target_period: int = 1


class Trained:
    """One vector of parameters, or a part of one, with Adam's moments and its target network's copy.

    Args:
        flat: float32 [P], changed in place.
        rule: see there.

    Attributes:
        flat: see above. target: float32 [P], or None. steps: taken so far.
    """

    def __init__(self, flat: Tensor, rule: Rule):
        self.flat, self.rule, self.steps = flat, rule, 0
        self.target = None if rule.tau is None else flat.clone()
        self._first, self._second = torch.zeros_like(flat), torch.zeros_like(flat)
        self._counted = torch.zeros((), device=flat.device)  # the steps, where Adam reads them

    def limited(self, gradient: Tensor) -> Tensor:
        """The gradient [P], shortened where it is too long."""
        if self.rule.max_gradient_norm is None:
            return gradient
        return gradient * (self.rule.max_gradient_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0)

    def step(self, gradient: Tensor, rate: float = 1.0) -> None:
        """One step against a gradient [P]; ``rate``: factor on the learning rate."""
        self.steps += 1
        self._counted += 1
        torch._fused_adam_(  # torch.optim.Adam(fused=True) is this call, and as much time again around it
            [self.flat],
            [gradient],
            [self._first],
            [self._second],
            [],
            [self._counted],
            lr=self.rule.learning_rate * rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=self.rule.epsilon,
            amsgrad=False,
            maximize=False,
        )
        if self.target is not None and self.steps % self.rule.target_period == 0:
            assert self.rule.tau is not None
            self.target.lerp_(self.flat, self.rule.tau)

    def state(self) -> dict[str, Any]:
        """Copied CPU tensors, and the number of steps."""
        tensors = {name: vector.detach().to("cpu", copy=True) for name, vector in self._vectors().items()}
        return {**tensors, "steps": self.steps}

    def check(self, state: dict[str, Any], name: str) -> None:
        """
        Raises:
            ValueError: ``state`` is of a vector of another length.
        """
        for kind, own in self._vectors().items():
            came = state.get(kind)
            if came is None or came.shape != own.shape:
                raise ValueError(
                    f"the state needs {name!r} of shape {tuple(own.shape)}, but holds "
                    f"{'nothing' if came is None else tuple(came.shape)}: use the networks and the environment that it "
                    "was trained with"
                )

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken."""
        for kind, own in self._vectors().items():
            own.copy_(state[kind])  # in place: the networks' views see it
        self.steps = int(state["steps"])
        self._counted.fill_(self.steps)

    def _vectors(self) -> dict[str, Tensor]:
        target = {} if self.target is None else {"target": self.target}
        return {"flat": self.flat, **target, "first": self._first, "second": self._second}


class Optimizer:
    """Steps an algorithm's vectors.

        optimizer.step(gradients)     # of all vectors, or of some

    Attributes:
        trained: by name. updates: steps so far. skipped: gradients that were not finite, and changed nothing.
        together: the learners that each step is common to.
    """

    def __init__(self, trained: Mapping[str, Trained]):
        self.trained, self.updates, self.skipped = dict(trained), 0, 0
        self._skipped_in_a_row = 0
        self.together: Together = ALONE

    def step(self, gradients: Gradients, rate: float = 1.0) -> bool:
        """One step of the vectors that have a gradient; returns whether it was taken. ``rate``: factor on the learning
        rates.

        Raises:
            RunFailed: ``MAX_SKIPPED`` gradients in a row were not finite.
        """
        gradients = self.together.mean(gradients)
        if not _are_finite(gradients):
            self._skip()
            return False
        self._skipped_in_a_row = 0
        self._move({name: self.trained[name].limited(gradient) for name, gradient in gradients.items()}, rate)
        return True

    def state(self) -> dict[str, Any]:
        """Everything that a step reads or writes."""
        return {"updates": self.updates, **{name: vector.state() for name, vector in self.trained.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: it is of other networks; nothing has changed.
        """
        for name, vector in self.trained.items():
            vector.check(state.get(name, {}), name)
        for name, vector in self.trained.items():
            vector.load_state(state[name])
        self.updates = int(state["updates"])

    def _move(self, gradients: Gradients, rate: float) -> None:
        for name, gradient in gradients.items():
            self.trained[name].step(gradient, rate)
        self.updates += 1

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise RunFailed(
                f"{MAX_SKIPPED} gradients in a row were not finite, after {self.updates} updates: look for infinite "
                "rewards or observations, lower the learning rate, or set algorithm.max_gradient_norm"
            )


def _are_finite(gradients: Gradients) -> bool:
    """The sum of a vector is finite where all its elements are, and takes one pass."""
    return bool(torch.stack([gradient.sum() for gradient in gradients.values()]).isfinite().all())
