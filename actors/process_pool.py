"""Recipes and actions go in, finished steps come out first ready first served: one light process for each environment.

The processes come from our own fork server; arrays go through one scratch file, one-byte packets on a socket a row
say what is ready (environment_process.py has the protocol). A process that raises, hangs or dies costs its own
episode only: the pool reports the fault and starts the row again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import pickle
import select
import socket
import time
from typing import Any

import numpy as np

from distrl.actors.environment_process import Common, layout_of
from distrl.actors.fork_server import ForkServer, ForkServerDied
from distrl.actors.shared_rows import PREFIX, SharedRows, read_counters, read_produced
from distrl.core.contracts import Fault, Outcomes, PoolStats, Requests
from distrl.core.errors import EnvironmentFault
from distrl.core.seeds import EpisodeSeeds
from distrl.core.types import EnvRecipe, EnvSpec, Observation
from distrl.envs.light_process import describe_exit
from distrl.envs.resolve import pickle_recipe

__all__ = ["ProcessPool", "read_counters", "read_produced"]

MAX_FAILURES = 5  # failures in a row without a finished step, after which a row is retired
CONSTRUCTION_TIMEOUT_S = 60.0  # at least; a constructor may import much and build a mesh
_CLOSE_GRACE_S = 1.0
_CHECK_PERIOD_S = 0.05
_KILL_AFTER_S = 4.0  # a process that has reported a fault may close its environment; then it is killed
_log = logging.getLogger(__name__)

# States of a row.
_STARTING, _CONSTRUCTED, _RESETTING, _AWAITING, _STEPPING, _DYING, _GONE, _RETIRED = range(8)


class ProcessPool:
    """An EnvPool (core/contracts.py) of one process per environment; rows are environments (agent 0).

    Two rules beside the contract: a ``recv`` that returns a fault of a row returns nothing else of that row, and what
    the row had finished came in an earlier one; actions for a row that has failed since are ignored.

    Args:
        recipe: what to make. num_envs: how many.
        seeds: of each environment's episodes; a restarted row goes on with its next episode number.
        scratch_dir: directory (made if missing) for the shared-memory file, best on a RAM file system.
        step_timeout_s: wall seconds that a step or a reset may take before the process is killed; None: no limit.
            The constructor gets at least CONSTRUCTION_TIMEOUT_S.
        nice: added to the niceness of the environment processes.

    Attributes:
        scratch_file: path of the shared-memory file, for read_counters.

    Raises:
        EnvironmentFault, ConfigError: every process failed before the first was constructed.
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
        nice: int = 0,
    ):
        pickled = pickle_recipe(recipe)
        self.num_envs = num_envs
        self.env_index = np.arange(num_envs, dtype=np.int32)
        self.agent_index = np.zeros(num_envs, np.int32)
        self._recipe = recipe
        self._timeout_s = math.inf if step_timeout_s is None else step_timeout_s
        self.scratch_file = os.path.join(scratch_dir, f"{PREFIX}{os.getpid()}-{id(self):x}-{time.monotonic_ns():x}")
        with contextlib.suppress(OSError):  # SharedRows says what is wrong with it
            os.makedirs(scratch_dir, exist_ok=True)
        self._shared = SharedRows(self.scratch_file, num_envs)
        self._common = Common(pickled, seeds, self.scratch_file, nice)
        self._tickets = itertools.count()
        self._ticket = [-1] * num_envs
        self._row_of_ticket: dict[int, int] = {}
        self._sockets: list[socket.socket | None] = [None] * num_envs
        self._row_of_fd: dict[int, int] = {}
        self._state = [_GONE] * num_envs
        self._pids = [0] * num_envs
        self._failures = [0] * num_envs
        self._deadline = np.full(num_envs, np.inf)  # time.monotonic() when the row has taken too long
        self._doom: list[tuple[str, str] | None] = [None] * num_envs  # why the pool has killed a row's process
        self._delivered = [0] * num_envs  # steps given out by recv, to compare with what the process has counted
        self._start_at = np.full(num_envs, -np.inf)  # time.monotonic() when a row that is gone starts again
        self._next_check = 0.0
        self._cause = EnvironmentFault("no environment was started.", "error")
        self._spec_known = False
        self._asked: int | None = None  # the row that was asked for the spec
        self._useless_servers = 0  # fork servers in a row that ended before they had started anything
        self._closed = False
        self._clear_batch()
        self._held: list[Fault] = []  # of the last batch, to be returned by the next recv
        self._epoll = select.epoll()
        self._server = self._new_server(preload=True)
        try:
            self._wait_for_spec()
        except BaseException:
            self.close()
            raise

    # The contract

    def recv(self, timeout_s: float) -> tuple[Outcomes, Requests, list[Fault]]:
        """Whatever is ready.

        Raises:
            EnvironmentFault: every row is retired after MAX_FAILURES failures in a row; the last cause.
        """
        if self._held:  # their rows' last steps went out in the batch before
            faults, self._held = self._held, []
            self._clear_batch()
            return self._outcomes(), self._requests(), faults
        if all(state == _RETIRED for state in self._state):
            raise self._cause
        self._clear_batch()
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now >= self._next_check:
                self._check(now)
            wait = min(deadline, self._next_check) - now
            for fd, _ in self._epoll.poll(wait if wait > 0 else 0):
                row = self._row_of_fd.get(fd)
                if row is not None:
                    self._read(row)
                elif fd == self._server.socket.fileno():
                    self._read_server()
            if self._stepped or self._first or self._faults or time.monotonic() >= deadline:
                break
        busy = {*self._stepped, *self._first}
        self._held = [fault for fault in self._faults if fault.row in busy]
        return self._outcomes(), self._requests(), [fault for fault in self._faults if fault.row not in busy]

    def send(self, actions: np.ndarray, rows: np.ndarray) -> None:
        """Set rows going.

        Args:
            actions: [N, …] in the action space's dtype. rows: int [N].
        """
        rows = np.asarray(rows, np.int64)
        self._shared.action[rows] = actions
        deadline = time.monotonic() + self._timeout_s
        for row in rows.tolist():
            if self._state[row] == _AWAITING:
                self._state[row] = _STEPPING
                self._deadline[row] = deadline
                self._tell(row, b"A")

    def stats(self) -> PoolStats:
        """Totals up to now; a step or reset in progress counts with the time that it has taken."""
        return self._final_stats if self._closed else self._shared.stats(time.monotonic())

    def close(self) -> None:
        """End everything: environments that are idle may close by themselves for a moment, then all are killed."""
        if self._closed:
            return
        self._final_stats = self._shared.stats(time.monotonic())
        self._closed = True
        waiting = [row for row in range(self.num_envs) if self._state[row] in (_CONSTRUCTED, _AWAITING)]
        for row in waiting:
            self._tell(row, b"Q")
        deadline = time.monotonic() + _CLOSE_GRACE_S
        left = {self._ticket[row] for row in waiting}
        with contextlib.suppress(ForkServerDied):
            while left and (wait := deadline - time.monotonic()) > 0:
                if select.select([self._server.socket], [], [], wait)[0]:
                    left -= {ticket for what, ticket, _ in self._server.events() if what == "exited"}
        self._server.close()
        for row in range(self.num_envs):
            self._drop_socket(row)
        self._epoll.close()
        self._shared.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.scratch_file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._spec_file)

    def pids(self) -> np.ndarray:
        """Process id of each row's environment, int64 [rows]; 0 where none is running (for measurements and tests)."""
        return np.array(self._pids, np.int64)

    # Starting

    @property
    def _spec_file(self) -> str:
        return self.scratch_file + ".spec"

    def _new_server(self, preload: bool) -> ForkServer:
        here = "distrl.actors.environment_process"
        server = ForkServer(f"{here}:prepare", f"{here}:run", self._common, preload=preload)
        self._epoll.register(server.socket, select.EPOLLIN)
        return server

    def _wait_for_spec(self) -> None:
        """Start all rows; return when the first has told its spaces, give up when all have failed."""
        warn_at = time.monotonic() + 60.0
        failed: set[int] = set()
        while not self._spec_known:
            self._check(time.monotonic())
            for fd, _ in self._epoll.poll(_CHECK_PERIOD_S):
                row = self._row_of_fd.get(fd)
                if row is not None:
                    self._read(row)
                elif fd == self._server.socket.fileno():
                    self._read_server()
                if self._spec_known:
                    break
            failed.update(fault.row for fault in self._faults)
            if len(failed) == self.num_envs:
                raise self._cause
            if time.monotonic() > warn_at:
                _log.warning("waiting for the first of %d environments (%s) to be made", self.num_envs, self._recipe.id)
                warn_at += 60.0
        self._held = self._faults

    def _start(self, row: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ticket = next(self._tickets)
        episode = int(self._shared.records["episode"][row]) + 1
        with theirs:
            try:
                self._server.fork(ticket, (row, episode), theirs)
            except ForkServerDied:
                ours.close()
                return  # the end of its socket is about to be read; the row stays gone and is started after that
        self._shared.records["process_starts"][row] += 1
        self._ticket[row] = ticket
        self._row_of_ticket[ticket] = row
        self._sockets[row] = ours
        self._row_of_fd[ours.fileno()] = row
        self._epoll.register(ours, select.EPOLLIN)
        self._state[row] = _STARTING
        self._start_at[row] = np.inf
        self._deadline[row] = time.monotonic() + max(self._timeout_s, CONSTRUCTION_TIMEOUT_S)

    def _learn_spec(self) -> None:
        with open(self._spec_file, "rb") as file:
            self.spec = pickle.load(file)
        os.unlink(self._spec_file)
        layout = layout_of(self.spec)
        self._shared.allocate_data(layout)
        self._spec_known = True
        for row, state in enumerate(self._state):
            if state == _CONSTRUCTED:
                self._begin(row)

    def _begin(self, row: int) -> None:
        self._state[row] = _RESETTING
        self._deadline[row] = time.monotonic() + self._timeout_s
        self._tell(row, b"G")

    # Listening

    def _tell(self, row: int, message: bytes) -> None:
        channel = self._sockets[row]
        if channel is not None:
            with contextlib.suppress(OSError):  # a dead process is reported by the fork server
                channel.send(message)

    def _read(self, row: int) -> bool:
        """Packets of a row's process, up to one that wants an answer; whether there may be more."""
        channel = self._sockets[row]
        while channel is not None:
            try:
                packet = channel.recv(65536)
            except BlockingIOError:
                return False
            except OSError:
                packet = b""
            what = packet[:1]
            if what == b"S":
                self._step_done(row)
                self._await(row)
                return True
            if what == b"R":
                self._first.append(row)
                self._await(row)
                return True
            if what == b"E":
                self._ended.append(len(self._stepped))
                self._info.append(pickle.loads(packet[1:]))
                self._step_done(row)
                self._state[row] = _RESETTING
                self._deadline[row] = time.monotonic() + self._timeout_s
            elif what == b"C":
                self._state[row] = _CONSTRUCTED
                self._deadline[row] = np.inf
                if self._spec_known:
                    self._begin(row)
                elif self._asked is None:
                    self._ask_for_spec(row)
            elif what == b"P":
                self._learn_spec()
                return True  # and read no further here: what follows is for recv, not for the constructor
            elif what == b"F":
                kind, message = pickle.loads(packet[1:])
                self._fail(row, kind, message)
                self._deadline[row] = time.monotonic() + _KILL_AFTER_S
            else:  # the end of the socket: its process ends, and how it did comes from the fork server
                self._drop_socket(row)
                if self._state[row] != _DYING:
                    self._deadline[row] = time.monotonic() + 1.0
                return False
        return False

    def _step_done(self, row: int) -> None:
        self._stepped.append(row)
        self._delivered[row] += 1
        self._failures[row] = 0

    def _ask_for_spec(self, row: int) -> None:
        self._asked = row
        self._tell(row, b"P" + self._spec_file.encode())

    def _await(self, row: int) -> None:
        self._state[row] = _AWAITING
        self._deadline[row] = np.inf

    def _read_server(self) -> None:
        try:
            events = self._server.events()
        except ForkServerDied as error:
            self._server_died(str(error))
            return
        for what, ticket, detail in events:
            row = self._row_of_ticket.get(ticket)
            if row is None:
                continue
            if what == "started":
                self._pids[row] = detail
            else:
                self._exited(row, describe_exit(detail))

    def _exited(self, row: int, how: str) -> None:
        """A row's process has ended: hear its last words, then count the row as gone."""
        while self._read(row):
            pass
        if self._spec_known and self._shared.records["produced"][row] > self._delivered[row]:
            # killed between finishing a step and saying so: everything about it is in the shared memory
            ended = bool(self._shared.records["terminated"][row] or self._shared.records["truncated"][row])
            if ended:
                self._ended.append(len(self._stepped))
                self._info.append({})
                self._state[row] = _RESETTING
            self._step_done(row)
        kind, message = self._doom[row] or ("crash", f"its process ended by itself ({how})")
        self._doom[row] = None
        self._fail(row, kind, message)
        self._drop_socket(row)
        del self._row_of_ticket[self._ticket[row]]
        self._pids[row] = 0
        self._shared.bury(row)
        self._deadline[row] = np.inf
        failures = self._failures[row]
        if failures >= MAX_FAILURES:
            self._state[row] = _RETIRED
        else:
            self._state[row] = _GONE
            # a little patience, so that a row that fails at once does not occupy a core with starting
            self._start_at[row] = time.monotonic() + (0.05 * 2**failures if failures > 1 else 0.0)

    def _server_died(self, how: str) -> None:
        self._epoll.unregister(self._server.socket)
        never_served = not any(self._pids)
        self._server.bury()
        for row in range(self.num_envs):
            if self._state[row] not in (_GONE, _RETIRED):
                if never_served:  # importing the environment's module ended it: let the rows meet that one by one
                    self._drop_socket(row)
                    del self._row_of_ticket[self._ticket[row]]
                    self._state[row] = _GONE
                    self._start_at[row] = -np.inf
                else:
                    self._exited(row, how)
        self._useless_servers = self._useless_servers + 1 if never_served else 0
        if self._useless_servers >= 3:
            raise EnvironmentFault(f"environment processes cannot be started: {how}.", "crash")
        self._server = self._new_server(preload=not never_served)

    # Failing

    def _fail(self, row: int, kind: str, message: str) -> None:
        """Report a row's failure once in the life of its process."""
        if self._state[row] == _DYING:
            return
        cut = self._state[row] in (_AWAITING, _STEPPING)
        self._failures[row] += 1
        sentence = f"environment {row} ({self._recipe.id}): {message.rstrip('.')}."
        self._cause = EnvironmentFault(sentence, kind)
        if self._failures[row] >= MAX_FAILURES:
            sentence += f" It failed {MAX_FAILURES} times in a row without finishing a step and is not started again."
        self._faults.append(Fault(row, kind, sentence, cut))
        self._state[row] = _DYING
        if self._asked == row and not self._spec_known:
            self._asked = None
            for other, state in enumerate(self._state):
                if state == _CONSTRUCTED:
                    self._ask_for_spec(other)
                    break

    def _check(self, now: float) -> None:
        """Kill what has taken too long; start what is to be started."""
        self._next_check = now + _CHECK_PERIOD_S
        for row in np.flatnonzero(self._deadline <= now).tolist():
            doing = {_STARTING: "its constructor", _RESETTING: "reset", _STEPPING: "step"}.get(self._state[row])
            if doing is not None and self._doom[row] is None and self._sockets[row] is not None:
                limit = max(self._timeout_s, CONSTRUCTION_TIMEOUT_S) if doing == "its constructor" else self._timeout_s
                # the fault is reported when the process has ended: it may finish a step until then
                self._doom[row] = ("hang", f"{doing} must return within {limit:g} s (step_timeout_s); it was killed")
            self._server.kill(self._ticket[row])
            self._deadline[row] = now + 1.0
        for row in np.flatnonzero(self._start_at <= now).tolist():
            self._start(row)

    def _drop_socket(self, row: int) -> None:
        channel = self._sockets[row]
        if channel is not None:
            self._row_of_fd.pop(channel.fileno(), None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(channel)
            channel.close()
            self._sockets[row] = None

    # Gathering

    def _clear_batch(self) -> None:
        self._stepped: list[int] = []  # rows with a finished step
        self._ended: list[int] = []  # positions in _stepped
        self._info: list[dict[str, Any]] = []
        self._first: list[int] = []  # rows whose reset is done
        self._faults: list[Fault] = []

    def _outcomes(self) -> Outcomes:
        rows = np.array(self._stepped, np.int64)
        ended = np.array(self._ended, np.int64)
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
            info=self._info,
        )

    def _requests(self) -> Requests:
        if self._ended:
            over = {self._stepped[position] for position in self._ended}
            going = [row for row in self._stepped if row not in over]
        else:
            going = self._stepped
        rows = np.array(going + self._first, np.int64)
        is_first = np.zeros(len(rows), bool)
        is_first[len(going) :] = True
        records = self._shared.records[rows]
        return Requests(
            rows=rows,
            observation=_gather(self._shared.next, rows),
            is_first=is_first,
            episode_uid=records["episode_uid"].copy(),
            seed=records["seed"].copy(),
            fidelity=records["fidelity"].copy(),
        )


def _gather(arrays: Observation, rows: np.ndarray) -> Observation:
    """path → [N, …], copied out of the shared memory."""
    return {path: array[rows] for path, array in arrays.items()}
