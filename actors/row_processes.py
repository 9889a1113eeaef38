"""Rows are told to go, what became of them comes out: starts, hears, watches and restarts environment processes.

Each row has at most one living process, on a socket of its own (protocol: environment_process.py), forked by a fork
server. A row goes through the states below; a process that raises, hangs or dies makes its row start again, with the
episode that it was in where that has snapshots (recovery.py).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.actors.environment_process import Common, layout_of
from distrl.actors.fork_server import ForkServer, ForkServerDied
from distrl.actors.hang_limit import HangLimit
from distrl.actors.out_of_memory import OutOfMemory
from distrl.actors.recovery import Recovery, Running
from distrl.actors.row_sockets import RowSockets
from distrl.actors.shared_rows import SharedRows
from distrl.core.contracts import Fault
from distrl.core.errors import EnvironmentFault
from distrl.core.types import Cursor, EnvSpec
from distrl.envs.light_process import describe_exit

CONSTRUCTION_TIMEOUT_S = 60.0  # at least; a constructor may import much and build a mesh
_CLOSE_GRACE_S = 1.0
_HALT_GRACE_S = 5.0  # for killed processes to be reaped
_CHECK_PERIOD_S = 0.05
_KILL_AFTER_S = 4.0  # a process that has reported a fault may close its environment; then it is killed
_log = logging.getLogger(__name__)

# States of a row: a process is being made; it waits for the data region; resets (or restores); waits for an action;
# steps; has failed and ends; there is none, one will be started; there is none, and none will be.
_STARTING, _CONSTRUCTED, _RESETTING, _AWAITING, _STEPPING, _DYING, _GONE, _QUARANTINED = range(8)


@dataclass
class Batch:
    """What became of the rows since the last batch; the numbers are in the shared memory.

    Attributes:
        stepped: rows with a finished step.
        ended: positions in ``stepped`` where the episode ended. info: one dict for each.
        first: rows whose reset is done. continued: rows that ask for an action of an earlier life's episode.
        faults: rows that have failed.
    """

    stepped: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    info: list[dict[str, Any]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    continued: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class RowProcesses:
    """The processes behind a ProcessPool's rows; its arguments.

        batch = processes.collect(deadline)
        processes.go(rows)

    Attributes:
        spec: of the environments. server: the fork server. pids: of each row's process, 0 where there is none.
        steps: int32 [rows], steps of the running episode that were in batches. returns: float64 [rows], their rewards.
    """

    spec: EnvSpec

    def __init__(
        self,
        env_id: str,
        common: Common,
        shared: SharedRows,
        *,
        timeout_s: float | None,
        hang_factor: float | None,
        threads: int,
        cursors: Mapping[int, Cursor],
    ):
        num_rows = shared.num_rows
        self._num_rows = num_rows
        self._id = env_id
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._hang_factor = hang_factor
        self._hang_limits: dict[tuple[int, int], HangLimit] = {}  # of each row at each fidelity: their steps differ
        self._shared = shared
        self._common = common
        self._threads = threads
        self._recovery = Recovery(env_id, num_rows, common.snapshots, cursors)
        self._out_of_memory = OutOfMemory()
        self._shown: set[str] = set()  # messages whose traceback has been printed
        self._spec_file = shared.path + ".spec"
        self._tickets = itertools.count()
        self._ticket = [-1] * num_rows
        self._row_of_ticket: dict[int, int] = {}
        self._sockets = RowSockets(num_rows)
        self._state = [_GONE] * num_rows
        self.pids = [0] * num_rows
        self._deadline = np.full(num_rows, np.inf)  # time.monotonic() when the row has taken too long
        self._doom: list[tuple[str, str] | None] = [None] * num_rows  # why a row's process has been killed by us
        self._acting = [False] * num_rows  # an action lies in the shared memory, its step not yet finished
        self._begun = [0] * num_rows  # times that this step has been begun
        self._delivered = [0] * num_rows  # steps in batches so far, to compare with what the process has counted
        self._fidelity = [0] * num_rows  # of the running episode
        self.steps = np.zeros(num_rows, np.int32)  # delivered steps of each row's running episode, …
        self.returns = np.zeros(num_rows, np.float64)  # … and the sum of their rewards
        self._start_at = np.full(num_rows, -np.inf)  # time.monotonic() when a row that is gone starts again
        self._next_check = 0.0
        self._spec_known = False
        self._asked: int | None = None  # the row that was asked for the spec
        self._useless_servers = 0  # fork servers in a row that ended before they had started anything
        self._batch = Batch()
        self.server = self._new_server(preload=True)

    # Used by the pool

    def wait_for_spec(self) -> list[Fault]:
        """Start all rows; return when the first has told its spaces, with the faults so far.

        Raises:
            EnvironmentFault: all have failed.
        """
        warn_at = time.monotonic() + 60.0
        failed: set[int] = set()
        while not self._spec_known:
            self._check(time.monotonic())
            self._listen(_CHECK_PERIOD_S)
            failed.update(fault.row for fault in self._batch.faults)
            if len(failed) == self._num_rows:
                raise self._recovery.cause
            if time.monotonic() > warn_at:
                _log.warning("waiting for the first of %d environments (%s) to be made", self._num_rows, self._id)
                warn_at += 60.0
        faults, self._batch.faults = self._batch.faults, []
        return faults

    def collect(self, deadline: float) -> Batch:
        """Whatever is ready; waits until something is, or until ``deadline`` on time.monotonic().

        Raises:
            EnvironmentFault: every row is quarantined; the last cause.
        """
        if all(state == _QUARANTINED for state in self._state) and not self._batch.faults:
            raise self._recovery.cause
        batch = self._batch  # may already hold resets that were done during construction
        while True:
            now = time.monotonic()
            if now >= self._next_check:
                self._check(now)
            self._listen(max(min(deadline, self._next_check) - now, 0.0))
            if batch.stepped or batch.first or batch.continued or batch.faults or time.monotonic() >= deadline:
                self._batch = Batch()
                return batch

    def go(self, rows: list[int]) -> None:
        """Their actions are in the shared memory: step.

        Rows that have failed since they asked do so when their episode has been continued, else never.
        """
        now = time.monotonic()
        for row in rows:
            if self._state[row] == _AWAITING:
                self._state[row] = _STEPPING
                self._deadline[row] = now + self._step_limit(row)[0]
                self._sockets.send(row, b"A")
            self._acting[row] = True

    def halt(self) -> Batch:
        """Kill whatever computes; the batch of what had finished by then. Only ``close`` may follow."""
        computing = [row for row, state in enumerate(self._state) if state in (_STARTING, _RESETTING, _STEPPING)]
        for row in computing:
            self.server.kill(self._ticket[row])
        deadline = time.monotonic() + _HALT_GRACE_S
        while any(self.pids[row] for row in computing) and time.monotonic() < deadline:
            self._listen(_CHECK_PERIOD_S)
        self._batch.faults = []  # they were killed by us
        return self._batch

    def close(self) -> None:
        """End everything: environments that are idle may close by themselves for a moment, then all are killed."""
        waiting = [row for row in range(self._num_rows) if self._state[row] in (_CONSTRUCTED, _AWAITING)]
        for row in waiting:
            self._sockets.send(row, b"Q")
        deadline = time.monotonic() + _CLOSE_GRACE_S
        left = {self._ticket[row] for row in waiting}
        with contextlib.suppress(ForkServerDied):
            while left and (wait := deadline - time.monotonic()) > 0:
                if select.select([self.server.socket], [], [], wait)[0]:
                    left -= {ticket for what, ticket, _ in self.server.events() if what == "exited"}
        self.server.close()
        self._sockets.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._spec_file)

    # Starting

    def _new_server(self, preload: bool) -> ForkServer:
        here = "distrl.actors.environment_process"
        server = ForkServer(f"{here}:prepare", f"{here}:run", self._common, preload=preload, threads=self._threads)
        self._sockets.watch(server.socket)
        return server

    def _start(self, row: int) -> None:
        ticket = next(self._tickets)
        episode = int(self._shared.records["episode"][row]) + 1
        with self._sockets.open(row) as theirs:
            try:
                self.server.fork(ticket, (row, episode, self._recovery.orders[row]), theirs)
            except ForkServerDied:
                self._sockets.drop(row)
                return  # the end of its socket is about to be read; the row stays gone and is started after that
        self._shared.records["process_starts"][row] += 1
        self._ticket[row] = ticket
        self._row_of_ticket[ticket] = row
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
        self._sockets.send(row, b"G")

    # Listening

    def _listen(self, wait_s: float) -> None:
        """Wait for packets, at most so long, and read what is there."""
        for row in self._sockets.poll(wait_s):
            if row is None:
                self._read_server()
            else:
                self._read(row)

    def _read(self, row: int) -> bool:
        """Packets of a row's process, up to one that wants an answer; whether there may be more."""
        while (packet := self._sockets.receive(row)) is not None:
            what = packet[:1]
            if what == b"S":
                self._step_done(row)
                self._await(row)
                return True
            if what == b"R":
                self._recovery.began(row)
                self._batch.first.append(row)
                self.steps[row], self.returns[row] = 0, 0.0
                self._begun[row] = 0
                self._acting[row] = False
                self._fidelity[row] = int(self._shared.records["fidelity"][row])
                self._await(row)
                return True
            if what == b"K":
                self._episode_goes_on(row, *pickle.loads(packet[1:]))
                return True
            if what == b"E":
                self._batch.ended.append(len(self._batch.stepped))
                self._batch.info.append(pickle.loads(packet[1:]))
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
            elif what == b"N":
                kind, message = pickle.loads(packet[1:])
                self._batch.faults.append(Fault(row, kind, self._recovery.sentence(row, message), False))
            elif what == b"X":
                self._batch.faults.append(self._recovery.discontinued(row, pickle.loads(packet[1:])))
                self._state[row] = _DYING
                self._deadline[row] = time.monotonic() + _KILL_AFTER_S
            elif what == b"F":
                kind, message, trace = pickle.loads(packet[1:])
                if trace and message not in self._shown:
                    self._shown.add(message)
                    print(trace, file=sys.stderr, flush=True)
                self._fail(row, kind, message)
                self._deadline[row] = time.monotonic() + _KILL_AFTER_S
            else:  # the end of the socket: its process ends, and how it did comes from the fork server
                if self._state[row] != _DYING:
                    self._deadline[row] = time.monotonic() + 1.0
                return False
        return False

    def _step_done(self, row: int) -> None:
        self._batch.stepped.append(row)
        self.steps[row] += 1
        self.returns[row] += np.float32(self._shared.records["reward"][row])
        self._delivered[row] += 1
        self._acting[row] = False
        self._begun[row] = 0
        self._recovery.finished(row)
        if (limit := self._hang_limit(row)) is not None:
            record = self._shared.records[row]
            limit.add(float(record["end_s"] - record["start_s"]))

    def _episode_goes_on(self, row: int, episode_return: float, recomputed: int) -> None:
        """A row's process has continued an episode: it waits for the next action, or has been given it before."""
        order = self._recovery.orders[row]
        assert order is not None
        asked, faults = self._recovery.continued(row, recomputed)
        self._batch.faults += faults
        self._fidelity[row] = int(self._shared.records["fidelity"][row])
        self._await(row)
        if asked:
            if self._acting[row]:
                self.go([row])
        else:
            self.steps[row], self.returns[row] = order.step, episode_return
            self._batch.continued.append(row)

    def _ask_for_spec(self, row: int) -> None:
        self._asked = row
        self._sockets.send(row, b"P" + self._spec_file.encode())

    def _await(self, row: int) -> None:
        self._state[row] = _AWAITING
        self._deadline[row] = np.inf

    def _read_server(self) -> None:
        try:
            events = self.server.events()
        except ForkServerDied as error:
            self._server_died(str(error))
            return
        for what, ticket, detail in events:
            row = self._row_of_ticket.get(ticket)
            if row is None:
                continue
            if what == "started":
                self.pids[row] = detail
            else:
                self._exited(row, describe_exit(detail), detail == -signal.SIGKILL)

    def _exited(self, row: int, how: str, killed: bool = False) -> None:
        """A row's process has ended: hear its last words, then count the row as gone."""
        while self._read(row):
            pass
        if self._spec_known and self._shared.produced(row) > self._delivered[row]:
            # killed between finishing a step and saying so: everything about it is in the shared memory
            ended = bool(self._shared.records["terminated"][row] or self._shared.records["truncated"][row])
            if ended:
                self._batch.ended.append(len(self._batch.stepped))
                self._batch.info.append({})
            self._state[row] = _RESETTING if ended else _AWAITING
            self._step_done(row)
        kind, message = "crash", f"its process ended by itself ({how})"
        if self._doom[row] is not None:
            kind, message = self._doom[row]  # type: ignore[misc]
        elif killed and self._out_of_memory.killed_lately(time.monotonic()):
            kind, message = "memory", "the system killed its process, because memory ran out"
        self._doom[row] = None
        self._fail(row, kind, message)
        self._sockets.drop(row)
        del self._row_of_ticket[self._ticket[row]]
        self.pids[row] = 0
        self._shared.bury(row)
        self._deadline[row] = np.inf
        failures = self._recovery.failures[row]
        if self._recovery.quarantined(row):
            self._state[row] = _QUARANTINED
        else:
            self._state[row] = _GONE
            # a little patience, so that a row that fails at once does not occupy a core with starting
            self._start_at[row] = time.monotonic() + (0.05 * 2**failures if failures > 1 else 0.0)

    def _server_died(self, how: str) -> None:
        self._sockets.watch(None)
        never_served = not any(self.pids)
        self.server.bury()
        for row in range(self._num_rows):
            if self._state[row] not in (_GONE, _QUARANTINED):
                if never_served:  # importing the environment's module ended it: let the rows meet that one by one
                    self._sockets.drop(row)
                    del self._row_of_ticket[self._ticket[row]]
                    self._state[row] = _GONE
                    self._start_at[row] = -np.inf
                else:
                    self._exited(row, how)
        self._useless_servers = self._useless_servers + 1 if never_served else 0
        if self._useless_servers >= 3:
            raise EnvironmentFault(f"environment processes cannot be started: {how}.", "crash")
        self.server = self._new_server(preload=not never_served)

    # Failing

    def _fail(self, row: int, kind: str, message: str) -> None:
        """Report a row's failure once in the life of its process."""
        if self._state[row] == _DYING:
            return
        running = None
        if self._state[row] in (_AWAITING, _STEPPING):
            record = self._shared.records[row]
            self._begun[row] += bool(self._state[row] == _STEPPING and record["in_step_since"] > 0)
            running = Running(int(record["episode_uid"]), int(self.steps[row]), self._begun[row])
        self._batch.faults += self._recovery.failed(row, kind, message, running)
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
        self._out_of_memory.look(now)
        for row in np.flatnonzero(self._deadline <= now).tolist():
            doing, limit, why = self._patience(row)
            if doing is not None and self._doom[row] is None and self._sockets.is_open(row):
                # a step waits for a snapshot to be taken, and every step that is computed again is a sign of life
                record = self._shared.records[row]
                began = float(max(record[name] for name in ("last_seen_at", "in_step_since", "in_snapshot_since")))
                if began + limit > now:
                    self._deadline[row] = began + limit
                    continue
                # the fault is reported when the process has ended: it may finish a step until then
                self._doom[row] = ("hang", f"{doing} must return within {limit:.3g} s ({why}); it was killed")
            self.server.kill(self._ticket[row])
            self._deadline[row] = now + 1.0
        for row in np.flatnonzero(self._start_at <= now).tolist():
            self._start(row)

    def _patience(self, row: int) -> tuple[str | None, float, str]:
        """What a row's process is doing, how many seconds that may take, and what says so."""
        state, rule = self._state[row], "step_timeout_s"
        if state == _STARTING:
            return "its constructor", max(self._timeout_s, CONSTRUCTION_TIMEOUT_S), rule
        if state == _RESETTING and self._shared.records["in_constructor_since"][row] > 0:
            return "its constructor", max(self._timeout_s, CONSTRUCTION_TIMEOUT_S), rule
        if state == _RESETTING:
            return "reset" if self._recovery.orders[row] is None else "restore", self._timeout_s, rule
        if state == _STEPPING and self._shared.records["in_snapshot_since"][row] > 0:
            return "snapshot", self._timeout_s, rule
        return ("step", *self._step_limit(row)) if state == _STEPPING else (None, math.inf, rule)

    def _step_limit(self, row: int) -> tuple[float, str]:
        own = self._hang_limit(row)
        if own is not None and own.limit_s < self._timeout_s:
            return own.limit_s, f"hang_factor {self._hang_factor:g}; 99 % of its steps took < {own.p99_s:.3g} s"
        return self._timeout_s, "step_timeout_s"

    def _hang_limit(self, row: int) -> HangLimit | None:
        """Of the row's steps at the fidelity of its episode."""
        if self._hang_factor is None:
            return None
        key = row, self._fidelity[row]
        if key not in self._hang_limits:
            self._hang_limits[key] = HangLimit(self._hang_factor)
        return self._hang_limits[key]
