"""The run's seed and an update's index flow in, that update's generators flow out: a resumed run draws the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SAMPLE, NOISE = 0, 1  # streams that must not be correlated: the draw from the replay, and what the losses draw


def sample_generator(seed: int, update: int) -> np.random.Generator:
    """What ``Replay.sample`` draws the batch of update ``update`` with."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((SAMPLE, seed, update))))


def update_generator(seed: int, update: int, device: str | torch.device = "cpu") -> torch.Generator:
    """What ``Algorithm.gradients`` draws its noise with at update ``update``."""
    import torch

    word = np.random.SeedSequence((NOISE, seed, update)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))
