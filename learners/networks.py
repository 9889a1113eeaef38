"""Parameters and inputs flow in, activations flow out: MLPs as pure functions of views of one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distrl.learners.policies import LOG_STD_MAX, LOG_STD_MIN
from distrl.learners.products import product

ALL, FEW = slice(None), 16
Members = list[dict[str, Tensor]]  # see ``MLP.members``
Context = list[list[Tensor]]  # of each member, each layer's inputs [(E,) N, width]


@dataclass(frozen=True)
class MLP:
    """Linear layers with ReLU between; ``ensemble`` of them side by side as batched products.

    ``forward`` and ``backward`` are written out: autograd knows nothing of oneDNN (``products``), and computes what is
    not wanted. Where it is more convenient, a network is also called, and autograd does the rest.

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
        """[N, in] → [N, out], or [E, N, out] for an ensemble; autograd goes through ``backward``."""
        output: Tensor = _WrittenOut.apply(self, x, *(parameters[name] for name in self._names()))
        return output

    def members(self, parameters: Mapping[str, Tensor]) -> Members:
        """The parameters as ``forward`` and ``backward`` take them: an ensemble's networks one after the other on a
        CPU, as a batched product is no faster there and needs more than the cache holds; elsewhere all at once."""
        if self.ensemble is None or parameters["0/weight"].device.type != "cpu":
            return [dict(parameters)]
        return [
            {name: part[e, 0] if name.endswith("bias") else part[e] for name, part in parameters.items()}
            for e in range(self.ensemble)
        ]

    def forward(self, members: Members, x: Tensor) -> tuple[Tensor, Context]:
        """Output [(E,) N, out] for inputs [N, in], and what ``backward`` wants to know."""
        last = len(self.sizes) - 2
        outputs, context = [], []
        for parameters in members:
            inputs = [x.expand(*parameters["0/weight"].shape[:-2], *x.shape)]
            for i in range(last):
                inputs.append(product(inputs[i], parameters[f"{i}/weight"], parameters[f"{i}/bias"], relu=True))
            outputs.append(product(inputs[last], parameters[f"{last}/weight"], parameters[f"{last}/bias"]))
            context.append(inputs)
        return torch.stack(outputs) if self._one_by_one(members) else outputs[0], context

    def backward(
        self,
        members: Members,
        context: Context,
        d_output: Tensor,
        rows: slice = ALL,
        wanted: tuple[slice, slice] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """∂loss/∂parameters, the vector [P] in the order of ``initial``; and of ∂loss/∂x, summed over the ensemble,
        the part that is wanted.

        Args:
            context: from ``forward``. d_output: ∂loss/∂output, [(E,) N, out].
            rows: those of N whose loss the parameters follow. wanted: rows and columns of x.
        """
        layers, d_x = len(self.sizes) - 1, []
        gradients: list[list[Tensor]] = [[] for _ in range(2 * layers)]  # weight, bias of each layer, by member
        each = d_output if self._one_by_one(members) else [d_output]
        for parameters, inputs, d in zip(members, context, each, strict=True):
            for i in range(layers - 1, -1, -1):
                weight, x, part = parameters[f"{i}/weight"], inputs[i][..., rows, :], d[..., rows, :]
                # a product with few columns takes several times as long as one with as few rows
                few = self.sizes[i + 1] <= FEW
                gradients[2 * i].append(torch.matmul(part.mT, x).mT if few else product(x.mT, part))
                gradients[2 * i + 1].append(part.sum(-2))
                if i:
                    d = d * weight.mT if self.sizes[i + 1] == 1 else product(d, weight.mT)
                    torch.ops.aten.threshold_backward.grad_input(d, inputs[i], 0, grad_input=d)  # in place
            if wanted is not None:
                d_x.append(product(d[..., wanted[0], :], parameters["0/weight"][..., wanted[1], :].mT))
        return torch.cat([part.reshape(-1) for parts in gradients for part in parts]), _summed(d_x)

    def _one_by_one(self, members: Members) -> bool:
        """Whether an ensemble's networks are computed one after the other: see ``members``."""
        return self.ensemble is not None and members[0]["0/weight"].dim() == 2

    def _names(self) -> list[str]:
        """In the order of ``initial``."""
        return [f"{i}/{part}" for i in range(len(self.sizes) - 1) for part in ("weight", "bias")]


class _WrittenOut(torch.autograd.Function):
    """A network's ``forward`` and ``backward`` for autograd."""

    @staticmethod
    def forward(ctx: Any, net: MLP, x: Tensor, *parameters: Tensor) -> Tensor:
        """See ``MLP.__call__``."""
        ctx.net, ctx.shapes = net, [part.shape for part in parameters]
        ctx.members = net.members(dict(zip(net._names(), parameters, strict=True)))
        output, ctx.context = net.forward(ctx.members, x)
        return output

    @staticmethod
    def backward(ctx: Any, *d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``forward``'s arguments."""
        _, x_wants, *parameters_want = ctx.needs_input_grad
        rows, wanted = ALL if any(parameters_want) else slice(0), (ALL, ALL) if x_wants else None
        gradient, d_x = ctx.net.backward(ctx.members, ctx.context, d_output[0].contiguous(), rows, wanted)
        parts = gradient.split([shape.numel() for shape in ctx.shapes])
        return None, d_x, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


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


def _summed(parts: list[Tensor]) -> Tensor | None:
    """Over members and ensemble, [N, …]."""
    if not parts:
        return None
    total = parts[0] if len(parts) == 1 else torch.stack(parts)
    return total if total.dim() == 2 else total.sum(0)


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


def squashed_gaussian_backward(
    outputs: Tensor, noise: Tensor, action: Tensor, d_action: Tensor, d_log_prob: Tensor
) -> Tensor:
    """∂loss/∂outputs, [N, 2A], of ``squashed_gaussian``.

    Args:
        outputs: see there. noise: see there. action: [N, A], that came out.
        d_action: ∂loss/∂action, [N, A]. d_log_prob: ∂loss/∂log-density, [N].
    """
    log_std = outputs[:, noise.shape[1] :]
    d_log_prob = d_log_prob.unsqueeze(1)
    d_u = d_action * (1.0 - action.square()) + 2.0 * d_log_prob * action  # ∂ log(1 − tanh²u) / ∂u = −2 tanh u
    d_log_std = d_u * log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise - d_log_prob
    return torch.cat([d_u, d_log_std * ((log_std >= LOG_STD_MIN) & (log_std <= LOG_STD_MAX))], 1)
