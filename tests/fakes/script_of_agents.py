"""An environment of several agents whose every number says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gymnasium import spaces

from distrl.envs.multi_agent.agents_env import AgentsStep
from distrl.envs.multi_agent.joint import JointEnv


class Script:
    """Agents 0 … 3: "walker-0" and "walker-1" see 2 numbers and choose one of 3; "swimmer-0" and "swimmer-1" see 1
    number and choose 2. What agent a sees before env step t of its k-th episode is 100 a + t, + 1000 k in the first
    number; it earns a + t/8 a step.

    Args:
        life: agent → (first env step that it acts in, env step with which it ends, every how many it acts).
        length: env steps of an episode; who has not ended then is truncated.
        fail_at: env step that raises.
    """

    agents = ("walker-0", "walker-1", "swimmer-0", "swimmer-1")
    state_space = None
    render_mode = None
    max_episode_steps = None

    def __init__(
        self, life: dict[str, tuple[int, int, int]] | None = None, length: int = 8, fail_at: int | None = None
    ):
        self.metadata: dict = {"render_modes": []}
        box = spaces.Box(-1e6, 1e6, (1,), np.float32)
        self.observation_spaces = {
            name: spaces.Box(-1e6, 1e6, (2,), np.float32) if name.startswith("walker") else spaces.Dict({"depth": box})
            for name in self.agents
        }
        self.action_spaces = {
            name: spaces.Discrete(3) if name.startswith("walker") else spaces.Box(-1, 1, (2,), np.float32)
            for name in self.agents
        }
        everywhere = dict.fromkeys(self.agents, (0, length - 1, 1))
        self.life = everywhere | {name: tuple(times) for name, times in (life or {}).items()}
        self.length, self.fail_at = length, fail_at
        self.episode = -1
        self.t = 0

    def reset(self, seed=None):
        self.episode, self.t = self.episode + 1, 0
        return {name: self.sees(name) for name in self.agents if self.acts(name)}

    def step(self, actions):
        assert set(actions) == {name for name in self.agents if self.acts(name)}, (self.t, actions)
        for name, action in actions.items():  # what ``Numbering`` of test_agent_rows does
            number = (1000 * self.episode + 100 * self.agents.index(name) + self.t) % 3
            wanted = number if name.startswith("walker") else [np.float32(number / 3), np.float32(-number / 3)]
            assert np.array_equal(action, wanted), (name, action, wanted)
        if self.fail_at == self.t:
            raise RuntimeError("the script says so")
        rewards = {
            name: index + self.t / 8
            for index, name in enumerate(self.agents)
            if self.life[name][0] <= self.t <= self.life[name][1]
        }
        ended = [name for name in self.agents if self.life[name][1] == self.t]
        self.t += 1
        over = self.t == self.length
        cut = [name for name in self.agents if over and self.life[name][0] < self.t <= self.life[name][1]]
        following = [name for name in self.agents if not over and self.acts(name)]
        seen = {name: self.sees(name) for name in (*following, *ended, *cut)}
        return AgentsStep(seen, rewards, ended, cut, {"t": self.t})

    def acts(self, name):
        first, last, period = self.life[name]
        return first <= self.t <= last and (self.t - first) % period == 0

    def sees(self, name):
        number = 100 * self.agents.index(name) + self.t
        if name.startswith("walker"):
            return np.array([number + 1000 * self.episode, number], np.float32)
        return {"depth": np.array([number + 1000 * self.episode], np.float32)}

    def snapshot(self, directory):
        (Path(directory) / "script.json").write_text(json.dumps([self.episode, self.t]))

    def restore(self, directory):
        self.episode, self.t = json.loads((Path(directory) / "script.json").read_text())
        return {name: self.sees(name) for name in self.agents if self.acts(name)}

    def render(self):
        return None

    def close(self):
        pass


def joint_script(**kwargs):
    """By import path, for pools."""
    return JointEnv(Script(**kwargs))
