"""A recipe goes in, a Gymnasium environment comes out; also what the system must know of it, and the list of ids.

An id is one of ``distrl/Name-v0`` (ours), any id that Gymnasium knows, ``envpool/Task-v0`` (of the EnvPool library),
``package.module:Class`` (the user's, no registration needed), or a module that has PettingZoo's functions
``parallel_env`` or ``env`` (``mpe2.simple_spread_v3``). What exists only vectorised (EnvPool's, a class that is a
VectorEnv, an id with a vector entry point alone) is made with one row, and several agents as one (``JointEnv``). What
cannot be made is a ConfigError with one sentence that names what failed or the nearest id.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TimeLimit

from distrl.core.errors import ConfigError
from distrl.core.types import MAX_FIDELITIES, AgentSpec, EnvRecipe, EnvSpec
from distrl.envs import MULTI_AGENT, REGISTRY
from distrl.envs.delay import Delay
from distrl.envs.multi_agent.adapt import agents_env_of, as_rllib_calls, hosted
from distrl.envs.multi_agent.joint import JointEnv
from distrl.envs.multi_agent.team import TeamEnv

ENVPOOL = "envpool/"  # ids of the EnvPool library begin with it: envpool/Pong-v5
_MULTI_AGENT_PACKAGES = ("mpe2", "pettingzoo", "pygame")  # what distrl's extra of that name brings


def make(recipe: EnvRecipe) -> gymnasium.Env:
    """The environment of a recipe: constructor, then its time limit, then the artificial delay.

    Gymnasium's passive checker is off (the pools check, distrl.envs.checks, and do it at every step); a registered
    time limit stays, and ``recipe.max_episode_steps`` replaces it. Exceptions that the constructor itself raises pass
    through, except for a TypeError about arguments that the signature does not take, which is the user's config.

    Raises:
        ConfigError: unknown id, module or class; arguments that the constructor does not take; no ``fidelity`` there.
    """
    kwargs = dict(recipe.kwargs)
    if recipe.fidelity is not None:
        kwargs["fidelity"] = recipe.fidelity
    constructor = constructor_of(recipe.id)
    limit = recipe.max_episode_steps
    env: gymnasium.Env
    if is_only_vectorised(recipe.id):
        from distrl.envs import one_row, vector_envs

        env = one_row.OneRow(vector_envs.make_vector_env(dataclasses.replace(recipe, delay=None), 1))
        limit = None
    elif _is_import_path(recipe.id) or _is_module(recipe.id) or recipe.id in MULTI_AGENT:
        _check_arguments(recipe, constructor, kwargs)
        made = constructor(**as_rllib_calls(constructor, kwargs))
        agents_env = agents_env_of(made)
        if agents_env is not None:
            env, limit = hosted(agents_env, recipe), None
        elif isinstance(made, gymnasium.Env):
            env = made
        else:
            raise ConfigError(
                f"env.id = {recipe.id!r} must make a gymnasium.Env, a PettingZoo environment or an RLlib "
                f"MultiAgentEnv; it made a {type(made).__name__}."
            )
    else:
        _check_arguments(recipe, constructor, {**_gymnasium_spec(recipe.id).kwargs, **kwargs})
        try:
            # with a limit of the user's, Gymnasium leaves out the registered one
            env = gymnasium.make(recipe.id, max_episode_steps=limit, disable_env_checker=True, **kwargs)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"env.id = {recipe.id!r} needs something that is not installed: {error}") from error
        limit = None
    if recipe.agents is not None and not isinstance(env.unwrapped, (JointEnv, TeamEnv)):
        what = "steps many rows at once, in its own form" if agents_of(env) else "is an environment of one agent"
        raise ConfigError(f"env.agents: {recipe.id} {what}; leave it out.")
    if limit is not None:
        env = TimeLimit(env, limit)
    if recipe.delay is not None:
        env = Delay(env, recipe.delay)
    return env


def spec_of(env: gymnasium.Env, recipe: EnvRecipe) -> EnvSpec:
    """What the rest of the system needs to know of a constructed environment; its fidelities come from the class."""
    names = tuple(fidelity_table(env.unwrapped))
    if recipe.fidelity is not None and recipe.fidelity not in names:
        names = (*names, recipe.fidelity)  # the environment took a name that its class does not list
    if len(names) > MAX_FIDELITIES:
        raise ConfigError(f"{recipe.id} lists {len(names)} fidelities; at most {MAX_FIDELITIES} can be told apart.")
    limit = env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None
    if limit is None and env.has_wrapper_attr("max_episode_steps"):
        limit = env.get_wrapper_attr("max_episode_steps")
    return EnvSpec(
        id=recipe.id,
        observation_space=env.observation_space,
        action_space=env.action_space,
        fidelities=names or ("default",),
        max_episode_steps=int(limit) if isinstance(limit, int) else None,
        agents=agents_of(env),
    )


def agents_of(env: gymnasium.Env) -> tuple[AgentSpec, ...]:
    """Of an environment of several, by ``agent_index``; else empty."""
    return getattr(env.unwrapped, "agent_specs", ())


def fidelity_index(env: gymnasium.Env, spec: EnvSpec, asked: str | None = None) -> int:
    """Position in ``spec.fidelities`` of the one that the environment runs at: the one asked for, or where none was, by
    its attribute ``fidelity``."""
    name = asked or getattr(env.unwrapped, "fidelity", None)
    return spec.fidelities.index(name) if name in spec.fidelities else 0


def pickle_recipe(recipe: EnvRecipe) -> bytes:
    """A recipe for another process.

    Raises:
        ConfigError: something in it cannot travel.
    """
    try:
        return pickle.dumps(recipe)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"env.kwargs must hold plain data that can travel to another process: {error}.") from error


def preload(recipe: EnvRecipe) -> None:
    """Import the module of the environment without making one, and call the class's own ``preload()`` if it has one.

    Processes forked afterwards share its pages and start in milliseconds. ``preload`` is a static or class method
    without
    arguments: the place to compile or load tables (it must start no threads).
    """
    own = getattr(constructor_of(recipe.id), "preload", None)
    if callable(own):
        own()


def baseline_of(id_: str) -> str | None:
    """The module of open-loop controllers that an environment's class names in its attribute ``baseline``, or None."""
    name = getattr(constructor_of(id_), "baseline", None)
    return name if isinstance(name, str) else None


def fidelity_table(cls: Any) -> dict[str, float | None]:
    """name → approximate seconds of a step on one core (None where unknown), from the class attribute ``fidelities``.

    The attribute is a mapping name → seconds, name → mapping or object with ``seconds_per_step``, or a sequence of
    names. A class without it has none.
    """
    table = getattr(cls, "fidelities", None)
    if isinstance(table, Mapping):
        return {str(name): _seconds(value) for name, value in table.items()}
    if isinstance(table, (list, tuple)):
        return {str(name): None for name in table}
    return {}


def _seconds(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("seconds_per_step")
    elif not isinstance(value, (int, float)):
        value = getattr(value, "seconds_per_step", None)
    return float(value) if isinstance(value, (int, float)) else None


def renderable(recipe: EnvRecipe) -> EnvRecipe | None:
    """The recipe with ``render_mode="rgb_array"``; None where the class does not render rgb arrays."""
    constructor: Any = constructor_of(recipe.id)
    if _is_module(recipe.id):  # PettingZoo's functions make a class of that name
        constructor = getattr(_module(recipe.id, recipe.id), "raw_env", None)
    metadata = getattr(constructor, "metadata", None) or {}
    if "rgb_array" not in metadata.get("render_modes", ()):
        return None
    return dataclasses.replace(recipe, kwargs={**recipe.kwargs, "render_mode": "rgb_array"})


@dataclass(frozen=True)
class Listing:
    """One line of ``distrl envs``.

    Attributes:
        id: what goes into ``env.id``. description: the first sentence of its class.
        fidelities: name → approximate seconds a step on one core, or None. problem: why it cannot be used here, or
            None.
    """

    id: str
    description: str
    fidelities: Mapping[str, float | None]
    problem: str | None = None


def list_envs() -> list[Listing]:
    """Our environments (not Gymnasium's: those are ``gymnasium.pprint_registry()``), importing each one's module."""
    listings = []
    for id_, path in (REGISTRY | MULTI_AGENT).items():
        try:
            cls = _constructor(path, id_)
        except ConfigError as error:
            listings.append(Listing(id_, "", {}, str(error)))
            continue
        lines = (inspect.getdoc(cls) or "").splitlines()
        missing = getattr(cls, "missing", None)
        problem = missing() if callable(missing) else None
        listings.append(Listing(id_, lines[0] if lines else "", fidelity_table(cls), problem))
    return listings


def _is_import_path(id_: str) -> bool:
    """``package.module:Class``, and not Gymnasium's ``module:Name-v0`` (import the module, then look up the id)."""
    module, colon, name = id_.partition(":")
    return bool(colon) and "/" not in module and all(part.isidentifier() for part in name.split("."))


def _is_module(id_: str) -> bool:
    """``package.module``: Gymnasium's ids have no dots, but for a few that it knows."""
    return "." in id_ and all(part.isidentifier() for part in id_.split(".")) and id_ not in gymnasium.registry


def constructor_of(id_: str) -> Callable[..., Any]:
    """What makes the environment of an id: single ones, or where it is only vectorised, vector environments.

    Raises:
        ConfigError: unknown id, module or class.
    """
    if id_.startswith(ENVPOOL):
        from distrl.envs.envpool_library import EnvpoolLibrary

        return EnvpoolLibrary.of_task(id_.removeprefix(ENVPOOL))
    if _is_import_path(id_):
        return _constructor(id_)
    if id_ in MULTI_AGENT:
        return _constructor(MULTI_AGENT[id_], id_)
    if _is_module(id_):
        parallel = hasattr(_module(id_, id_), "parallel_env")  # all agents at once, wherever that is the same game
        return _constructor(f"{id_}:{'parallel_env' if parallel else 'env'}", id_)
    spec = _gymnasium_spec(id_)
    entry_point = spec.entry_point or spec.vector_entry_point
    return entry_point if callable(entry_point) else _constructor(str(entry_point), id_)


def is_only_vectorised(id_: str) -> bool:
    """Whether what makes the environment of an id makes vector environments; see ``constructor_of``."""
    if _is_module(id_):
        return False
    if not _is_import_path(id_) and not id_.startswith(ENVPOOL) and id_ not in MULTI_AGENT:
        return _gymnasium_spec(id_).entry_point is None
    constructor = constructor_of(id_)
    return id_.startswith(ENVPOOL) or (isinstance(constructor, type) and issubclass(constructor, VectorEnv))


def _gymnasium_spec(id_: str) -> Any:
    """Gymnasium's registration of an id (``module:Name-v0`` imports the module first, as Gymnasium does)."""
    if id_.startswith("ALE/") and importlib.util.find_spec("ale_py") is not None:
        importlib.import_module("ale_py")  # registers on import
    try:
        return gymnasium.spec(id_)
    except gymnasium.error.Error as error:
        known = [*REGISTRY, *MULTI_AGENT, *gymnasium.registry]
        near = difflib.get_close_matches(id_, known, n=1, cutoff=0.5)
        if not near:
            by_lower = {name.lower().split("/")[-1]: name for name in known}
            near = [by_lower[m] for m in difflib.get_close_matches(id_.lower().split("/")[-1], by_lower, n=1)]
        hint = f" Nearest known id: {near[0]}." if near else ""
        raise ConfigError(
            f"env.id = {id_!r} is no known environment.{hint} It must be an id of distrl or Gymnasium, "
            "an import path like my_package.my_module:MyEnv, or a PettingZoo module like mpe2.simple_spread_v3."
        ) from error


def _constructor(path: str, asked: str | None = None) -> Callable[..., Any]:
    """The class or function behind ``module:name``."""
    asked = asked or path
    module_name, _, name = path.partition(":")
    value = _module(module_name, asked)
    for part in name.split("."):
        if not hasattr(value, part) and module_name == "__main__":
            raise ConfigError(
                f"env.id = {asked!r}: other processes cannot import from the script that was started; "
                "put the environment into a module of its own."
            )
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [n for n in dir(value) if not n.startswith("_")], n=1)
            hint = f"; nearest there: {near[0]!r}" if near else ""
            raise ConfigError(f"env.id = {asked!r}: {module_name} has no {part!r}{hint}.")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"env.id = {asked!r} must name a class or function; it is a {type(value).__name__}.")
    return value


def _module(name: str, asked: str) -> Any:
    """A module; those beside the working directory are found."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            message = f"there is no module {error.name!r} on the Python path (the working directory is on it)"
        else:
            message = f"importing {name} failed, because {error}"
        if error.name in _MULTI_AGENT_PACKAGES:
            message += ": pip install 'distrl[multi-agent]'"
        raise ConfigError(f"env.id = {asked!r}: {message}.") from error
    except Exception as error:
        raise ConfigError(
            f"env.id = {asked!r}: importing {name} failed with {type(error).__name__}: {error}."
        ) from error


def _check_arguments(recipe: EnvRecipe, constructor: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor cannot take, before it runs."""
    try:
        signature = inspect.signature(constructor)
    except (TypeError, ValueError):
        return  # built-in code without a signature: the call itself will tell
    parameters = signature.parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if recipe.fidelity is not None:
        table = fidelity_table(constructor)
        if "fidelity" not in parameters and not open_ended:
            raise ConfigError(f"env.fidelity = {recipe.fidelity!r}: {recipe.id} has no fidelities; leave it out.")
        if table and recipe.fidelity not in table:
            raise ConfigError(f"env.fidelity = {recipe.fidelity!r}: {recipe.id} has {', '.join(table)}.")
    for key in kwargs:
        if key not in parameters and not open_ended:
            near = difflib.get_close_matches(key, parameters, n=1)
            hint = f"; nearest: {near[0]!r}" if near else f"; it takes: {', '.join(parameters) or 'none'}"
            raise ConfigError(f"env.kwargs: {recipe.id} takes no {key!r}{hint}.")
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ConfigError(f"env.kwargs: {recipe.id} cannot be made: {error}.") from error
