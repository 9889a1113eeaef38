"""Observations flow in, rewards for what is new in them and the gradient of the network that gets used to it flow out.

With f the network that is trained, c_1, …, c_N fixed random ones, x an observation less its running mean, in running
standard deviations and within ±5, and means over the features where the papers have sums:

    rnd    b = mean (f(x) − c_1(x))²,     J = mean b                   Burda et al. 2018, arXiv 1810.12894, section 2.2
    drnd   b = α mean (f(x) − μ(x))² + (1 − α) mean √y(x)              Yang et al. 2024, arXiv 2401.09750, section 4
           y = (f(x)² − μ(x)²) / (B(x) − μ(x)²),  μ = mean_i c_i,  B = mean_i c_i²
           J = mean (f(x) − c_k(x))²,  k drawn anew for each x

An episodic bonus (``distrl.learners.episodic_bonus``) takes the place of b, or is a factor on it.

y is about 1/n of what has been seen n times, and taken between 0 and 1. Rewards are b divided by the running standard
deviation of b. In the paper that is the deviation of its discounted sums, which have a value of their own; here one
value is learned of both rewards, so that what is new counts until the episode's end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.learners.bonus_config import BonusConfig
from distrl.learners.episodic_bonus import EpisodicBonus
from distrl.learners.moments import RunningMoments
from distrl.learners.networks import MLP, FlatParameters
from distrl.learners.optimizer import Rule, Trained
from distrl.learners.together import ALONE, Together

_LIMIT = 5.0  # of a normalised input


class Bonus:
    """Owned by an algorithm, whose optimizer has ``trained`` as its vector "bonus".

        reward = reward + bonus.rewards(following)
        gradients["bonus"] = bonus.gradient(following, rng)
        optimizer.step(gradients) and bonus.follow(optimizer.together)

    Of a rollout, ``rollout_rewards`` takes the place of the first and the last.

    Args:
        config: options. num_inputs: D.
        seed: of all its networks; one apart from the algorithm's.

    Attributes:
        trained: f.
    """

    def __init__(self, config: BonusConfig, num_inputs: int, device: torch.device, seed: int):
        self.config, self._device = config, device
        sizes = (num_inputs, *config.hidden, config.num_features)
        number = config.num_targets if config.kind == "drnd" else 1
        self._net, self._fixed_net = MLP(sizes), MLP(sizes, ensemble=number)
        generator = torch.Generator().manual_seed(seed)
        self._fixed = FlatParameters(_orthogonal(self._fixed_net.initial(generator), generator), device)
        self._learned = FlatParameters(_orthogonal(self._net.initial(generator), generator), device)
        self.trained = Trained(self._learned.flat, Rule(config.learning_rate))
        self._inputs, self._bonuses = RunningMoments(num_inputs), RunningMoments(1)
        self._episodes = None if config.scope == "global" else EpisodicBonus(config.num_features, device)
        self._newest: Tensor | None = None

    def rewards(self, inputs: Tensor) -> Tensor:
        """For being where the inputs [S, D] are, float32 [S]."""
        return self._raw(inputs) * (self.config.weight / float(self._bonuses.std[0]))

    def gradient(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        """∂J/∂f, float32 [P]. Args: rng: on the inputs' device."""
        x = self._normalised(inputs)
        with torch.no_grad():
            fixed = self._fixed_net(self._fixed.frozen, x)  # [N, S, F]
            rows = torch.arange(len(x), device=self._device)
            aim = fixed[torch.randint(len(fixed), (len(x),), generator=rng, device=self._device), rows]
        self._newest = inputs
        return self._learned.gradient((self._net(self._learned.named, x) - aim).square().mean())

    def follow(self, together: Together) -> None:
        """Move the running moments by what the newest gradient was of."""
        assert self._newest is not None
        self._inputs.add(self._newest.cpu().numpy(), together)
        self._bonuses.add(self._raw(self._newest).unsqueeze(1).cpu().numpy(), together)

    def rollout_rewards(
        self, following: Tensor, is_first: np.ndarray, row: np.ndarray, together: Together = ALONE
    ) -> Tensor:
        """For being where each step led to, float32 [T, N]; the running moments move first.

        Args:
            following: float32 [T, N, D]. is_first, row: see ``Rollout``; of is_first, the T steps.
        """
        shape, flat = following.shape[:2], following.flatten(0, 1)
        self._inputs.add(flat.cpu().numpy(), together)
        raw = self._raw(flat).view(shape)
        if self._episodes is not None:
            features = self._fixed_net(self._fixed.frozen, self._normalised(flat))[0]
            episodic = self._episodes.bonuses(features.view(*shape, -1), is_first, row)
            raw = episodic if self.config.scope == "episodic" else raw * episodic
        self._bonuses.add(raw.reshape(-1, 1).cpu().numpy(), together)
        return raw * (self.config.weight / float(self._bonuses.std[0]))

    def state(self) -> dict[str, Any]:
        """All but ``trained``."""
        return {
            "fixed": self._fixed.flat.to("cpu", copy=True),
            "inputs": self._inputs.state(),
            "bonuses": self._bonuses.state(),
            "episodes": self._episodes and self._episodes.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken."""
        self._fixed.flat.copy_(state["fixed"])
        self._inputs.load_state(state["inputs"])
        self._bonuses.load_state(state["bonuses"])
        if self._episodes is not None:
            self._episodes.load_state(state["episodes"] or {})

    @torch.no_grad()
    def _raw(self, inputs: Tensor) -> Tensor:
        """b, [S]."""
        x, share = self._normalised(inputs), self.config.distance_share
        learned, fixed = self._net(self._learned.frozen, x), self._fixed_net(self._fixed.frozen, x)
        mean = fixed.mean(0)
        distance = (learned - mean).square().mean(1)
        if self.config.kind == "rnd":
            return distance
        seldom = (learned.square() - mean.square()) / (fixed.square().mean(0) - mean.square() + 1e-8)
        return share * distance + (1.0 - share) * seldom.clamp(0.0, 1.0).sqrt().mean(1)

    def _normalised(self, inputs: Tensor) -> Tensor:
        mean, std = (
            torch.as_tensor(part, dtype=torch.float32, device=self._device)
            for part in (self._inputs.mean, self._inputs.std)
        )
        return ((inputs - mean) / std).clamp(-_LIMIT, _LIMIT)


def with_bonus(vectors: dict[str, Trained], bonus: Bonus | None) -> dict[str, Trained]:
    """All that an optimizer is to step."""
    return vectors if bonus is None else {**vectors, "bonus": bonus.trained}


def _orthogonal(initial: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of an ``MLP`` orthogonal with gain √2 and biases zero, as in the authors' implementation of RND: with
    small ones, networks would differ too little."""
    for name, value in initial.items():
        if name.endswith("bias"):
            value.zero_()
        else:
            for weight in value if value.dim() == 3 else [value]:
                torch.nn.init.orthogonal_(weight, math.sqrt(2.0), generator=generator)
    return initial
