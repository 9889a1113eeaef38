"""Inputs flow in, outputs for the action's distribution and values flow out: one encoder for both, with or without
memory, differentiated by autograd.

A central critic has layers of its own, which see all inputs and the memory's output: the value of a state depends on
what the agent remembers, which the state does not say (Baisero & Amato 2022, arXiv 2105.11674).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from distrl.learners.actor_critic import Inputs
from distrl.learners.networks import FlatParameters
from distrl.learners.recurrent import Memory, RecurrentLayer

_PIECE = 256  # rows that are encoded at once where no gradient follows: images take much memory


class Encoder(Protocol):
    """From inputs to features. Attributes: num_features: F. num_layers: of its own."""

    num_features: int
    num_layers: int

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Its parameters by name."""

    def features(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """[S, F]."""


class TanhEncoder:
    """Linear layers, tanh behind each; ``<name>/<i>/weight`` [in, out] and ``<name>/<i>/bias`` [out].

    Args:
        sizes: input and hidden widths; of the inputs it sees the first ones.
    """

    def __init__(self, sizes: tuple[int, ...], name: str = "actor"):
        self._sizes, self.num_features, self.num_layers = sizes, sizes[-1], len(sizes) - 1
        self._name = name

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Orthogonal with gain √2, biases zero."""
        parameters = {}
        for i, (inputs, outputs) in enumerate(zip(self._sizes[:-1], self._sizes[1:], strict=True)):
            weight = orthogonal((outputs, inputs), math.sqrt(2.0), generator)
            parameters[f"{self._name}/{i}/weight"] = weight.t().contiguous()
            parameters[f"{self._name}/{i}/bias"] = torch.zeros(outputs)
        return parameters

    def features(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """See ``Encoder``."""
        x = inputs[0][:, : self._sizes[0]]
        for i in range(self.num_layers):
            weight, bias = parameters[f"{self._name}/{i}/weight"], parameters[f"{self._name}/{i}/bias"]
            x = torch.tanh(torch.addmm(bias, x, weight))
        return x


class SharedActorCritic:
    """Implements ``distrl.learners.actor_critic.Network``.

    Args:
        encoder: see there. layer: its memory, or None. num_outputs: of the actor.
        central: layers of a critic that sees all of the inputs [S, D] and, behind them, what the actor's last layer
            sees; None: the value is one more output of the actor's layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        layer: RecurrentLayer | None,
        num_outputs: int,
        central: TanhEncoder | None = None,
    ):
        self._encoder, self._layer, self._num_outputs, self._central = encoder, layer, num_outputs, central
        self._actor, self._critic = f"actor/{encoder.num_layers}", f"critic/{central.num_layers if central else 0}"

    @property
    def recurrent(self) -> bool:
        """Whether it has memory."""
        return self._layer is not None

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Orthogonal weights: the actor's last with gain 0.01, the critic's with 1."""
        parameters, width = self._encoder.initial(generator), self._encoder.num_features
        if self._layer is not None:
            parameters |= self._layer.initial(width, generator)
            width = self._layer.size
        last = [(self._actor, width, self._num_outputs, 0.01), (self._critic, width, 1, 1.0)]
        if self._central is not None:
            parameters |= self._central.initial(generator)
            last[1] = (self._critic, self._central.num_features, 1, 1.0)
        for name, inputs, outputs, gain in last:
            parameters[f"{name}/weight"] = orthogonal((outputs, inputs), gain, generator)
            parameters[f"{name}/bias"] = torch.zeros(outputs)
        return parameters

    def evaluate(
        self,
        parameters: FlatParameters,
        inputs: Inputs,
        final: Inputs,
        final_index: Tensor,
        memory: Memory | None,
        with_outputs: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See ``Network``."""
        named = parameters.frozen
        x, x_final = self._encoded(named, inputs), self._encoded(named, final)
        if memory is not None and self._layer is not None:
            states = self._layer.unroll(named, x, memory)
            before = states.view(*memory.given.shape, -1)[final_index[:, 0], final_index[:, 1]]
            final_states = self._layer.next_state(named, x_final, before)
            x, x_final = (found[:, : self._layer.size] for found in (states, final_states))
        value, final_value = self._values(named, x, inputs), self._values(named, x_final, final)
        return self._outputs(named, x) if with_outputs else None, value, final_value

    def forward(
        self, parameters: FlatParameters, inputs: Inputs, memory: Memory | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """See ``Network``."""
        with torch.enable_grad():
            x = self._encoder.features(parameters.named, inputs)
            if memory is not None and self._layer is not None:
                x = self._layer.unroll(parameters.named, x, memory)[:, : self._layer.size]
            outputs, value = self._outputs(parameters.named, x), self._values(parameters.named, x, inputs)
        return outputs.detach(), value.detach(), (outputs, value)

    def backward(
        self,
        parameters: FlatParameters,
        context: tuple[Tensor, Tensor],
        d_outputs: Tensor,
        d_value: Tensor,
        gradients: dict[str, Tensor],
    ) -> None:
        """See ``Network``."""
        own = {name: leaf for name, leaf in parameters.named.items() if name not in gradients}
        found = torch.autograd.grad(context, list(own.values()), (d_outputs, d_value))
        gradients.update(zip(own, found, strict=True))

    def act(self, named: Mapping[str, Tensor], inputs: Inputs, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Outputs [A, N] for one step of N rows, and the next state [N, K]."""
        x = self._encoder.features(named, inputs)
        if state is not None and self._layer is not None:
            state = self._layer.next_state(named, x, state)
            x = state[:, : self._layer.size]
        return self._outputs(named, x), state

    def _encoded(self, named: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        pieces = zip(*(part.split(_PIECE) for part in inputs), strict=True)
        return torch.cat([self._encoder.features(named, piece) for piece in pieces])

    def _outputs(self, named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.mm(named[f"{self._actor}/weight"], x.t()) + named[f"{self._actor}/bias"].unsqueeze(1)

    def _values(self, named: Mapping[str, Tensor], x: Tensor, inputs: Inputs) -> Tensor:
        if self._central is not None:
            x = self._central.features(named, (torch.cat([inputs[0], x], 1),))
        return torch.mv(x, named[f"{self._critic}/weight"][0]) + named[f"{self._critic}/bias"]


def orthogonal(shape: tuple[int, ...], gain: float, generator: torch.Generator) -> Tensor:
    """A weight [out, in, …] with orthogonal rows or columns (Saxe et al. 2014, arXiv 1312.6120)."""
    return torch.nn.init.orthogonal_(torch.empty(shape), gain, generator=generator)
