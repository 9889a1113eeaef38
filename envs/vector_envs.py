"""A recipe goes in, one Gymnasium vector environment that computes all its rows by itself comes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs import resolve
from distrl.envs.checks import plain_scalars

_PREFERRED = (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP)  # with these all rows stay in step


def is_vectorised(recipe: EnvRecipe) -> bool:
    """Whether ``make_vector_env`` can make the environment of a recipe.

    Raises:
        ConfigError: unknown id, module or class.
    """
    return recipe.delay is None and recipe.fidelity is None and _vector_constructor(recipe.id) is not None


def make_vector_env(recipe: EnvRecipe, num_envs: int) -> VectorEnv:
    """The vector environment of a recipe: a Gymnasium id with a vector entry point, ``package.module:Class`` of a
    VectorEnv, which is called with ``num_envs`` and the recipe's arguments, or ``envpool/Task-v0`` of the EnvPool
    library. A constructor that takes ``autoreset_mode`` is asked for the modes that keep all rows in step first.

    Raises:
        ConfigError: there is no such vector environment, or it cannot be made with these arguments. What else its
            constructor raises passes through.
    """
    if recipe.delay is not None or recipe.fidelity is not None:
        raise ConfigError(
            f"{recipe.id} steps all its rows at once, so it can have neither env.delay nor env.fidelity: leave them "
            "out, or make single environments of it"
        )
    constructor = _vector_constructor(recipe.id)
    if constructor is None:
        raise ConfigError(
            f"env.id = {recipe.id!r} must name an environment with a native vector form: a Gymnasium id with a vector "
            f"entry point, an import path of a gymnasium.vector.VectorEnv, or {resolve.ENVPOOL}Task-v0; make single "
            "environments of it"
        )
    kwargs = dict(recipe.kwargs)
    if recipe.max_episode_steps is not None:
        kwargs["max_episode_steps"] = recipe.max_episode_steps
    registered = {} if recipe.id not in gymnasium.registry else dict(gymnasium.spec(recipe.id).kwargs)
    accepted = _accepted(recipe, constructor, {**registered, **kwargs, "num_envs": num_envs})
    if "autoreset_mode" in accepted and "autoreset_mode" not in kwargs:
        for mode in _PREFERRED:
            try:
                return _construct(recipe, constructor, {**kwargs, "num_envs": num_envs, "autoreset_mode": mode})
            except Exception:  # noqa: BLE001 - each environment refuses a mode that it does not have in its own way
                continue
    return _construct(recipe, constructor, {**kwargs, "num_envs": num_envs})


def autoreset_mode(env: VectorEnv, id_: str) -> AutoresetMode:
    """How a vector environment begins the next episodes.

    Raises:
        ConfigError: it does not say.
    """
    mode = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise ConfigError(
            f"{id_} must have a gymnasium.vector.AutoresetMode in metadata['autoreset_mode'], but has {mode!r}: where "
            "its episodes begin could not be known"
        ) from None


def final_observation_of(info: Mapping[str, Any]) -> Any:
    """The final observations of the rows that ended, in the autoreset mode SAME_STEP: arrays of all rows, or an array
    of objects with one observation for each row.

    Raises:
        EnvironmentFault: they are not there.
    """
    if "final_obs" not in info:
        raise EnvironmentFault(
            "step must return info['final_obs'] when rows end in the autoreset mode SAME_STEP; it is not there.",
            "protocol",
        )
    return info["final_obs"]


def row_info(row: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """A row's plain scalars of a vector environment's info, which has an array [rows] under a name, and under the name
    with "_" before it a mask of the rows that have an entry."""
    found = {}
    for name, value in info.items():
        mask = info.get(f"_{name}")
        if (
            isinstance(value, np.ndarray)
            and value.ndim == 1
            and not name.startswith("_")
            and (mask is None or mask[row])
        ):
            found[name] = value[row]
    return plain_scalars(found)


def _vector_constructor(id_: str) -> Callable[..., Any] | None:
    if not resolve.is_only_vectorised(id_):
        entry_point = gymnasium.spec(id_).vector_entry_point if id_ in gymnasium.registry else None
        return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return resolve.constructor_of(id_)


def _construct(recipe: EnvRecipe, constructor: Callable[..., Any], kwargs: dict[str, Any]) -> VectorEnv:
    if recipe.id in gymnasium.registry:
        env = gymnasium.make_vec(recipe.id, vectorization_mode="vector_entry_point", **kwargs)
    else:
        env = constructor(**kwargs)
    if not isinstance(env, VectorEnv):
        raise ConfigError(f"env.id = {recipe.id!r} must make a gymnasium VectorEnv; it made a {type(env).__name__}.")
    return env


def _accepted(recipe: EnvRecipe, constructor: Callable[..., Any], kwargs: dict[str, Any]) -> set[str]:
    """The parameters of the constructor; refuses arguments that it does not take before it runs."""
    signature = inspect.signature(constructor)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ConfigError(
            f"{recipe.id} cannot be made with env.kwargs and env.max_episode_steps as they are: {error}; it takes "
            f"{', '.join(signature.parameters)}"
        ) from error
    return set(signature.parameters)
