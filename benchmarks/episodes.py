"""Whole episodes of a policy, for all benchmarks that tell returns."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def mean_return(env: Any, act: Callable[[Any], Any], seeds: Iterable[int]) -> float:
    """Of one episode a seed, by a policy without memory: ``act`` is given the observation."""
    returns = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))
