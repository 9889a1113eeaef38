"""Spaces flow in, the plain arguments that ``distrl.learners.actor_policies`` are made with flow out (no torch)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.spaces import action_leaf, leaves
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.inputs import MASK, STATE, image_paths, input_layout


def action_recipe(env_spec: EnvSpec) -> dict[str, Any]:
    """What ``actor_policies.head_of`` takes.

    Raises:
        ConfigError: actions of another kind, bounds that are none, or a mask of another size.
    """
    space = env_spec.action_space
    if isinstance(space, gymnasium.spaces.Box):
        return _box_actions(space)
    actions = _choices(space)
    _check_mask(env_spec.observation_space, sum(actions["choices"]))
    return actions


def actor_inputs(space: gymnasium.Space, actions: dict[str, Any], central_critic: bool) -> dict[str, Any]:
    """What an actor sees of an observation space (``inputs.Layout``): with a central critic, all but the state.

    Raises:
        ConfigError: nothing to see; no state, or images, with a central critic.
    """
    inputs = input_layout(space, has_mask="choices" in actions)
    return _without_state(space, inputs) if central_critic else inputs


def mlp_recipe(env_spec: EnvSpec, hidden: tuple[int, ...], central_critic: bool = False) -> PolicySpec:
    """The recipe of an ``actor_policies.mlp_policy`` without memory.

    Raises:
        ConfigError: spaces that it cannot have, images among them.
    """
    actions = action_recipe(env_spec)
    inputs = actor_inputs(env_spec.observation_space, actions, central_critic)
    if image_paths(inputs):
        raise ConfigError(
            f"algorithms that learn offline take observations that are numbers, but {', '.join(image_paths(inputs))} "
            "is an image: reduce it to features in a wrapper"
        )
    network = {"inputs": inputs, "memory": None, "num_layers": len(hidden) + 1}
    return PolicySpec("distrl.learners.actor_policies:mlp_policy", {"network": network, "actions": actions})


def _choices(space: gymnasium.Space) -> dict[str, Any]:
    """Number of choices, and the lowest of them, of each component of a discrete action.

    Raises:
        ConfigError: it is not discrete.
    """
    spec = action_leaf(space)
    size = int(np.prod(spec.shape))
    if isinstance(space, gymnasium.spaces.Discrete):
        choices, lowest = [int(space.n)], [int(space.start)]
    elif isinstance(space, gymnasium.spaces.MultiDiscrete):
        choices = space.nvec.reshape(-1).tolist()
        lowest = np.broadcast_to(space.start, space.nvec.shape).reshape(-1).tolist()
    elif isinstance(space, gymnasium.spaces.MultiBinary):
        choices, lowest = [2] * size, [0] * size
    else:
        raise ConfigError(f"actions need to be Box, Discrete, MultiDiscrete or MultiBinary; got {space}")
    return {"choices": choices, "lowest": lowest, "shape": list(spec.shape), "dtype": spec.dtype}


def _box_actions(space: gymnasium.spaces.Box) -> dict[str, Any]:
    if not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(f"a Gaussian policy needs a Box of floats to act in; got {space}: use MultiDiscrete")
    if not np.all(space.low < space.high):
        raise ConfigError(f"a Gaussian policy needs action bounds with low < high; got {space}")
    return {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}


def _without_state(space: gymnasium.Space, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of an actor whose critic is central.

    Raises:
        ConfigError: there is no state, nothing else, or an image.
    """
    if STATE not in inputs:
        raise ConfigError(
            f"algorithm.central_critic needs a global state, an entry {STATE!r} of the observation, which is {space}: "
            'set env.agents.state to "env" or "joint", or leave the central critic out'
        )
    if image_paths(inputs):
        raise ConfigError(
            "algorithm.central_critic needs networks that actor and critic do not share, as those for images do; the "
            f"observation space is {space}"
        )
    seen = {path: kind for path, kind in inputs.items() if path != STATE}
    if not seen:
        raise ConfigError(f"an actor needs something to observe beside the {STATE!r}; the observation space is {space}")
    return seen


def _check_mask(space: gymnasium.Space, num_logits: int) -> None:
    for leaf in leaves(space):
        if leaf.path == MASK and int(np.prod(leaf.spec.shape)) != num_logits:
            raise ConfigError(
                f"the observation's {MASK!r} needs one entry for each of the {num_logits} choices of an action; it is "
                f"{leaf.space}"
            )
