"""Scripts and actions in, exactly known observations and rewards of several agents out: for tests of their hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Played(ParallelEnv):
    """Plays back what a script says, whatever is done. The observation of an agent is (its number, the step).

    Args:
        names: of all agents.
        script: for reset and each step a dict, of which all may be left out: ``alive``: who is in ``agents`` then
            (everyone); ``seen``: whose observations come (those who were and those who are alive); ``rewards``,
            ``terminated``, ``truncated``, ``infos``: by agent.
        observation_spaces, action_spaces: of agents that have others than all.
        shared_state: whether there is a global state, (the step, how many are alive).
    """

    metadata = {"name": "played", "render_modes": []}  # noqa: RUF012

    def __init__(self, names, script, observation_spaces=None, action_spaces=None, shared_state=False):
        self.possible_agents, self.script = list(names), script
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_spaces = {name: (observation_spaces or {}).get(name, box) for name in names}
        self.action_spaces = {name: (action_spaces or {}).get(name, spaces.Discrete(3)) for name in names}
        self.given: list[dict[Any, Any]] = []  # actions of each step
        if shared_state:
            self.state_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def observe(self, agent) -> Any:
        return np.array(
            [self.possible_agents.index(agent) if agent in self.possible_agents else -1, self.t], np.float32
        )

    def reset(self, seed=None, options=None):
        self.t, self.agents, self.given = 0, [], []
        return self._play()[0], {}

    def step(self, actions):
        self.given.append(actions)
        self.t += 1
        return self._play()

    def state(self):
        return np.array([self.t, len(self.agents)], np.float32)

    def _play(self):
        now = self.script[self.t]
        before, self.agents = self.agents, list(now.get("alive", self.possible_agents))
        seen = now.get("seen", dict.fromkeys([*before, *self.agents]))
        return (
            {agent: self.observe(agent) for agent in seen},
            now.get("rewards", {}),
            now.get("terminated", {}),
            now.get("truncated", {}),
            now.get("infos", {}),
        )


class Masked(Played):
    """Observations are Dicts with a mask of three actions, of which number ``step % 3`` is forbidden."""

    def __init__(self, names, script):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        masked = spaces.Dict({"observation": box, "action_mask": spaces.MultiBinary(3)})
        super().__init__(names, script, observation_spaces=dict.fromkeys(names, masked))

    def observe(self, agent):
        mask = np.array([k != self.t % 3 for k in range(3)], np.int8)
        return {"observation": super().observe(agent), "action_mask": mask}


class Continued(Played):
    """Can be continued from a snapshot; what it gives depends on the actions so far (their sum is in each
    observation's first number)."""

    def __init__(self, names, length):
        super().__init__(names, [{}] * length + [{"alive": ()}])
        self.total = 0

    def reset(self, seed=None, options=None):
        self.total = 0
        return super().reset(seed)

    def step(self, actions):
        self.total += sum(actions.values())
        return super().step(actions)

    def observe(self, agent):
        return super().observe(agent) + np.array([self.total, 0], np.float32)

    def snapshot(self, directory):
        Path(directory, "played.json").write_text(json.dumps([self.t, self.total, self.agents]))

    def restore(self, directory):
        self.t, self.total, self.agents = json.loads(Path(directory, "played.json").read_text())


class Turns(AECEnv):
    """Agents in turns; an action k gives everyone else k, and 0 ends the one who does it. Whoever is left alone has
    won: he ends as well. An observation is (number of the agent, actions so far).

    Args:
        names: of all agents. last_turns: "at once", when PettingZoo's order is kept, which lets the ended one have its
            last turn before anybody else; "in order", when it comes only when it is its turn again; "never".
        length: actions after which all are truncated.
    """

    metadata = {"name": "turns", "render_modes": [], "is_parallelizable": False}  # noqa: RUF012

    def __init__(self, names=("a", "b", "c"), last_turns="at once", length=100):
        super().__init__()
        self.possible_agents, self.last_turns, self.length = list(names), last_turns, length

    def observation_space(self, agent):
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(3)

    def observe(self, agent):
        return np.array([self.possible_agents.index(agent), self.t], np.float32)

    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, list(self.possible_agents)
        for name in ("rewards", "_cumulative_rewards"):
            setattr(self, name, dict.fromkeys(self.agents, 0))
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            after = self._next(agent)
            self._was_dead_step(action)
            if self.last_turns == "in order" and self.agents:
                self.agent_selection = after
            return
        self.t += 1
        self.rewards = {other: 0 if other == agent else int(action) for other in self.agents}
        self._cumulative_rewards[agent] = 0
        self._accumulate_rewards()
        self.infos = {other: {"t": self.t} for other in self.agents}
        self.terminations[agent] = action == 0
        alive = [other for other in self.agents if not self.terminations[other]]
        if len(alive) == 1:
            self.terminations[alive[0]] = True
        if self.t == self.length:
            self.truncations = dict.fromkeys(self.agents, True)
        self.agent_selection = self._next(agent)
        if self.last_turns == "at once":
            self._deads_step_first()
        elif self.last_turns == "never" and action == 0:
            self.agents.remove(agent)

    def _next(self, agent):
        return self.agents[(self.agents.index(agent) + 1) % len(self.agents)]
