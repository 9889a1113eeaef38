"""Sample batches flow in, tensors as networks of flat observations and bounded actions take them flow out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distrl.core.types import EnvSpec
from distrl.learners.device import joined, to_device
from distrl.learners.replay import SampleBatch
from distrl.learners.spaces import bounded_box, flat_size, observation_leaves


class Tensors(NamedTuple):
    """Attributes: observation, following: float32 [S, D], before and after. action: float32 [S, A], the environment's.
    reward, discount: float32 [S], as in ``SampleBatch``. weight: [S], what each sample counts in the losses.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    following: Tensor
    weight: Tensor


class BoxBatches:
    """Of one environment.

    Args:
        env_spec: with a Box of floats (or a Dict of them) to observe and a bounded Box of floats to act in.
        algorithm: who asks, for the error.

    Attributes:
        num_inputs: D. num_actions: A.

    Raises:
        ConfigError: other spaces.
    """

    def __init__(self, env_spec: EnvSpec, algorithm: str, device: torch.device):
        box = bounded_box(env_spec.action_space, algorithm)
        leaves = observation_leaves(env_spec.observation_space)
        self.num_inputs, self.num_actions = flat_size(leaves), box.low.size
        self._layout, self._device = dict.fromkeys(leaves), device  # numbers all of them
        center, half = (box.high + box.low) / 2, (box.high - box.low) / 2
        self._center, self._half = (
            torch.as_tensor(array.reshape(-1), dtype=torch.float32, device=device) for array in (center, half)
        )

    def __call__(self, batch: SampleBatch) -> Tensors:
        """On the device."""
        observation, following = (joined(part, self._layout) for part in (batch.observation, batch.next_observation))
        action = batch.action.reshape(len(batch.reward), -1)
        parts = [observation, action, batch.reward, batch.discount, following, batch.weights()]
        return Tensors(*to_device(parts, self._device))

    def scaled(self, action: Tensor) -> Tensor:
        """The environment's actions [S, A] in [−1, 1]."""
        return (action - self._center) / self._half
