"""A run's environment in, ``log.json`` beside its experience out; and back: what one must know to use a log without
the run that wrote it.

    format                              of the records, FORMAT
    run_id                              of the run that wrote it
    env.id, env.kwargs                  what decides the reward: the reward definition (with the code of that version)
    env.fidelity                        the level asked for; null is the environment's own choice
    env.scheduled                       levels that training episodes may have beside it, by the run's schedule
    env.max_episode_steps               the time limit set by the user, or null
    fidelities                          names that the column ``fidelity`` points into
    observation_space, action_space     ``text`` for reading, ``form`` to rebuild the Gymnasium space from
    agents                              of an environment of several, by agent_index: name, and the forms of its spaces
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError, StorageError
from distrl.core.metrics import plain
from distrl.core.types import AgentSpec, EnvRecipe, EnvSpec

FORMAT = 1
FILE = "log.json"


@dataclass(frozen=True)
class LogFacts:
    """The content of ``log.json``.

    Attributes:
        run_id: empty where the run does not exist yet.
        env_id, env_kwargs: the reward definition: two logs have the same reward where these are equal as JSON.
        fidelity, max_episode_steps: as in the recipe.
        fidelities: names that the column ``fidelity`` points into.
        observation_space, action_space: Gymnasium spaces of the environment.
        scheduled: levels that the run's schedule names.
        agents: of an environment of several, by ``agent_index``, with spaces of their own; else empty.
    """

    run_id: str
    env_id: str
    env_kwargs: Mapping[str, Any]
    fidelity: str | None
    max_episode_steps: int | None
    fidelities: tuple[str, ...]
    observation_space: Any
    action_space: Any
    scheduled: tuple[str, ...] = ()
    agents: tuple[AgentSpec, ...] = ()

    @staticmethod
    def of(run_id: str, recipe: EnvRecipe, spec: EnvSpec, scheduled: tuple[str, ...] = ()) -> LogFacts:
        """The facts of a run's log."""
        return LogFacts(
            run_id,
            recipe.id,
            json.loads(json.dumps(plain(recipe.kwargs), default=repr)),  # as they will be read back
            recipe.fidelity,
            recipe.max_episode_steps,
            tuple(spec.fidelities),
            spec.observation_space,
            spec.action_space,
            scheduled,
            spec.agents,
        )

    @property
    def levels(self) -> list[str]:
        """The fidelities that transitions of this log may have."""
        return sorted({self.fidelity or "(the environment's own)", *self.scheduled})

    def differences(self, other: LogFacts) -> list[str]:
        """What of this log's transitions does not belong into the other, with both values: spaces, reward definition, a
        fidelity that the other may not have.

        A time limit is none of it (a truncation is no part of a transition's value), artificial delays neither.
        """
        found = []
        for name in ("observation_space", "action_space"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if space_form(mine) != space_form(theirs):
                found.append(f"the {name.replace('_', ' ')} is {mine} against {theirs}")
        if self.env_id != other.env_id:
            found.append(f"the reward is that of {self.env_id} against {other.env_id}")
        for name in sorted({*self.env_kwargs, *other.env_kwargs}):
            values = [facts.env_kwargs.get(name, "(not given)") for facts in (self, other)]
            if values[0] != values[1]:
                found.append(f"the reward definition's env.kwargs.{name} is {values[0]!r} against {values[1]!r}")
        if not set(self.levels) <= set(other.levels):
            found.append(f"the fidelity is {' or '.join(self.levels)} against {' or '.join(other.levels)}")
        if self.fidelities != other.fidelities:
            found.append(f"the fidelities are {', '.join(self.fidelities)} against {', '.join(other.fidelities)}")
        return found


def write_facts(directory: Path, facts: LogFacts) -> None:
    """Write ``log.json``: it is on the disk itself, or not there.

    Raises:
        OSError: as the system words it.
    """
    document = {
        "format": FORMAT,
        "run_id": facts.run_id,
        "env": {
            "id": facts.env_id,
            "kwargs": facts.env_kwargs,
            "fidelity": facts.fidelity,
            "max_episode_steps": facts.max_episode_steps,
            "scheduled": list(facts.scheduled),
        },
        "fidelities": list(facts.fidelities),
        "observation_space": {"text": str(facts.observation_space), "form": space_form(facts.observation_space)},
        "action_space": {"text": str(facts.action_space), "form": space_form(facts.action_space)},
        "agents": [
            {
                "name": agent.name,
                "observation_space": space_form(agent.observation_space),
                "action_space": space_form(agent.action_space),
            }
            for agent in facts.agents
        ],
    }
    temporary = directory / f".{FILE}.tmp-{os.getpid()}"
    with temporary.open("w") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / FILE)


def read_document(directory: Path) -> dict[str, Any] | None:
    """``log.json`` as plain data; None where there is none.

    Raises:
        StorageError: it cannot be read, or is of another format.
    """
    path = directory / FILE
    try:
        document = json.loads(path.read_text())
        version = document["format"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} does not describe an experience log ({error!r}): restore it from a copy") from None
    if version != FORMAT:
        raise StorageError(
            f"{path} describes a log of format {version}, and this version of distrl knows format {FORMAT}: read it "
            "with the version that wrote it"
        )
    return document


def read_facts(directory: Path) -> LogFacts | None:
    """The facts of a log; None where it has none (written before logs had any).

    Raises:
        StorageError: ``log.json`` cannot be read, or is of another format.
    """
    document = read_document(directory)
    if document is None:
        return None
    try:
        env = document["env"]
        return LogFacts(
            document["run_id"],
            env["id"],
            env["kwargs"],
            env["fidelity"],
            env["max_episode_steps"],
            tuple(document["fidelities"]),
            space_of(document["observation_space"]["form"]),
            space_of(document["action_space"]["form"]),
            tuple(env.get("scheduled", ())),
            tuple(
                AgentSpec(agent["name"], space_of(agent["observation_space"]), space_of(agent["action_space"]))
                for agent in document.get("agents", ())
            ),
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise StorageError(
            f"{directory / FILE} lacks what describes an experience log ({error!r}): restore it from a copy"
        ) from None


# -- spaces as JSON ----------------------------------------------------------------------------------------------------


def space_form(space: Any) -> dict[str, Any]:
    """A Gymnasium space as plain data that JSON can hold; ``space_of`` is the inverse. Equal spaces have equal forms.

    Raises:
        ConfigError: a space that no environment here can have.
    """
    if isinstance(space, spaces.Box):
        low, high = _numbers(space.low), _numbers(space.high)
        return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        form = {"nvec": space.nvec.tolist(), "start": np.broadcast_to(space.start, space.nvec.shape).tolist()}
        return {"type": "MultiDiscrete", **form, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {str(key): space_form(sub) for key, sub in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_form(sub) for sub in space.spaces]}
    raise ConfigError(
        f"a log describes Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple spaces; a {type(space).__name__} "
        "came"
    )


def space_of(form: Mapping[str, Any]) -> Any:
    """The Gymnasium space of a form.

    Raises:
        ConfigError: no form of a space.
    """
    kind = form.get("type")
    if kind == "Box":
        shape, dtype = tuple(form["shape"]), np.dtype(form["dtype"])
        return spaces.Box(_array(form["low"], shape, dtype), _array(form["high"], shape, dtype), shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(form["n"], start=form["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(form["nvec"], dtype=np.dtype(form["dtype"]).type, start=form["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(form["shape"] if len(form["shape"]) > 1 else form["shape"][0])
    if kind == "Dict":
        return spaces.Dict({key: space_of(sub) for key, sub in form["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([space_of(sub) for sub in form["spaces"]])
    raise ConfigError(f"a log describes its spaces by type, and {kind!r} is none that is known")


def _numbers(array: np.ndarray) -> Any:
    """One number where all are equal, else all of them in row-major order; "inf" for what JSON cannot hold."""
    values = array.ravel().tolist()
    if array.size and (array == array.flat[0]).all():
        values = values[:1]
    words = [str(value) if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    return words if array.size != 1 and len(words) != 1 else words[0]


def _array(values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    listed = values if isinstance(values, list) else [values]
    array = np.array([float(value) if isinstance(value, str) else value for value in listed], dtype)
    return np.full(shape, array[0], dtype) if array.size == 1 else array.reshape(shape)
