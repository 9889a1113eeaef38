"""Sample batches flow in, tensors as networks of flat observations and bounded actions take them flow out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from distrl.core.types import EnvSpec
from distrl.learners.replay import SampleBatch
from distrl.learners.spaces import bounded_box, flat_size, observation_leaves


class Tensors(NamedTuple):
    """Attributes: observation, following: float32 [S, D], before and after. action: float32 [S, A], in [−1, 1].
    reward, discount: float32 [S], as in ``SampleBatch``.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    following: Tensor


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
        self._paths, self._device = tuple(leaves), device
        center, half = (box.high + box.low) / 2, (box.high - box.low) / 2
        self._center, self._half = (self._tensor(array.reshape(-1)) for array in (center, half))

    def __call__(self, batch: SampleBatch) -> Tensors:
        """Arrays or tensors in."""
        action = self._tensor(batch.action).reshape(len(batch.action), -1)
        return Tensors(
            observation=self._flat(batch.observation),
            action=(action - self._center) / self._half,
            reward=self._tensor(batch.reward),
            discount=self._tensor(batch.discount),
            following=self._flat(batch.next_observation),
        )

    def weight(self, batch: SampleBatch) -> Tensor:
        """What each sample counts in the losses, [S]."""
        return (
            torch.ones(len(batch.reward), device=self._device) if batch.weight is None else self._tensor(batch.weight)
        )

    def _flat(self, observation: dict[str, Any]) -> Tensor:
        parts = [part.reshape(len(part), -1) for part in (self._tensor(observation[path]) for path in self._paths)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self._device)
