"""Whatever a constructor made goes in; if it is an environment of several agents, what hosts can drive comes out."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import gymnasium

from distrl.core.errors import ConfigError
from distrl.core.types import EnvRecipe
from distrl.envs.multi_agent.agents_env import AgentsEnv
from distrl.envs.multi_agent.joint import JointEnv
from distrl.envs.multi_agent.pettingzoo import FromAEC, FromCycles, FromParallel
from distrl.envs.multi_agent.rllib import FromRLlib
from distrl.envs.multi_agent.team import TeamEnv
from distrl.envs.multi_agent.wrappers import EpisodeLimit, JointState, WithIdentity, WithState

_STATES = ("none", "env", "joint")
_OPTIONS = {"state": _STATES, "identity": (False, True), "team": (False, True), "reward": ("sum", "mean")}


def agents_env_of(made: Any) -> AgentsEnv | None:
    """The agents of an environment: a PettingZoo ParallelEnv or AECEnv, an RLlib MultiAgentEnv (known by their base
    classes' names: neither package is imported), or one that is an AgentsEnv itself. None: it is none of these."""
    if _has_base(made, "ray.rllib", "MultiAgentEnv"):
        return FromRLlib(made)
    if _has_base(made, "pettingzoo", "aec_to_parallel_wrapper"):
        return FromCycles(made.aec_env)
    if _has_base(made, "pettingzoo", "ParallelEnv"):
        return FromParallel(made)
    if _has_base(made, "pettingzoo", "AECEnv"):
        return FromAEC(made)
    if all(hasattr(made, name) for name in ("agents", "observation_spaces", "action_spaces", "state_space")):
        return made
    return None


def as_rllib_calls(constructor: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments for a MultiAgentEnv of RLlib's, which gives a class its env_config as one, empty where none came;
    those for others as they are."""
    if not (isinstance(constructor, type) and _has_base(constructor, "ray.rllib", "MultiAgentEnv")):
        return kwargs
    first = next(iter(inspect.signature(constructor).parameters), None)
    if first is None:
        return kwargs
    context = sys.modules["ray.rllib.env.env_context"].EnvContext  # a dict that also tells worker_index and others
    return kwargs | {first: context(kwargs.get(first) or {}, worker_index=0)}


def hosted(env: AgentsEnv, recipe: EnvRecipe) -> gymnasium.Env:
    """Several agents as one Gymnasium environment, in the form that ``recipe.agents`` asks for, within the recipe's
    time limit.

    Raises:
        ConfigError: an option that does not exist, or that the environment cannot have.
    """
    options = {name: values[0] for name, values in _OPTIONS.items()}
    for name, value in (recipe.agents or {}).items():
        if name not in _OPTIONS:
            raise ConfigError(f"env.agents takes {', '.join(_OPTIONS)}; not {name!r}.")
        if value not in _OPTIONS[name]:
            wanted = ", ".join(str(value) for value in _OPTIONS[name])
            raise ConfigError(f"env.agents.{name} must be one of {wanted}; it is {value!r}.")
        options[name] = value
    if recipe.max_episode_steps is not None:
        env = EpisodeLimit(env, recipe.max_episode_steps)
    if options["state"] == "joint":
        env = JointState(env)
    if options["team"]:
        if options["identity"]:
            raise ConfigError(
                "env.agents.identity is for agents that are rows of their own; a team's algorithms tell its agents "
                "apart by algorithm.agent_id: leave it out."
            )
        return TeamEnv(env, state=options["state"] != "none", reward=str(options["reward"]))
    if "reward" in (recipe.agents or {}):
        raise ConfigError("env.agents.reward is the team's: set env.agents.team as well, or leave it out.")
    if options["identity"]:
        env = WithIdentity(env)
    return JointEnv(env if options["state"] == "none" else WithState(env))


def _has_base(made: Any, package: str, name: str) -> bool:
    return any(
        cls.__name__ == name and (cls.__module__ == package or cls.__module__.startswith(package + "."))
        for cls in (made if isinstance(made, type) else type(made)).__mro__
    )
