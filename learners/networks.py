"""Parameters and inputs flow in, activations flow out: MLPs as pure functions of views of one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distrl.learners.policies import LOG_STD_MAX, LOG_STD_MIN


@dataclass(frozen=True)
class MLP:
    """Linear layers with ReLU between; ``ensemble`` of them side by side as batched products.

    One batched product over both critics is faster than two products: the calls and the memory traffic around them
    are shared.

    Attributes:
        sizes: input, hidden and output widths.
        ensemble: networks side by side, E; None is a single one without that axis.
    """

    sizes: tuple[int, ...]
    ensemble: int | None = None

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """``<i>/weight`` float32 [(E,) in, out] and ``<i>/bias`` float32 [(E, 1,) out], on the CPU, so that a seed
        means the same on every device.

        Both uniform within ±1/√in, as torch.nn.Linear has it: the published SAC results start so, and for two ReLU
        layers an orthogonal start made no difference that we could state.
        """
        lead = () if self.ensemble is None else (self.ensemble,)
        one = () if self.ensemble is None else (1,)
        parameters = {}
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            bound = 1.0 / math.sqrt(inputs)
            for name, shape in (("weight", (*lead, inputs, outputs)), ("bias", (*lead, *one, outputs))):
                parameters[f"{i}/{name}"] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return parameters

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """[N, in] → [N, out], or [E, N, out] for an ensemble."""
        layers = len(self.sizes) - 1
        if self.ensemble is not None:
            x = x.expand(self.ensemble, *x.shape)
        product = torch.addmm if self.ensemble is None else torch.baddbmm
        for i in range(layers):
            weight, bias = parameters[f"{i}/weight"], parameters[f"{i}/bias"]
            if weight.shape[-1] == 1:  # a product with one column: several times faster as a sum, backward too
                x = (x * weight.transpose(-1, -2)).sum(-1, keepdim=True) + bias
            else:
                x = product(bias, x, weight)
            if i + 1 < layers:
                x = torch.relu_(x)
        return x


class FlatParameters:
    """Named tensors that are views of one vector, so that optimizer, target network and transport handle a single
    array.

    Attributes:
        flat: float32 [P].
        named: name → leaf view that requires a gradient. frozen: the same memory, constant for autograd.
    """

    def __init__(self, named: Mapping[str, Tensor], device: torch.device):
        self._shapes = {name: value.shape for name, value in named.items()}
        self.flat = torch.cat([value.reshape(-1) for value in named.values()]).to(device)
        self.frozen = self.split(self.flat)
        self.named = {name: view.detach().requires_grad_() for name, view in self.frozen.items()}

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a vector [P] by name."""
        parts = flat.split([math.prod(shape) for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def join(self, named: Mapping[str, Tensor]) -> Tensor:
        """The vector [P] of tensors with these names."""
        return torch.cat([named[name].reshape(-1) for name in self._shapes])

    def gradient(self, loss: Tensor) -> Tensor:
        """∂loss/∂flat, float32 [P]."""
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(self.named.values()))])


def squashed_gaussian(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(μ + σ · noise) [N, A] in [−1, 1] and their log-density [N]; Haarnoja et al. 2018, appendix C,
    equation 26.

    Args:
        outputs: [N, 2A], μ and log σ.
        noise: [N, A], standard normal.
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    squash = 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))  # log(1 − tanh²u), exact where tanh saturates
    log_prob = (-0.5 * noise.square() - log_std - squash).sum(-1) - 0.5 * math.log(2.0 * math.pi) * noise.shape[-1]
    return torch.tanh(u), log_prob
