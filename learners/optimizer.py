"""Gradients flow in; steps of vectors of parameters, and of their target networks, flow out.

What training changes in an algorithm is a few named vectors. Every element of one goes its own way (Adam, and the lag
of the target network), so a part of a vector that is stepped elsewhere comes out the same, bit for bit: so parameter
servers can share the vectors out. What gradients need before they are applied, their mean over several learners or
their whole norm, is the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distrl.core.errors import RunFailed
from distrl.learners.graphs import Captured
from distrl.learners.together import ALONE, Together

Gradients = dict[str, Tensor]  # by vector, float32, on the device
MAX_SKIPPED = 10  # gradients in a row that are not finite, before the run ends
LOOK_PERIOD = 100  # steps, on a GPU: see ``Optimizer``


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
        self.move(gradient, self.count(), rate)

    def count(self) -> bool:
        """A step begins; whether the target network follows it."""
        self.steps += 1
        return self.target is not None and self.steps % self.rule.target_period == 0

    def move(self, gradient: Tensor, follows: bool, rate: float = 1.0, skip: Tensor | None = None) -> None:
        """The step that has been counted. ``skip``: float32 [], 1 where nothing is to change (then ``recount``)."""
        self._counted += 1 if skip is None else 1 - skip
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
            found_inf=skip,
        )
        if follows:
            assert self.target is not None
            assert self.rule.tau is not None
            self.target.lerp_(self.flat, self.rule.tau if skip is None else self.rule.tau * (1 - skip))

    def recount(self) -> None:
        """``steps`` without those that were skipped."""
        self.steps = int(self._counted)

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

    A gradient that is not finite changes nothing. On a GPU that is decided there, as asking would wait for it; counts
    are corrected at every look.

    Attributes:
        trained: by name. updates: steps so far. skipped: gradients that were not finite.
        look_period: in steps; 1: at once.
        together: the learners that each step is common to.
    """

    def __init__(self, trained: Mapping[str, Trained]):
        self.trained, self.updates, self.skipped = dict(trained), 0, 0
        self._skipped_in_a_row = 0
        self.together: Together = ALONE
        device = next(iter(self.trained.values())).flat.device
        self.look_period = 1 if device.type == "cpu" else LOOK_PERIOD
        self._unseen = 0  # steps since the last look
        # where the parameters are, since then: skipped, in a row until now, in a row at most
        self._found = torch.zeros(3, device=device)
        self._moved_unseen = Captured(self._move_unseen, device)

    def step(self, gradients: Gradients, rate: float = 1.0) -> bool:
        """One step of the vectors that have a gradient; returns whether it was taken, as far as is known. ``rate``:
        factor on the learning rates.

        Raises:
            RunFailed: ``MAX_SKIPPED`` gradients in a row were not finite.
        """
        gradients = self.together.mean(gradients)
        if self.look_period > 1:
            self._step_unseen(gradients, rate)
            return True
        if bool(_bad(gradients.values())):
            self.skipped += 1
            self._skipped_in_a_row += 1
            self._check_skipped(self._skipped_in_a_row)
            return False
        self._skipped_in_a_row = 0
        self._move({name: self.trained[name].limited(gradient) for name, gradient in gradients.items()}, rate)
        return True

    def look(self) -> None:
        """See what was skipped since the last look; waits for a GPU.

        Raises:
            RunFailed: see ``step``.
        """
        skipped, in_a_row, longest = (int(count) for count in self._found.tolist())
        self._unseen = 0
        self.skipped += skipped
        self.updates -= skipped
        self._found.copy_(torch.tensor([0.0, in_a_row, in_a_row]))
        for vector in self.trained.values():
            vector.recount()
        self._check_skipped(longest)

    def state(self) -> dict[str, Any]:
        """Everything that a step reads or writes."""
        if self._unseen:
            self.look()
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

    def _step_unseen(self, gradients: Gradients, rate: float) -> None:
        follows = tuple(self.trained[name].count() for name in gradients)
        move = self._moved_unseen if rate == 1.0 else self._move_unseen  # a rate would be recorded as a constant
        move(*gradients.values(), names=tuple(gradients), follows=follows, rate=rate)
        self.updates += 1
        self._unseen += 1
        if self._unseen == self.look_period:
            self.look()

    def _move_unseen(self, *gradients: Tensor, names: tuple[str, ...], follows: tuple[bool, ...], rate: float) -> None:
        bad = _bad(gradients)
        for name, gradient, follow in zip(names, gradients, follows, strict=True):
            self.trained[name].move(self.trained[name].limited(gradient), follow, rate, bad)
        self._found[0] += bad
        self._found[1] = (self._found[1] + bad) * bad
        self._found[2] = torch.maximum(self._found[1], self._found[2])

    def _check_skipped(self, in_a_row: int) -> None:
        if in_a_row >= MAX_SKIPPED:
            raise RunFailed(
                f"{in_a_row} gradients in a row were not finite, after {self.updates} updates: look for infinite "
                "rewards or observations, lower the learning rate, or set algorithm.max_gradient_norm"
            )


def _bad(gradients: Iterable[Tensor]) -> Tensor:
    """float32 [], 1 where an element of a vector is not finite: the sum of a vector is finite where all its elements
    are, and takes one pass."""
    return 1.0 - torch.stack([gradient.sum() for gradient in gradients]).isfinite().all().float()
