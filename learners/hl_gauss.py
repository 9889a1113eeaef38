"""What a critic's outputs say flows out as values, and how far they are from a target as losses: as plain numbers, or
as the categories of a histogram.

HL-Gauss: Farebrother et al. 2024, "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
arXiv 2403.03950, section 3.1; after Imani & White 2018, arXiv 1806.04613. With bins of width ς between edges e_0, …,
e_m, their centres z_i, Φ the normal distribution function and σ the smoothing:

    p_i(y) ∝ Φ((e_{i+1} − y) / σ) − Φ((e_i − y) / σ),     Q = Σ_i z_i softmax_i(outputs)
    loss   = −Σ_i p_i(y) log softmax_i(outputs)
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distrl.learners.off_policy_config import ValueLossConfig


class ValueLoss(Protocol):
    """Attributes: num_outputs: m, of a critic for one value."""

    num_outputs: int

    def values(self, outputs: Tensor) -> Tensor:
        """[…, m] → […]."""

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Of each: outputs […, m] and targets of a shape that […] can be broadcast with → […]."""

    def loss_backward(self, outputs: Tensor, target: Tensor, d_loss: Tensor) -> Tensor:
        """∂/∂outputs […, m] of what has the gradient ``d_loss`` […] by ``loss``, where autograd is not asked."""

    def values_backward(self, outputs: Tensor, d_values: Tensor) -> Tensor:
        """∂/∂outputs […, m] of what has the gradient ``d_values`` […] by ``values``."""


class Squared:
    """½ (Q − y)²; the output is the value."""

    num_outputs = 1

    def values(self, outputs: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return outputs.squeeze(-1)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return 0.5 * (outputs.squeeze(-1) - target).square()

    def loss_backward(self, outputs: Tensor, target: Tensor, d_loss: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return ((outputs.squeeze(-1) - target) * d_loss).unsqueeze(-1)

    def values_backward(self, outputs: Tensor, d_values: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return d_values.unsqueeze(-1)


class HLGauss:
    """Cross-entropy to the histogram of a normal distribution around the target.

    Args:
        low, high: of the values; targets beyond are taken as the nearest of them.
        num_bins: m. smoothing: σ, in widths of a bin.
    """

    def __init__(self, low: float, high: float, num_bins: int, smoothing: float, device: torch.device):
        self.num_outputs = num_bins
        self._edges = torch.linspace(low, high, num_bins + 1, device=device)
        self._centers = (self._edges[1:] + self._edges[:-1]) / 2
        self._sigma = smoothing * (high - low) / num_bins
        self._low, self._high = low, high

    def values(self, outputs: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return torch.softmax(outputs, -1) @ self._centers

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return -(self.probabilities(target) * log_softmax(outputs, -1)).sum(-1)

    def loss_backward(self, outputs: Tensor, target: Tensor, d_loss: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        return (torch.softmax(outputs, -1) - self.probabilities(target)) * d_loss.unsqueeze(-1)

    def values_backward(self, outputs: Tensor, d_values: Tensor) -> Tensor:
        """See ``ValueLoss``."""
        shares = torch.softmax(outputs, -1)
        beside = self._centers - (shares @ self._centers).unsqueeze(-1)  # of each centre from the value
        return shares * beside * d_values.unsqueeze(-1)

    def probabilities(self, target: Tensor) -> Tensor:
        """p_i(y), […] → […, m]."""
        target = target.clamp(self._low, self._high).unsqueeze(-1)
        below = torch.erf((self._edges - target) / (math.sqrt(2.0) * self._sigma))  # 2 Φ − 1
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def value_loss(config: ValueLossConfig, device: torch.device) -> ValueLoss:
    """What the options say."""
    if config.value_loss == "squared":
        return Squared()
    return HLGauss(config.value_min, config.value_max, config.num_bins, config.smoothing, device)
