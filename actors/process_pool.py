"""Recipes and actions go in, finished steps come out first ready first served: one light process for each environment.

The processes (row_processes.py) come from our own fork server; arrays go through one scratch file (shared_rows.py),
one-byte packets on a socket a row say what is ready. A process that raises, hangs or dies costs its own episode at
most: the pool reports the fault and starts the row again, from the episode's last snapshot where there are some.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence

import numpy as np

from distrl.actors.environment_process import Common
from distrl.actors.row_processes import Batch, RowProcesses
from distrl.actors.shared_rows import PREFIX, SharedRows, read_counters, read_produced
from distrl.actors.snapshots import SnapshotPlan
from distrl.core.contracts import Fault, Outcomes, PoolStats, Requests
from distrl.core.errors import ConfigError
from distrl.core.seeds import EpisodeSeeds
from distrl.core.types import Cursor, EnvRecipe, EnvSpec, Observation
from distrl.envs.resolve import pickle_recipe

__all__ = ["ProcessPool", "SnapshotPlan", "read_counters", "read_produced"]


class ProcessPool:
    """An EnvPool (core/contracts.py) of one process per environment; rows are environments (agent 0).

    Two rules beside the contract: a ``recv`` that returns a fault of a row returns nothing else of that row, and what
    the row had finished came in an earlier one; actions for a row whose episode has been cut since are ignored.

    Args:
        recipe: what to make. num_envs: how many.
        seeds: of each environment's episodes; a restarted row goes on with its next episode number.
        scratch_dir: directory (made if missing) for the shared-memory file, best on a RAM file system.
        step_timeout_s: wall seconds that a step or a reset may take before the process is killed; None: no limit.
            The constructor gets at least CONSTRUCTION_TIMEOUT_S.
        hang_factor: also kill a step after so many times the p99 of this environment's own steps (hang_limit.py).
        nice: added to the niceness of the environment processes.
        cores: that one environment may use: its numerical libraries' threads, rounded down, at least 1.
        pin: for each row the index of its first core among those that this process may use; the row and what it
            starts run on that one and the next, ⌈cores⌉ in all. None: anywhere.
        snapshots: where environments that can (``snapshot``, ``restore``) leave their state, and how often. Then
            an episode outlives its process, and with ``cursors`` this pool.
        env_steps: of the whole run so far; see ``progress``.
        cursors: env_index → how far its episode in the dead life of this env worker is committed. The row continues it
            with the step behind; where it cannot, it resets.

    Attributes:
        scratch_file: path of the shared-memory file, for read_counters.

    Raises:
        ConfigError: the recipe cannot travel, or ``pin`` asks for cores that are not there.
        EnvironmentFault: every process failed before one was constructed.
        StorageError: scratch_dir cannot be written or is full.
    """

    spec: EnvSpec
    lockstep = False

    def __init__(
        self,
        recipe: EnvRecipe,
        num_envs: int,
        seeds: EpisodeSeeds,
        *,
        scratch_dir: str,
        step_timeout_s: float | None = None,
        hang_factor: float | None = None,
        nice: int = 0,
        cores: float = 1.0,
        pin: Sequence[int] | None = None,
        snapshots: SnapshotPlan | None = None,
        cursors: Mapping[int, Cursor] | None = None,
        env_steps: int = 0,
    ):
        blocks = None if pin is None else _blocks(pin, num_envs, cores)
        self.num_envs = num_envs
        self.env_index = np.arange(num_envs, dtype=np.int32)
        self.agent_index = np.zeros(num_envs, np.int32)
        self.scratch_file = os.path.join(scratch_dir, f"{PREFIX}{os.getpid()}-{id(self):x}-{time.monotonic_ns():x}")
        with contextlib.suppress(OSError):  # SharedRows says what is wrong with it
            os.makedirs(scratch_dir, exist_ok=True)
        self._final_stats: PoolStats | None = None
        self._shared = SharedRows(self.scratch_file, num_envs)
        self._shared.env_steps = env_steps
        try:
            self._processes = RowProcesses(
                recipe.id,
                Common(pickle_recipe(recipe), seeds, self.scratch_file, nice, snapshots, blocks),
                self._shared,
                timeout_s=step_timeout_s,
                hang_factor=hang_factor,
                threads=max(1, int(cores)),
                cursors=cursors or {},
            )
        except BaseException:
            self._remove_scratch()
            raise
        try:
            self._held = self._processes.wait_for_spec()  # faults that the next recv returns
        except BaseException:
            self.close()
            raise
        self.spec = self._processes.spec

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]:
        """Whatever is ready.

        Raises:
            EnvironmentFault: every row is quarantined after MAX_FAILURES failures in a row; the last cause.
        """
        if self._held:
            faults, self._held = self._held, []
            batch = Batch()
            return self._outcomes(batch), self._requests(batch), faults
        batch = self._processes.collect(time.monotonic() + timeout_s)
        faults = batch.faults
        if faults:
            busy = {*batch.stepped, *batch.first, *batch.continued}
            self._held = [fault for fault in faults if fault.row in busy]
            faults = [fault for fault in faults if fault.row not in busy]
        return self._outcomes(batch), self._requests(batch), faults

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None:
        """Set rows going.

        Args:
            actions: [N, …] in the action space's dtype. rows: int [N].
        """
        rows = np.asarray(rows, np.int64)
        self._shared.action[rows] = actions
        self._processes.go(rows.tolist())

    def progress(self, env_steps: int) -> None:
        """See the contract."""
        self._shared.env_steps = env_steps

    def halt(self) -> tuple[Outcomes, Requests]:
        """See the contract."""
        batch = self._processes.halt()
        return self._outcomes(batch), self._requests(batch)

    def stats(self) -> PoolStats:
        """Totals up to now; a step or reset in progress counts with the time that it has taken."""
        return self._final_stats or self._shared.stats(time.monotonic())

    def close(self) -> None:
        """End everything: environments that are idle may close by themselves for a moment, then all are killed."""
        if self._final_stats is None:
            self._final_stats = self._shared.stats(time.monotonic())
            self._processes.close()
            self._remove_scratch()

    def pids(self) -> np.ndarray:
        """Process id of each row's environment, int64 [rows]; 0 where none is running (for measurements and tests)."""
        return np.array(self._processes.pids, np.int64)

    @property
    def tree(self) -> str:
        """Name of the process tree below this pool (distrl.envs.light_process)."""
        return self._processes.server.tree

    @property
    def fork_server_pid(self) -> int:
        """Process id of the fork server."""
        return self._processes.server.pid

    def _remove_scratch(self) -> None:
        self._shared.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.scratch_file)

    def _outcomes(self, batch: Batch) -> Outcomes:
        rows = np.array(batch.stepped, np.int64)
        ended = np.array(batch.ended, np.int64)
        records = self._shared.records[rows]
        return Outcomes(
            rows=rows,
            reward=records["reward"].astype(np.float32),
            terminated=records["terminated"].copy(),
            truncated=records["truncated"].copy(),
            ended=ended,
            final_observation=_gather(self._shared.final, rows[ended]),
            start_s=records["start_s"].copy(),
            end_s=records["end_s"].copy(),
            core_s=records["step_core_s"].astype(np.float32),
            attempt=records["attempt"].copy(),
            info=batch.info,
        )

    def _requests(self, batch: Batch) -> Requests:
        if batch.ended:
            over = {batch.stepped[position] for position in batch.ended}
            going = [row for row in batch.stepped if row not in over]
        else:
            going = batch.stepped
        rows = np.array(going + batch.continued + batch.first, np.int64)
        is_first = np.zeros(len(rows), bool)
        is_first[len(rows) - len(batch.first) :] = True
        records = self._shared.records[rows]
        return Requests(
            rows=rows,
            observation=_gather(self._shared.next, rows),
            is_first=is_first,
            step=self._processes.steps[rows],
            episode_return=self._processes.returns[rows],
            episode_uid=records["episode_uid"].copy(),
            seed=records["seed"].copy(),
            fidelity=records["fidelity"].copy(),
        )


def _blocks(pin: Sequence[int], num_envs: int, cores: float) -> tuple[frozenset[int], ...]:
    """The cores of each row."""
    usable = sorted(os.sched_getaffinity(0))
    size = max(1, math.ceil(cores))
    if len(pin) != num_envs or min(pin, default=0) < 0 or max(pin, default=0) + size > len(usable):
        raise ConfigError(
            f"pinning {num_envs} environments to {size} cores each needs the index of a first core for each, the last "
            f"of a block below {len(usable)} (the cores that may be used here); it was {list(pin)}: use fewer "
            "environments on this machine, or do not pin."
        )
    return tuple(frozenset(usable[first : first + size]) for first in pin)


def _gather(arrays: Observation, rows: np.ndarray) -> Observation:
    """path → [N, …], copied out of the shared memory."""
    return {path: array[rows] for path, array in arrays.items()}
