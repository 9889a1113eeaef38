"""Controllers that were not learned in, their episodes out: baselines, doing nothing, random actions."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from distrl.core.config import RunConfig
from distrl.core.joint import RandomAgents
from distrl.core.spaces import random_action
from distrl.core.types import ARRAY, EnvSpec


def baseline_module(config: RunConfig) -> Any:
    """The module of open-loop controllers that the environment's class names, or None."""
    from distrl.envs.resolve import baseline_of

    name = baseline_of(config.env.id)
    return importlib.import_module(name) if name else None


def evaluate_controller(config: RunConfig, params: dict[str, Any], episodes: int, scratch: Path) -> list[Any]:
    """Episodes of one baseline controller on the test seeds."""
    from distrl.cluster import components

    return next(evaluate_controllers(config, [params], components.TEST_SEEDS, episodes, scratch))


def baseline_on_selection_seeds(config: RunConfig, params: dict[str, Any], scratch: Path) -> float:
    """A controller's mean return where the learning curve's evaluations were made: what to draw beside them."""
    from distrl.actors.evaluator import mean_return
    from distrl.cluster import components

    seeds, episodes = components.SELECTION_SEEDS, config.evaluation.episodes
    return mean_return(next(evaluate_controllers(config, [params], seeds, episodes, scratch)))


class Controller(Protocol):
    """Acts without having learned: one for each environment."""

    def reset(self) -> None:
        """Start an episode."""

    def act(self, observation: Any) -> np.ndarray:
        """The action for one observation."""


Make = Callable[[EnvSpec, int], Controller | None]  # of the environment's spec and a number; None: there is none


class RandomActions:
    """Uniform over the actions that are allowed, of each agent."""

    def __init__(self, spec: EnvSpec, number: int) -> None:
        self._agents = RandomAgents(spec.agents, number) if spec.agents else None
        self._space = copy.deepcopy(spec.action_space)
        self._space.seed(number)

    def reset(self) -> None:
        """It goes on drawing."""

    def act(self, observation: Any) -> np.ndarray:
        """The next action."""
        if self._agents is not None:
            return self._agents.act(observation)
        return np.asarray(random_action(self._space, observation))


class SameAction:
    """The same action always."""

    def __init__(self, action: np.ndarray) -> None:
        self._action = action

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Any) -> np.ndarray:
        """The action."""
        return self._action


def _zero_action(spec: EnvSpec, number: int) -> Controller | None:
    """Zero, where the actions are numbers among which it is; None for others, where zero means nothing."""
    space = spec.action_space
    if not all(isinstance(agent.action_space, gymnasium.spaces.Box) for agent in spec.agents):
        return None
    if not isinstance(space, gymnasium.spaces.Box) or not space.contains(np.zeros(space.shape, space.dtype)):
        return None
    return SameAction(np.zeros(space.shape, space.dtype))


def doing_nothing(config: RunConfig) -> Make:
    """What the environment's baseline module calls nothing, or zero where there is no such module."""
    module = baseline_module(config)
    return _zero_action if module is None else _controller_of(config, module, module.NOTHING)


def _controller_of(config: RunConfig, module: Any, params: dict[str, Any]) -> Make:
    kwargs = {**config.env.kwargs, **({"fidelity": config.env.fidelity} if config.env.fidelity else {})}
    return lambda spec, number: module.baseline_policy(params, kwargs)


def evaluate_controllers(
    config: RunConfig, candidates: list[dict[str, Any]], first_seed: int, episodes: int, scratch: Path
) -> Iterator[list[Any]]:
    """Episodes of one baseline controller after another, all on the same seeds, as many at once as there are cores."""
    module = baseline_module(config)
    makers = [_controller_of(config, module, params) for params in candidates]
    return run_controllers(config, makers, first_seed, episodes, scratch)


def run_controllers(
    config: RunConfig, makers: list[Make], first_seed: int, episodes: int, scratch: Path
) -> Iterator[list[Any]]:
    """Episodes of one kind of controller after another; an empty list for a kind that the environment does not have."""
    from distrl.cluster import components

    num_envs = min(os.cpu_count() or 1, episodes)
    runner = components.evaluation_runner(config, first_seed, episodes, num_envs, scratch, inline=False)
    try:
        for make in makers:
            made = [make(runner.spec, number) for number in range(num_envs)]
            controllers = [controller for controller in made if controller is not None]
            if not controllers:
                yield []
                continue

            def act(requests: Any, controllers: list[Controller] = controllers) -> np.ndarray:
                for row in requests.rows[requests.is_first]:
                    controllers[row].reset()
                seen = requests.observation
                parts = [
                    seen[ARRAY][k] if ARRAY in seen else {path: array[k] for path, array in seen.items()}
                    for k in range(len(requests.rows))
                ]
                return np.stack([controllers[row].act(part) for row, part in zip(requests.rows, parts, strict=True)])

            yield runner.run(act)
    finally:
        runner.close()
