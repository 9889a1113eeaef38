"""Values of a team's agents flow in, the value of what they do together flows out: as a sum (VDN) or by a network that
never falls where one of them rises (QMIX).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import elu

from distrl.learners.networks import MLP


def monotonic_mix(values: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Q_tot = elu(q |W₁| + b₁) · |w₂| + b₂, [S]; Rashid et al. 2018, arXiv 1803.11485, section 4 and figure 2a.

    ∂Q_tot / ∂q_a ≥ 0, so that the best joint action is each agent's own best.

    Args:
        values: q, [S, A]. w1: [S, A, E]. b1: [S, E]. w2: [S, E]. b2: [S].
    """
    hidden = elu(torch.bmm(values.unsqueeze(1), w1.abs()).squeeze(1) + b1)
    return (hidden * w2.abs()).sum(1) + b2


class Mixer(Protocol):
    """From the values of what each agent does, [S, A], and the global state, [S, K], to that of the team, [S]."""

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Its parameters by name."""

    def __call__(self, parameters: Mapping[str, Tensor], values: Tensor, state: Tensor | None) -> Tensor:
        """Values [S]; those of agents that do not live are zero."""


class SumMixer:
    """Q_tot = Σ_a q_a; Sunehag et al. 2017, arXiv 1706.05296, equation 1. It needs no state. Implements ``Mixer``."""

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """It has no parameters."""
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], values: Tensor, state: Tensor | None) -> Tensor:
        """See ``Mixer``."""
        return values.sum(1)


@dataclass(frozen=True)
class MonotonicMixer:
    """``monotonic_mix`` with weights that networks make of the state. Implements ``Mixer``.

    Those of W₁ and w₂ have a hidden layer with ReLU, as in the authors' later code (PyMARL, ``hypernet_layers`` = 2; in
    the paper they are linear), b₁ is linear, b₂ has a hidden layer of E; parameters ``w1/<i>/weight``, ….

    Attributes:
        num_agents: A. state_size: K. size: E. hidden: width of the hidden layers of W₁ and w₂.
    """

    num_agents: int
    state_size: int
    size: int
    hidden: int

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """See ``MLP.initial``."""
        return {
            f"{name}/{part}": value
            for name, network in self._networks().items()
            for part, value in network.initial(generator).items()
        }

    def __call__(self, parameters: Mapping[str, Tensor], values: Tensor, state: Tensor | None) -> Tensor:
        """See ``Mixer``."""
        assert state is not None, "the observation space has been checked"
        made = {name: network(part_of(parameters, name), state) for name, network in self._networks().items()}
        w1 = made["w1"].view(-1, self.num_agents, self.size)
        return monotonic_mix(values, w1, made["b1"], made["w2"], made["b2"].squeeze(1))

    def _networks(self) -> dict[str, MLP]:
        return {
            "w1": MLP((self.state_size, self.hidden, self.num_agents * self.size)),
            "b1": MLP((self.state_size, self.size)),
            "w2": MLP((self.state_size, self.hidden, self.size)),
            "b2": MLP((self.state_size, self.size, 1)),
        }


def part_of(parameters: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those whose names begin with ``<name>/``, without it."""
    begin = f"{name}/"
    return {key.removeprefix(begin): value for key, value in parameters.items() if key.startswith(begin)}
