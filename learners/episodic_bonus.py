"""Features of the steps of episodes flow in, how unlike each is to those before it in its episode flows out.

Henaff et al. 2022, "Exploration via Elliptical Episodic Bonuses", arXiv 2210.05805, section 3.1: with φ_1, φ_2, … the
features of an episode,

    b_t = φ_tᵀ C_{t−1}⁻¹ φ_t,     C_t = C_{t−1} + φ_t φ_tᵀ,     C_0 = λ I,     λ = 0.1

so that a direction that has been seen n times gives about 1/n. C⁻¹ is kept up to date by the formula of Sherman and
Morrison. The paper's features are learned from which action led where; here they are a random network's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.learners.moments import passes

_LAMBDA = 0.1


class EpisodicBonus:
    """Remembers the running episode of each row.

    Args:
        num_features: F.
    """

    def __init__(self, num_features: int, device: torch.device):
        self._nothing = torch.eye(num_features, device=device) / _LAMBDA  # C_0⁻¹
        self._inverses: dict[int, Tensor] = {}  # row → C⁻¹ [F, F], behind its newest step

    @torch.no_grad()
    def bonuses(self, features: Tensor, is_first: np.ndarray, row: np.ndarray) -> Tensor:
        """b, float32 [T, N].

        Args:
            features: float32 [T, N, F]. is_first: bool [T, N]. row: int64 [N]; columns of the same row follow each
                other in time.
        """
        found = features.new_empty(features.shape[:2])
        first = torch.as_tensor(is_first, device=features.device)
        for columns in passes(row):
            keys = row[columns].tolist()
            inverse = torch.stack([self._inverses.get(key, self._nothing) for key in keys])
            for t, phi in enumerate(features[:, columns]):
                inverse = torch.where(first[t, columns, None, None], self._nothing, inverse)
                along = torch.bmm(inverse, phi.unsqueeze(2)).squeeze(2)  # C⁻¹ φ
                bonus = (along * phi).sum(1)
                found[t, columns] = bonus
                inverse = inverse - along.unsqueeze(2) * along.unsqueeze(1) / (1.0 + bonus)[:, None, None]
            self._inverses.update(zip(keys, inverse.unbind(), strict=True))
        return found

    def state(self) -> dict[int, Tensor]:
        """Row → C⁻¹, on the CPU."""
        return {key: inverse.to("cpu", copy=True) for key, inverse in self._inverses.items()}

    def load_state(self, state: dict[int, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._inverses = {key: inverse.to(self._nothing.device, copy=True) for key, inverse in state.items()}
