"""What flows between the rooms: array specs of spaces, the columns of a fragment, and the recipe of a policy (numpy
only).

A *row* is one (environment, agent) pair; a single-agent environment is the case of one row. A *fragment* is T
consecutive steps of B rows plus the bootstrap row, stored as named columns (one numpy array each, time first), never as
one Python object per step. The same columns travel from the fragment builder through the log into the replay.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OBSERVATION = "observation/"  # prefix of the observation columns, [T + 1, B, …]: the last entry is the bootstrap row
FINAL = "final_observation/"  # prefix of the sparse final observations, [K, …]
STATE = "state/"  # prefix of the policy's recurrent state before each step, [T, B, …]

#: The fixed columns of every fragment: name → (dtype, leading axes). ``action`` has the shape of the action space
#: behind [T, B].
COLUMNS: dict[str, tuple[str, str]] = {
    "reward": ("float32", "TB"),
    "terminated": ("bool", "TB"),  # the episode ended by its own rules: the value of what follows is zero
    "truncated": ("bool", "TB"),  # the episode was cut (time limit, shutdown): bootstrap from the final observation
    "log_prob": ("float32", "TB"),  # of the action under the behaviour policy, natural logarithm
    "policy_version": ("int64", "TB"),  # number of updates behind the weights that acted
    "episode_uid": ("uint64", "TB"),  # unique in the run; survives a restore from a snapshot
    "step": ("int32", "TB"),  # index of the step in its episode, from 0
    "start_s": ("float64", "TB"),  # wall clock (Unix time) when the environment began the step, seconds
    "end_s": ("float64", "TB"),  # … and when it ended
    "core_s": ("float32", "TB"),  # CPU time that the environment process used for the step, seconds
    "attempt": ("int16", "TB"),  # 0, or how often the step has been computed before
    "seed": ("int64", "TB"),  # seed of the episode's reset
    "fidelity": ("int16", "TB"),  # index into EnvSpec.fidelities
    "env_index": ("int32", "B"),  # which environment of the worker
    "agent_index": ("int32", "B"),  # which agent of the environment
    "final_index": (
        "int32",
        "K",
    ),  # [K, 2]: the (t, b) whose next observation is final_observation/…[k], not observation[t + 1, b]
}

Columns = dict[str, np.ndarray]
Observation = dict[str, np.ndarray]  # "/"-path → array; a space that is a single array has the one path ARRAY
Weights = dict[str, np.ndarray]

DEFAULT_POLICY = "default"  # of an environment of one agent, and where no policy is named
ARRAY = "array"  # the path of an observation that is a single array
MAX_FIDELITIES = 16  # levels of detail of one environment


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array, without time and row axes."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one such array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class AgentSpec:
    """One of the agents of an environment that has several.

    Attributes:
        name: unique in the environment. observation_space, action_space: Gymnasium spaces of its own.
    """

    name: str
    observation_space: Any
    action_space: Any


@dataclass(frozen=True)
class EnvSpec:
    """What the rest of the system needs to know about an environment before it runs.

    Attributes:
        id: what the user asked for.
        observation_space, action_space: Gymnasium spaces of its agent; of an environment of several, those of all
            together, as ``distrl.envs.multi_agent.joint`` arranges them.
        fidelities: names that the ``fidelity`` column points into.
        max_episode_steps: the time limit in env steps where one is known.
        agents: of an environment of several, by ``agent_index``; else empty.
    """

    id: str
    observation_space: Any
    action_space: Any
    fidelities: tuple[str, ...] = ("default",)
    max_episode_steps: int | None = None
    agents: tuple[AgentSpec, ...] = ()


@dataclass(frozen=True)
class EnvRecipe:
    """How to make one environment: plain data that travels to any process.

    Attributes:
        id: a Gymnasium id, ``distrl/…``, ``package.module:Class``, or a PettingZoo module.
        kwargs: passed to its constructor.
        fidelity: passed as the keyword ``fidelity`` where given.
        delay: artificial step times for tests and benchmarks (distrl.envs.delay), or None.
        max_episode_steps: a time limit set by the user, or None.
        agents: how an environment of several agents is hosted (distrl.envs.multi_agent.adapt), or None.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    fidelity: str | None = None
    delay: Mapping[str, Any] | None = None
    max_episode_steps: int | None = None
    agents: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Cursor:
    """How far an environment's newest episode is known to be committed.

    Attributes:
        episode_uid: of that episode. step: index of its newest committed step.
    """

    episode_uid: int
    step: int


@dataclass
class Fragment:
    """T consecutive steps of B rows of one policy, plus the bootstrap row.

    The next observation of step (t, b) is ``observation[t + 1, b]``, unless ``final_index`` names (t, b): then it is
    that final observation, and ``observation[t + 1, b]`` already belongs to the next episode.

    Attributes:
        columns: ``COLUMNS``, ``action`` [T, B, …], ``observation/<path>`` [T + 1, B, …], ``final_observation/<path>``
        [K, …]
            and ``state/<path>`` [T, B, …].
        policy_id: whose rows these are.
        worker, incarnation: the env worker that made it, and how often that worker had been restarted.
    """

    columns: Columns
    policy_id: str = DEFAULT_POLICY
    worker: int = 0
    incarnation: int = 0

    @property
    def num_steps(self) -> int:
        """T."""
        return self.columns["reward"].shape[0]

    @property
    def num_rows(self) -> int:
        """B."""
        return self.columns["reward"].shape[1]

    @property
    def num_transitions(self) -> int:
        """T × B."""
        return self.columns["reward"].size

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(array.nbytes for array in self.columns.values())


def import_path(path: str) -> Any:
    """The object behind ``"package.module:name"``.

    Raises:
        ImportError, AttributeError: as Python words them.
    """
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


@dataclass(frozen=True)
class PolicySpec:
    """The recipe of a policy, by import path, so that actors build one without importing the learners' room.

    Attributes:
        factory: ``"module:function"``; called as ``factory(seed=…, deterministic=…, **kwargs)``.
        kwargs: plain, picklable arguments.
    """

    factory: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int, deterministic: bool = False) -> Any:
        """A ``Policy`` (see contracts) without weights yet."""
        return import_path(self.factory)(seed=seed, deterministic=deterministic, **self.kwargs)
