"""A force or position in time in, its frequency and amplitude out."""

import numpy as np


def frequency(signal: np.ndarray) -> float:
    """Of a nearly periodic signal, per sample, from its upward crossings of the mean that begin well below it."""
    signal = signal - signal.mean()
    up = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    deep = [np.min(part) < -0.5 * signal.std() for part in np.split(signal, up)[:-1]]
    up = up[deep]
    crossings = up - signal[up] / (signal[up + 1] - signal[up])
    return float(1 / np.diff(crossings).mean())


def middle_and_amplitude(signal: np.ndarray) -> tuple[float, float]:
    """Half of the sum and half of the difference of the largest and the smallest value."""
    return float(signal.max() + signal.min()) / 2, float(signal.max() - signal.min()) / 2


def smooth_start(steps: np.ndarray, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """A ramp from 0 to 1 over ``duration`` steps and its derivative: what moves at once starts sound waves."""
    s = np.clip(steps / duration, 0.0, 1.0)
    return s * s * (3 - 2 * s), 6 * s * (1 - s) / duration
