"""Network outputs and actions flow in, log-probabilities and entropies flow out; their gradients flow back.

The gradients are written out instead of left to autograd: for small networks its bookkeeping took longer than the
arithmetic. Outputs are [A, S], one row for each of A numbers, since sums over a few rows are much faster than over as
few columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distrl.learners.actor_policies import LOWEST


class Distribution(Protocol):
    """Of actions, given a network's outputs.

    log_prob, entropy, context = distribution.forward(parameters, outputs, action, allowed)
    d_outputs = distribution.backward(context, d_log_prob, d_entropy, gradients)
    """

    @property
    def num_outputs(self) -> int:
        """A."""

    def initial(self) -> dict[str, Tensor]:
        """Parameters of its own, by name."""

    def actions(self, action: np.ndarray, device: torch.device) -> Tensor:
        """Actions [S, …] as the policy gave them → [k, S] as ``forward`` takes them."""

    def forward(
        self, parameters: Mapping[str, Tensor], outputs: Tensor, action: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Any]:
        """log-probability [S] and entropy [S] in nats, and what ``backward`` wants to know.

        Args:
            outputs: [A, S]. action: [k, S]. allowed: bool [A, S], or None.
        """

    def backward(self, context: Any, d_log_prob: Tensor, d_entropy: Tensor, gradients: dict[str, Tensor]) -> Tensor:
        """∂loss/∂outputs [A, S], and those of its own parameters into ``gradients``.

        Args:
            d_log_prob, d_entropy: ∂loss/∂log-probability and ∂loss/∂entropy, [S].
        """


@dataclass(frozen=True)
class Categorical:
    """One choice out of n for each of k independent components, as softmax of the outputs.

    Attributes:
        choices: n of each component. lowest: its lowest action, in the action's own numbering.
    """

    choices: Sequence[int]
    lowest: Sequence[int]

    @property
    def num_outputs(self) -> int:
        """Σ n."""
        return sum(self.choices)

    def initial(self) -> dict[str, Tensor]:
        """It has no parameters of its own."""
        return {}

    def actions(self, action: np.ndarray, device: torch.device) -> Tensor:
        """int64 [k, S], from 0."""
        flat = action.reshape(-1, len(self.lowest)).astype(np.int64) - np.asarray(self.lowest, np.int64)
        return torch.from_numpy(np.ascontiguousarray(flat.T)).to(device)

    def forward(
        self, parameters: Mapping[str, Tensor], outputs: Tensor, action: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Any]:
        """See ``Distribution``; H = −Σ p log p, summed over the components."""
        if allowed is not None:
            outputs = outputs.masked_fill(~allowed, LOWEST)
        log_probs, entropies, parts = [], [], []
        for logits, chosen in zip(outputs.split(list(self.choices)), action.unsqueeze(1), strict=True):
            log_p = torch.log_softmax(logits, 0)
            p = log_p.exp()
            log_probs.append(log_p.gather(0, chosen).squeeze(0))
            entropies.append((p * log_p).sum(0).neg_())
            parts.append((chosen, log_p, p, entropies[-1]))
        if len(parts) == 1:
            return log_probs[0], entropies[0], parts
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0), parts

    def backward(self, context: Any, d_log_prob: Tensor, d_entropy: Tensor, gradients: dict[str, Tensor]) -> Tensor:
        """See ``Distribution``: ∂log p_a/∂logit_j = 1[j = a] − p_j, ∂H/∂logit_j = −p_j (log p_j + H)."""
        parts = []
        for chosen, log_p, p, entropy in context:
            gradient = (d_entropy * (log_p + entropy) + d_log_prob).mul_(p).neg_()
            parts.append(gradient.scatter_add_(0, chosen, d_log_prob.unsqueeze(0)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Gaussian:
    """N(c + h · μ, (h · σ)²), independent in each component; log σ is a parameter, the same for all observations.

    Attributes:
        center, half: c and h, [A]; see ``distrl.learners.actor_policies.GaussianPolicy``.
        initial_log_std: of σ.
    """

    center: np.ndarray
    half: np.ndarray
    initial_log_std: float = 0.0

    @property
    def num_outputs(self) -> int:
        """A: μ."""
        return len(self.center)

    def initial(self) -> dict[str, Tensor]:
        """``log_std`` float32 [A]."""
        return {"log_std": torch.full((len(self.center),), self.initial_log_std)}

    def actions(self, action: np.ndarray, device: torch.device) -> Tensor:
        """float32 [A, S] in the units of μ."""
        flat = (action.reshape(len(action), -1).astype(np.float64) - self.center) / self.half
        return torch.from_numpy(np.ascontiguousarray(flat.T, np.float32)).to(device)

    def forward(
        self, parameters: Mapping[str, Tensor], outputs: Tensor, action: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Any]:
        """See ``Distribution``; H = Σ log(h σ) + A/2 (1 + log 2π)."""
        log_std = parameters["log_std"]
        inverse = torch.exp(-log_std).unsqueeze(1)
        z = (action - outputs) * inverse
        scale = log_std.sum() + float(np.log(self.half).sum()) + 0.5 * math.log(2.0 * math.pi) * len(log_std)
        log_prob = torch.linalg.vector_norm(z, dim=0).square_().mul_(-0.5).sub_(scale)
        return log_prob, (scale + 0.5 * len(log_std)).expand_as(log_prob), (z, inverse)

    def backward(self, context: Any, d_log_prob: Tensor, d_entropy: Tensor, gradients: dict[str, Tensor]) -> Tensor:
        """See ``Distribution``: ∂log p/∂μ = z/σ and ∂log p/∂log σ = z² − 1 with z = (a − μ)/σ, ∂H/∂log σ = 1."""
        z, inverse = context
        weighted = z * d_log_prob
        gradients["log_std"] = (weighted * z).sum(1) - d_log_prob.sum() + d_entropy.sum()
        return weighted * inverse
