"""Flat inputs flow in, outputs for the action's distribution and values flow out; their gradients flow back.

Forward and backward are written out instead of left to autograd, which for networks of this size took as long as the
arithmetic. The last layer's weight is [out, in] and its output [out, S]: a matrix product with one or two columns is
several times slower than one with as few rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distrl.learners.networks import FlatParameters
from distrl.learners.recurrent import Memory

Inputs = tuple[Tensor, ...]  # each [S, …]; of an MLP the one float32 [S, D]


class Network(Protocol):
    """Actor and critic.

    outputs, value, context = network.forward(parameters, inputs, memory)
    network.backward(parameters, context, d_outputs, d_value, gradients)
    """

    @property
    def recurrent(self) -> bool:
        """Whether it wants a ``Memory``, and therefore whole rows of a rollout."""

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters to begin with, by name; on the CPU, so that a seed means the same on every device."""

    def evaluate(
        self,
        parameters: FlatParameters,
        inputs: Inputs,
        final: Inputs,
        final_index: Tensor,
        memory: Memory | None,
        with_outputs: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Outputs [A, S] if asked for, values [S], and those of the final observations [K]; without gradients.

        Args:
            inputs: of a rollout's S = (T + 1) · N observations. final: of its K final ones.
            final_index: int64 [K, 2], behind which (t, n) they came.
        """

    def forward(self, parameters: FlatParameters, inputs: Inputs, memory: Memory | None) -> tuple[Tensor, Tensor, Any]:
        """Outputs [A, S], values [S], and what ``backward`` wants to know."""

    def backward(
        self, parameters: FlatParameters, context: Any, d_outputs: Tensor, d_value: Tensor, gradients: dict[str, Tensor]
    ) -> None:
        """∂loss/∂parameters into ``gradients``, which holds those of the distribution already."""


@dataclass(frozen=True)
class TanhMLP:
    """Linear layers with tanh between.

    Attributes:
        name: before its parameters' names, ``<name>/<i>/weight`` and ``<name>/<i>/bias``.
        sizes: input, hidden and output widths.
        last_gain: gain of the last layer's weights at the start.
    """

    name: str
    sizes: tuple[int, ...]
    last_gain: float

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights float32 [in, out], of the last layer [out, in], orthogonal (Saxe et al. 2014, arXiv 1312.6120) with
        gain √2, of the last layer ``last_gain``; biases zero (Huang et al. 2022, detail 2)."""
        parameters = {}
        last = len(self.sizes) - 2
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            gain = self.last_gain if i == last else math.sqrt(2.0)
            weight = torch.nn.init.orthogonal_(torch.empty(outputs, inputs), gain, generator=generator)
            parameters[f"{self.name}/{i}/weight"] = weight if i == last else weight.t().contiguous()
            parameters[f"{self.name}/{i}/bias"] = torch.zeros(outputs)
        return parameters

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output [out, S] for inputs [S, in], and the inputs of each layer, [S, width]."""
        last, inputs = len(self.sizes) - 2, [x]
        for i in range(last):
            x = _tanh_(torch.addmm(parameters[f"{self.name}/{i}/bias"], x, parameters[f"{self.name}/{i}/weight"]))
            inputs.append(x)
        weight, bias = parameters[f"{self.name}/{last}/weight"], parameters[f"{self.name}/{last}/bias"]
        return torch.mm(weight, x.t()).add_(bias.unsqueeze(1)), inputs

    def backward(
        self, parameters: Mapping[str, Tensor], inputs: list[Tensor], d_output: Tensor, gradients: dict[str, Tensor]
    ) -> None:
        """∂loss/∂parameters into ``gradients``, from ∂loss/∂output [out, S]."""
        last = len(self.sizes) - 2
        gradients[f"{self.name}/{last}/weight"] = torch.mm(d_output, inputs[last])
        gradients[f"{self.name}/{last}/bias"] = d_output.sum(1)
        d = torch.mm(d_output.t(), parameters[f"{self.name}/{last}/weight"])
        for i in range(last - 1, -1, -1):
            d = torch.ops.aten.tanh_backward(d, inputs[i + 1])  # d (1 − tanh²)
            gradients[f"{self.name}/{i}/weight"] = torch.mm(inputs[i].t(), d)
            gradients[f"{self.name}/{i}/bias"] = d.sum(0)
            if i:
                d = torch.mm(d, parameters[f"{self.name}/{i}/weight"].t())


class ActorCritic:
    """Two separate networks (Huang et al. 2022, detail 13): the actor's last layer begins near zero, so that at first
    every action is about as probable; the critic's does not. Implements ``Network``.

    Args:
        num_inputs: of the critic. num_seen: of them, the first ones, of the actor. num_outputs: of the actor.
        hidden: widths of the hidden layers of each.
    """

    recurrent = False

    def __init__(self, num_inputs: int, num_seen: int, num_outputs: int, hidden: tuple[int, ...]):
        self._num_seen = num_seen
        self._actor = TanhMLP("actor", (num_seen, *hidden, num_outputs), last_gain=0.01)
        self._critic = TanhMLP("critic", (num_inputs, *hidden, 1), last_gain=1.0)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """See ``TanhMLP.initial``."""
        return self._actor.initial(generator) | self._critic.initial(generator)

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
        outputs = self._actor.forward(named, self._seen(inputs))[0] if with_outputs else None
        value, final_value = (self._critic.forward(named, part[0])[0][0] for part in (inputs, final))
        return outputs, value, final_value

    def forward(self, parameters: FlatParameters, inputs: Inputs, memory: Memory | None) -> tuple[Tensor, Tensor, Any]:
        """See ``Network``."""
        outputs, actor = self._actor.forward(parameters.frozen, self._seen(inputs))
        value, critic = self._critic.forward(parameters.frozen, inputs[0])
        return outputs, value[0], (actor, critic)

    def backward(
        self, parameters: FlatParameters, context: Any, d_outputs: Tensor, d_value: Tensor, gradients: dict[str, Tensor]
    ) -> None:
        """See ``Network``."""
        actor, critic = context
        self._actor.backward(parameters.frozen, actor, d_outputs, gradients)
        self._critic.backward(parameters.frozen, critic, d_value.unsqueeze(0), gradients)

    def _seen(self, inputs: Inputs) -> Tensor:
        return inputs[0][:, : self._num_seen]


def _tanh_(x: Tensor) -> Tensor:
    if x.device.type == "cpu":  # numpy's takes a sixth of the time of torch's
        array = x.numpy()
        np.tanh(array, out=array)
        return x
    return x.tanh_()
