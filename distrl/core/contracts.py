"""The contracts on which the rooms meet; each docstring is the loop that uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from distrl.core.types import MAX_FIDELITIES, Columns, EnvSpec, Fragment, Observation, PolicySpec, Weights


@dataclass
class Outcomes:
    """What became of S actions: one entry for each row whose step has finished. Row order is arbitrary.

    Attributes:
        rows: int64 [S].
        reward: float32 [S].
        terminated, truncated: bool [S].
        final_observation: path → [K, …]: the last observation of each row that ended, in the order of ``ended``.
        ended: int64 [K], positions in ``rows`` where terminated or truncated.
        start_s, end_s: float64 [S], Unix time around the step. core_s: float32 [S], CPU seconds.
        attempt: int16 [S]: 0, or how often the step had been begun before.
        info: one dict of plain scalars for each entry of ``ended``.
    """

    rows: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    final_observation: Observation
    start_s: np.ndarray
    end_s: np.ndarray
    core_s: np.ndarray
    attempt: np.ndarray
    info: list[dict[str, Any]]


@dataclass
class Requests:
    """N rows that want an action now.

    Attributes:
        rows: int64 [N].
        observation: path → [N, …]; valid until the next ``recv``.
        is_first: bool [N]: the observation opens a new episode.
        step: int32 [N]: index of the step that is asked for in its episode; 0 where ``is_first``.
        episode_return: float64 [N]: sum of the episode's rewards so far, as they were in ``Outcomes``.
        episode_uid: uint64 [N]. seed: int64 [N]. fidelity: int16 [N]. All constant within an episode.
    """

    rows: np.ndarray
    observation: Observation
    is_first: np.ndarray
    step: np.ndarray
    episode_return: np.ndarray
    episode_uid: np.ndarray
    seed: np.ndarray
    fidelity: np.ndarray

    def select(self, positions: np.ndarray) -> Requests:
        """A copy of some of the entries, valid for ever."""
        return Requests(
            rows=self.rows[positions],
            observation={path: array[positions].copy() for path, array in self.observation.items()},
            is_first=self.is_first[positions],
            step=self.step[positions],
            episode_return=self.episode_return[positions],
            episode_uid=self.episode_uid[positions],
            seed=self.seed[positions],
            fidelity=self.fidelity[positions],
        )


class EnvPool(Protocol):
    """Hosts environments; autoreset is the pool's.

        while True:
            outcomes, requests, faults = pool.recv(timeout_s)   # whatever is ready, first ready first served
            pool.send(actions_for(requests), requests.rows)     # sets those going again

    A row that ends appears in ``outcomes`` (with its final observation) as soon as its step is over, and in
    ``requests`` (with ``is_first``) when its reset is: a slow reset holds up neither its last transition nor anybody
    else. ``recv`` blocks until at least one row is ready or ``timeout_s`` has passed (then everything is empty).

    ``faults`` names rows whose environment raised, hung or died. What the row had finished has been delivered before.
    With ``cut`` the episode ends there, and the pool starts the row again by itself (it comes back with ``is_first``).
    Without, nothing changes for the caller: an action that was in flight still is, and its outcome comes; or the row
    was between episodes.

    A row whose episode began in an earlier life of the env worker appears in its first request with ``is_first``
    False and ``step`` > 0.
    """

    spec: EnvSpec
    num_envs: int
    lockstep: bool  # every recv holds all rows: their fragments may be one rectangle
    env_index: np.ndarray  # int32 [rows]
    agent_index: np.ndarray  # int32 [rows]

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]: ...

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None: ...

    def progress(self, env_steps: int) -> None:
        """The run has come so far: which decides the fidelity of episodes that begin from now on, where ``seeds`` has a
        schedule. May be called from any thread."""

    def halt(self) -> tuple[Outcomes, Requests]:
        """Stop computing, at once: steps under way are abandoned (they were never produced), what had finished is
        returned.

        Only ``stats`` and ``close`` may follow.
        """

    def stats(self) -> PoolStats: ...

    def close(self) -> None: ...


@dataclass
class Fault:
    """One environment's failure, already dealt with by its pool.

    Attributes:
        row: the row that failed.
        kind: ``error`` (it raised), ``crash`` (its process died), ``divergence`` (not finite), ``hang``, ``memory``,
            ``disk`` (full), ``protocol`` (outside its spaces).
        message: one sentence with the cause.
        cut: whether a running episode was cut (False: it failed in reset, or its episode goes on).
    """

    row: int
    kind: str
    message: str
    cut: bool


@dataclass
class PoolStats:
    """Totals over a pool's environments since it started, counted where the steps happen, so that a kill cannot hide
    them.

    Attributes:
        produced: steps finished (int). resets: episodes begun (int).
        transitions: agents' steps among them (int); with one agent, as many. None: that.
        recomputed: steps computed again to continue an episode (int); not in ``produced``, never delivered.
        snapshots: taken (int). snapshot_s: wall seconds that they took.
        diverged: episodes that ended with a true ``diverged`` in ``info``: the environment's own guard (int).
        step_s: wall seconds inside ``step``. reset_s: wall seconds inside ``reset``. core_s: CPU seconds of both.
        lifetime_s: wall seconds since each environment was constructed, summed; environments that step one after the
            other, in the env worker's process, have one life together.
        process_starts: environment processes started, restarts included.
        level_steps, level_core_s: of ``produced`` and ``core_s`` what was at each fidelity, int64 and float64
            [MAX_FIDELITIES] by index into ``EnvSpec.fidelities``.
    """

    produced: int
    resets: int
    step_s: float
    reset_s: float
    core_s: float
    lifetime_s: float
    process_starts: int
    recomputed: int = 0
    snapshots: int = 0
    snapshot_s: float = 0.0
    diverged: int = 0
    transitions: int | None = None
    level_steps: np.ndarray = field(default_factory=lambda: np.zeros(MAX_FIDELITIES, np.int64))
    level_core_s: np.ndarray = field(default_factory=lambda: np.zeros(MAX_FIDELITIES))

    def __post_init__(self) -> None:
        if self.transitions is None:
            self.transitions = self.produced


class Policy(Protocol):
    """Maps observations to actions; holds weights, no recurrent state (the env worker does).

    action, log_prob, state = policy.step(observation, state, is_first)
    """

    ready: bool  # whether ``step`` may be called: weights are loaded, or none are needed yet

    def load(self, weights: Weights) -> None:
        """Take new weights; atomic for a ``step`` in another thread."""

    def initial_state(self, num_rows: int) -> Columns:
        """path → [num_rows, …]; empty for a policy without memory."""

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …], log-probabilities float32 [N], next state. Into ``state`` itself, which fragments keep with
        the step, it may write what an episode begins with."""

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """What the environment is given for ``action`` [N, …]: in the action space, in its units and dtype. The learner
        sees ``action`` itself: an unbounded Gaussian is clipped here."""


class Algorithm(Protocol):
    """Tensors in, tensors out: knows nothing of Ray, processes or files.

        gradients, metrics = algorithm.gradients(batch, rng)   # every loss at the same parameters
        algorithm.apply(gradients)                             # owns optimizers and target networks

    So a gradient can be computed here and applied there. ``state`` holds what updates change, never a hyperparameter:
    these are those of ``config`` (the model that built it), also after ``load_state``. Where several learners are to
    train it, it has an ``optimizer`` (distrl.learners.optimizer), and all that training changes is in that.
    """

    config: Any

    def gradients(self, batch: Any, rng: Any) -> tuple[Any, dict[str, Any]]: ...

    def apply(self, gradients: Any) -> None: ...

    def policy_spec(self) -> PolicySpec:
        """The recipe of the policy that ``policy_weights`` belong to."""

    def policy_weights(self) -> Weights:
        """What the policy of ``policy_spec`` loads; fresh host arrays that later updates leave alone."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class Receipt(NamedTuple):
    """The learner's answer to a fragment, which is secured once ``secured ≥ records``.

    Attributes:
        version: of the learner. records: of the log up to this fragment, itself included.
        secured: records of the log that survive what ``run.sync`` says they must.
    """

    version: int
    records: int
    secured: int


class FragmentSink(Protocol):
    """Where an env worker publishes.

    ``publish`` returns at once unless the stated memory bound is reached (then it waits and says so). ``secured`` is
    called, in the publisher's thread and within a later call, once the fragment is in the experience log.
    """

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None: ...

    def keep_up(self) -> None:
        """Called where nothing is published for some time: what a dead learner left unsecured goes to its successor."""

    def flush(self, timeout_s: float) -> None:
        """Wait until everything published is secured."""

    def lacking(self) -> dict[str, tuple[int, int]]:
        """Policy → (the learner's version, transitions that it waits for to make the next one), of on-policy learners
        that do nothing else now, with all that has been published."""


class WeightsSource(Protocol):
    """Where weights come from: a parameter server, near or far."""

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:
        """(version, weights) if there are any newer than ``version``, waiting for them that long; else None."""
