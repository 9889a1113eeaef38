"""Durations of steps flow in, what each transition counts in the losses flows out (numpy only)."""

from __future__ import annotations

import numpy as np


def duration_weights(duration_s: np.ndarray, limit: float) -> np.ndarray:
    """min(Δt / mean Δt, limit): so that each second of an environment counts as much as any other's.

    Environments that take part in equal numbers send transitions in proportion to 1 / Δt, and the gradient follows the
    fast ones. After Yang, He-Yueya & Liang 2025, "Reinforcement Learning for Machine Learning Engineering Agents",
    arXiv 2509.01684, who scale a policy gradient by the action's duration over the batch's mean; the limit is ours.

    Args:
        duration_s: [...], Δt of the batch's steps, wall seconds. limit: most that one counts.

    Returns:
        float32 [...]; all 1 where no time has passed.
    """
    mean = float(np.mean(duration_s, dtype=np.float64))
    if mean <= 0.0:
        return np.ones(duration_s.shape, np.float32)
    return np.minimum(duration_s / mean, limit).astype(np.float32)
