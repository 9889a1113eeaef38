"""RLModules as users write them for RLlib, and some that PPO cannot train."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn


class TwoTowers(TorchRLModule, ValueFunctionAPI):
    """Actor and critic of two tanh layers each, as distrl's own networks are."""

    def setup(self) -> None:
        self.actor, self.critic = self._tower(int(self.action_space.n)), self._tower(1)

    def _tower(self, outputs: int) -> nn.Module:
        inputs, (one, two) = self.observation_space.shape[0], self.model_config["hidden"]
        return nn.Sequential(nn.Linear(inputs, one), nn.Tanh(), nn.Linear(one, two), nn.Tanh(), nn.Linear(two, outputs))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return self.critic(batch[Columns.OBS]).squeeze(-1)


class Shared(TorchRLModule, ValueFunctionAPI):
    """A Gaussian actor and a critic on one encoder of a Dict observation, which the critic is handed."""

    def setup(self) -> None:
        size = int(self.action_space.shape[0])
        self.encoder, self.value = nn.Linear(2 + 3, 8), nn.Linear(8, 1)
        self.mean, self.log_std = nn.Linear(8, size), nn.Parameter(torch.zeros(size))
        self.action_dist_cls = TorchDiagGaussian

    def _embedded(self, batch: dict[str, Any]) -> torch.Tensor:
        seen = batch[Columns.OBS]
        return torch.tanh(self.encoder(torch.cat([seen["place"], seen["sub"]["speed"]], -1)))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        embedded = self._embedded(batch)
        mean = self.mean(embedded)
        inputs = torch.cat([mean, self.log_std.expand_as(mean)], -1)
        return {Columns.ACTION_DIST_INPUTS: inputs, Columns.EMBEDDINGS: embedded}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return self.value(self._embedded(batch) if embeddings is None else embeddings).squeeze(-1)


class Remembers(TwoTowers):
    def get_initial_state(self) -> dict[str, Any]:
        return {"h": torch.zeros(4)}


class Buffered(TwoTowers):
    def setup(self) -> None:
        super().setup()
        self.register_buffer("mean", torch.zeros(3))


class Silent(TwoTowers):
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: batch[Columns.OBS]}


class Valueless(TorchRLModule):
    pass
