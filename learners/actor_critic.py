"""Flat inputs flow in, outputs for the action's distribution and values flow out; their gradients flow back.

Forward and backward are written out instead of left to autograd, which for networks of this size took as long as the
arithmetic. The last layer's weight is [out, in] and its output [out, S]: a matrix product with one or two columns is
several times slower than one with as few rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class TanhMLP:
    """Linear layers with tanh between.

    Attributes:
        name: before its parameters' names, ``<name>/<i>/weight`` and ``<name>/<i>/bias``.
        sizes: input, hidden and output widths.
        last_gain: standard deviation of the last layer's weights, times √in, at the start.
    """

    name: str
    sizes: tuple[int, ...]
    last_gain: float

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights float32 [in, out], of the last layer [out, in], orthogonal with gain √2, of the last layer
        ``last_gain``; biases zero (Huang et al. 2022, details 2; Saxe et al. 2014). On the CPU, so that a seed means
        the same on every device."""
        parameters = {}
        last = len(self.sizes) - 2
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            weight = torch.empty(outputs, inputs)
            gain = self.last_gain if i == last else math.sqrt(2.0)
            torch.nn.init.orthogonal_(weight, gain, generator=generator)
            parameters[f"{self.name}/{i}/weight"] = weight if i == last else weight.t().contiguous()
            parameters[f"{self.name}/{i}/bias"] = torch.zeros(outputs)
        return parameters

    def forward(self, parameters: Parameters, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output [out, S] for inputs [S, in], and the inputs of each layer, [S, width]."""
        last, inputs = len(self.sizes) - 2, [x]
        for i in range(last):
            x = _tanh_(torch.addmm(parameters[f"{self.name}/{i}/bias"], x, parameters[f"{self.name}/{i}/weight"]))
            inputs.append(x)
        weight, bias = parameters[f"{self.name}/{last}/weight"], parameters[f"{self.name}/{last}/bias"]
        return torch.mm(weight, x.t()).add_(bias.unsqueeze(1)), inputs

    def backward(
        self, parameters: Parameters, inputs: list[Tensor], d_output: Tensor, gradients: dict[str, Tensor]
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
    every action is about as probable; the critic's does not.

    Args:
        num_inputs, num_outputs: of the actor. hidden: widths of the hidden layers of each.
    """

    def __init__(self, num_inputs: int, num_outputs: int, hidden: tuple[int, ...]):
        self.actor = TanhMLP("actor", (num_inputs, *hidden, num_outputs), last_gain=0.01)
        self.critic = TanhMLP("critic", (num_inputs, *hidden, 1), last_gain=1.0)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """See ``TanhMLP.initial``."""
        return self.actor.initial(generator) | self.critic.initial(generator)

    def values(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[S], for inputs [S, D]."""
        return self.critic.forward(parameters, inputs)[0][0]

    def outputs(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """[A, S], for inputs [S, D]."""
        return self.actor.forward(parameters, inputs)[0]

    def forward(self, parameters: Parameters, inputs: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Outputs [A, S], values [S], and what ``backward`` wants to know."""
        outputs, actor = self.actor.forward(parameters, inputs)
        value, critic = self.critic.forward(parameters, inputs)
        return outputs, value[0], (actor, critic)

    def backward(
        self, parameters: Parameters, context: Any, d_outputs: Tensor, d_value: Tensor, gradients: dict[str, Tensor]
    ) -> None:
        """∂loss/∂parameters into ``gradients``."""
        actor, critic = context
        self.actor.backward(parameters, actor, d_outputs, gradients)
        self.critic.backward(parameters, critic, d_value.unsqueeze(0), gradients)


def _tanh_(x: Tensor) -> Tensor:
    if x.device.type == "cpu":  # numpy's takes a sixth of the time of torch's
        array = x.numpy()
        np.tanh(array, out=array)
        return x
    return x.tanh_()
