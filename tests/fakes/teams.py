"""Joint actions in, the payoff of a team out: a game that one way to mix agents' values solves and another does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

#: What the team gets in the second step, by the first agent's first action and both agents' second ones.
PAYOFF = np.array([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])


class TwoSteps(ParallelEnv):
    """The two-step game of Rashid et al. 2018 (arXiv 1803.11485, section 5): the best return is 8, and a sum of values
    leads to 7. Everyone sees where the game is, one-hot."""

    metadata = {"name": "two_steps", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = ["first", "second"]
        self.state_space = spaces.Box(0, 1, (3,), np.float32)

    def observation_space(self, agent: str) -> spaces.Space:
        return self.state_space

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self.agents, self._place = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, self.state()), {}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        first, second = actions["first"], actions["second"]
        names, over = self.agents, self._place > 0
        payoff = PAYOFF[self._place - 1, first, second] if over else 0.0
        if over:
            self.agents = []
        else:
            self._place = 1 + int(first)
        flags = dict.fromkeys(names, over)
        nobody = dict.fromkeys(names, False)
        return dict.fromkeys(names, self.state()), dict.fromkeys(names, payoff / 2), flags, nobody, {}

    def state(self) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[self._place]


class GiveUp(ParallelEnv):
    """One step: "taker" sees t, "giver" sees w, both uniform in [−1, 1], and they act u₀ and u₁ in [−1, 1]. The team
    gets −(u₀ + u₁ − t)² − ½ (u₁ − w)².

    Who sees t cannot know w, so that "giver" has to give up two thirds of what it wants, u₁ = w / 3: the best return is
    −⅓ E w² = −⅑; with u₁ = w it is −⅓.
    """

    metadata = {"name": "give_up", "render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = ["taker", "giver"]

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self._seen = list(self.possible_agents), self._rng.uniform(-1, 1, (2, 1)).astype(np.float32)
        return self._observations(), {}

    def step(self, actions: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        (t,), (w,) = self._seen
        u0, u1 = (float(actions[name][0]) for name in self.possible_agents)
        half = (-((u0 + u1 - t) ** 2) - 0.5 * (u1 - w) ** 2) / 2  # of each agent
        names, self.agents = self.agents, []
        flags, nobody = dict.fromkeys(names, True), dict.fromkeys(names, False)
        return self._observations(), dict.fromkeys(names, half), flags, nobody, {}

    def _observations(self) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, self._seen, strict=True))


class Roles(ParallelEnv):
    """Every agent sees the same and is to do something else: the reward is 1 for its own number. One step."""

    metadata = {"name": "roles", "render_modes": []}  # noqa: RUF012

    def __init__(self, agents: int = 3) -> None:
        self.possible_agents = [f"agent_{index}" for index in range(agents)]

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0, 1, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(len(self.possible_agents))

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self.agents = list(self.possible_agents)
        return self._seen(), {}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        names, self.agents = self.agents, []
        rewards = {name: float(actions[name] == index) for index, name in enumerate(names)}
        return self._seen(), rewards, dict.fromkeys(names, True), dict.fromkeys(names, False), {}

    def _seen(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(1, np.float32) for name in self.possible_agents}
