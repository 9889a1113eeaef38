"""The one loop over any pool: rows that are ready go through the policy and back; finished steps are committed to the
node's spool, become fragments and are published.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from distrl.actors.fragment_builder import FragmentBuilder
from distrl.actors.inference import Answer, Inference, LocalInference, ServerInference, ServerLink
from distrl.core.contracts import EnvPool, FragmentSink, Policy, Requests, WeightsSource
from distrl.core.limiter import Admission, WaitNotice
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.spool import Spool
from distrl.core.types import Columns, Cursor

_COMMIT_EACH_STEP_S = 0.1  # mean seconds a step above which durability = "auto" commits every transition …
_COMMIT_S = 1e-3  # … and below which it commits nothing: the simulator is cheaper than its record
_DECIDE_PERIOD_S = 1.0
_HELD_S = 0.001  # between two looks for weights or actions, while some rows wait for them and others are under way …
_HELD_LOOK_S = 0.05  # … and while all wait: then they are woken, and look meanwhile after what they have published
_PULL_WAIT_S = 0.5  # that the parameter server may take to answer; so long may a worker take to end


class EnvWorker:
    """Keeps every environment of a pool busy.

    One round (``run_once``): receive whatever is ready, one inference for all rows that want an action, send the
    actions, then do the bookkeeping while the environments compute. Rows whose actions an inference server chooses
    wait for them while the others go on. Weights are pulled elsewhere (``pull``), never
    between a row's outcome and its next action; a worker whose parameter server is away acts on with what it has.

    What has finished is committed after the actions have left, so that the environments compute meanwhile, and before
    anything of it is published.

    Args:
        inference: what chooses the actions, here or on a server.
        spool: of this worker's life, or None (``durability`` "off", or a sink that secures at once).
        durability: ``always`` commits each transition, ``auto`` decides by the measured mean step: each transition
            above 100 ms, whole fragments above 1 ms, nothing below.
        admission: of an on-policy learner. Rows that it does not admit wait for newer weights, and then act with those.
    """

    def __init__(
        self,
        pool: EnvPool,
        inference: Inference,
        builder: FragmentBuilder,
        sink: FragmentSink,
        spool: Spool | None = None,
        durability: str = "auto",
        admission: Admission | None = None,
    ):
        self._pool, self._inference, self._builder, self._sink = pool, inference, builder, sink
        self._spool, self._durability = spool, durability
        self._mean_step_s = math.inf  # of late; what has not been measured yet may be dear
        self._measured = (0.0, 0)  # seconds and number of the steps before
        self._decided_at = -math.inf
        policy, num_rows = inference.policy, len(pool.env_index)
        self._state: Columns = policy.initial_state(num_rows)
        self._initial_state = policy.initial_state(1)
        action = action_leaf(pool.spec.action_space)
        self._no_action = np.zeros((num_rows, *action.shape), action.dtype), np.zeros(num_rows, np.float32)
        self._ticket = np.full(num_rows, -1)  # of the row's request at an inference server
        self._tickets = itertools.count()
        self._asked: dict[int, tuple[Requests, Columns]] = {}  # by ticket; of these, rows may want another action now
        self._faults: list[dict[str, Any]] = []
        self._unanswered: set[int] = set()  # rows that asked while finishing
        self._admission = admission
        self._held: list[Requests] = []  # of rows that are not admitted
        self._num_held = 0
        self._notice = WaitNotice("an env worker")
        self._newer = threading.Event()  # weights have been pulled

    def pull(self, wait_s: float = 0.0) -> bool:
        """Take newer weights where there are any, or come within the time; returns whether there were."""
        return self._inference.pull(wait_s)

    @property
    def version(self) -> int:
        """Of the weights that act now; −1 before the first pull."""
        return self._inference.version

    def run_once(self, timeout_s: float) -> int:
        """One round; returns the number of steps that finished."""
        if self._held:
            self._act_on_held()
        if self._asked:
            self._take_answers()
        num_steps = 0
        if not self.waits:
            num_steps, requests = self._receive(_HELD_S if self._held or self._asked else timeout_s)
            if len(requests.rows):
                self._act_or_hold(requests)
        if self.waits:
            self._builder.flush()  # the learner may need what is open for the weights that we wait for
        self._builder.close_aged(time.monotonic())
        self._deliver()
        return num_steps

    @property
    def waits(self) -> bool:
        """Whether every row waits for newer weights."""
        return self._num_held > 0 and self._builder.num_in_flight == self._num_held

    def _act_or_hold(self, requests: Requests) -> None:
        if self._admission is None or self._admission.admits(self.version):
            self._act(requests)
            return
        self._let_go(set(requests.rows.tolist()))  # a row that asks again has been continued from a snapshot
        self._show(requests, self._state_before(requests))
        self._held.append(requests.select(np.arange(len(requests.rows))))
        self._num_held += len(requests.rows)

    def _let_go(self, rows: set[int]) -> None:
        """Requests of rows that want another action now, or none."""
        self._ticket[list(rows)] = -1
        if not self._num_held:
            return
        held, self._held = self._held, []
        for requests in held:
            kept = np.array([row not in rows for row in requests.rows.tolist()])
            if kept.any():
                self._held.append(requests.select(np.flatnonzero(kept)))
        self._num_held = sum(len(requests.rows) for requests in self._held)

    def _act_on_held(self) -> None:
        assert self._admission is not None
        while self._held and self._admission.admits(self.version):
            requests = self._held.pop(0)
            self._num_held -= len(requests.rows)
            self._act(requests)
            self._notice.over()

    def _receive(self, timeout_s: float) -> tuple[int, Requests]:
        """Take what is ready; (steps that finished, rows that want an action)."""
        outcomes, requests, faults = self._pool.recv(timeout_s)
        self._builder.finished(outcomes, time.monotonic())
        if faults:
            self._builder.failed(faults)
            self._let_go({fault.row for fault in faults if fault.cut})
            self._faults += [{"row": fault.row, "fault": fault.kind, "message": fault.message} for fault in faults]
        return len(outcomes.rows), requests

    def _deliver(self) -> None:
        """Commit what has finished, then publish the fragments that have closed."""
        closed = self._builder.take()
        spool = self._spool
        if spool is not None:
            each_step, fragments = self._commits()
            pieces = [piece for item in closed for piece in item.rest()] if fragments else []
            if each_step:
                pieces += self._builder.pieces()
            if pieces:
                spool.commit(pieces, ends_fragment=bool(closed))
            else:
                spool.keep_up()
        for item in closed:
            self._sink.publish(item.fragment, partial(self._secured, item.numbers))

    def _secured(self, numbers: list[int]) -> None:
        if self._spool is not None:
            for number in numbers:
                self._spool.forget(number)

    def _commits(self) -> tuple[bool, bool]:
        """Whether each step is committed as soon as it has finished, and whether fragments are."""
        if self._durability == "always":
            return True, True
        now = time.monotonic()
        if now - self._decided_at > _DECIDE_PERIOD_S:
            self._decided_at = now
            stats = self._pool.stats()
            step_s, num_steps = stats.step_s - self._measured[0], stats.produced - self._measured[1]
            if num_steps:  # at another fidelity steps cost otherwise, so the mean over all is of no use
                self._mean_step_s, self._measured = step_s / num_steps, (stats.step_s, stats.produced)
        return self._mean_step_s > _COMMIT_EACH_STEP_S, self._mean_step_s > _COMMIT_S

    def _act(self, requests: Requests) -> None:
        if self._admission is not None:
            self._admission.begun(len(requests.rows))
        if not self._inference.remote:
            state = self._state_before(requests)
            self._send(requests, state, self._inference.act(requests.observation, state, requests.is_first))
            return
        requests = requests.select(np.arange(len(requests.rows)))  # the pool goes on meanwhile
        state, ticket = self._state_before(requests), next(self._tickets)
        self._show(requests, state)
        self._asked[ticket] = requests, state
        self._ticket[requests.rows] = ticket
        self._inference.ask(ticket, requests.observation, state, requests.is_first)

    def _take_answers(self) -> None:
        waiting = self._num_held + np.count_nonzero(self._ticket >= 0)
        for ticket, answer in self._inference.answers(0.0 if self._builder.num_in_flight > waiting else _HELD_S):
            requests, state = self._asked.pop(ticket)
            current = np.flatnonzero(self._ticket[requests.rows] == ticket)
            if len(current) < len(requests.rows):  # the others have failed, or been continued from a snapshot
                requests = requests.select(current)
                state, following = ({p: a[current] for p, a in one.items()} for one in (state, answer.state))
                answer = Answer(answer.version, answer.action[current], answer.log_prob[current], following)
            if len(current):
                self._ticket[requests.rows] = -1
                self._send(requests, state, answer)

    def _send(self, requests: Requests, state: Columns, answer: Answer) -> None:
        self._pool.send(self._inference.policy.env_action(answer.action), requests.rows)
        for path, array in answer.state.items():
            self._state[path][requests.rows] = array
        self._builder.requested(requests, answer.action, answer.log_prob, answer.version, state)

    def _show(self, requests: Requests, state: Columns) -> None:
        """No action is known yet, but what has finished can bootstrap from the observations."""
        action, log_prob = (array[: len(requests.rows)] for array in self._no_action)
        self._builder.requested(requests, action, log_prob, max(self.version, 0), state)

    def _state_before(self, requests: Requests) -> Columns:
        """The policy's, path → [N, …]: a copy."""
        state = {path: array[requests.rows] for path, array in self._state.items()}
        for path, initial in self._initial_state.items():
            state[path][requests.is_first] = initial
        return state

    def run(
        self,
        stop: threading.Event,
        pull_period_s: float,
        wait_for_weights: bool,
        grace_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Until ``stop``: act, with weights pulled by a thread of its own; then publish what is open.

        ``wait_for_weights``: do not begin before the first pull, even with a policy that can act untrained.
        ``grace_s``: asked after ``stop``: seconds that steps under way may take to finish.
        """
        while not self.pull() and (wait_for_weights or not self._inference.ready):
            if stop.wait(0.02):
                return
        puller = threading.Thread(target=self._pull_for_ever, args=(stop, pull_period_s), name="pull", daemon=True)
        puller.start()
        while not stop.is_set():
            self.run_once(timeout_s=0.25)
            if self.waits:
                self._sink.keep_up()  # the weights may need what the last learner has not got
                self._notice.waiting(
                    lambda: (
                        f"for weights newer than version {self.version}: what it may produce ahead of the learner "
                        "(algorithm.max_staleness) is produced"
                    )
                )
                self._newer.wait(_HELD_LOOK_S)
            self._newer.clear()
        self.finish(grace_s())
        puller.join()

    def _pull_for_ever(self, stop: threading.Event, period_s: float) -> None:
        """By the clock, or, where producers wait for them, as soon as there are newer ones."""
        period_s, wait_s = (period_s, 0.0) if self._admission is None else (0.0, _PULL_WAIT_S)
        while not stop.wait(period_s):
            if self.pull(wait_s):
                self._newer.set()
            elif wait_s:
                stop.wait(_HELD_S)  # a server that is away does not wait

    def finish(self, grace_s: float = 0.0) -> None:
        """Publish every step that has finished within the grace; those still under way are abandoned (they were never
        produced)."""
        deadline = time.monotonic() + grace_s
        self._unanswered.update(row for requests in self._held for row in requests.rows.tolist())
        self._unanswered.update(np.flatnonzero(self._ticket >= 0).tolist())
        while (left_s := deadline - time.monotonic()) > 0 and self._builder.num_in_flight > len(self._unanswered):
            _, requests = self._receive(min(left_s, 0.25))
            if len(requests.rows):
                self._show(requests, self._state_before(requests))
                self._unanswered.update(requests.rows.tolist())
        outcomes, requests = self._pool.halt()
        self._builder.finished(outcomes, time.monotonic())
        if len(requests.rows):
            self._show(requests, self._state_before(requests))
        self._builder.flush()
        self._deliver()

    def cursors(self) -> dict[int, Cursor]:
        """After ``finish``: how far each environment's running episode has come, for whoever continues it."""
        return self._builder.cursors()

    def progress(self, env_steps: int) -> None:
        """See the pool's."""
        self._pool.progress(env_steps)

    def report(self) -> dict[str, Any]:
        """What happened since the last report (episodes, faults), and totals of the pool."""
        levels = self._pool.spec.fidelities
        episodes, self._builder.episodes = self._builder.episodes, []
        episodes = [episode | {"fidelity": levels[episode["fidelity"]]} for episode in episodes]
        faults, self._faults = self._faults, []
        stats = self._pool.stats()
        return {
            "episodes": episodes,
            "faults": faults,
            "version": self.version,
            "inference_s": self._inference.seconds,
            "produced": stats.produced,
            "resets": stats.resets,
            "step_s": stats.step_s,
            "reset_s": stats.reset_s,
            "core_s": stats.core_s,
            "lifetime_s": stats.lifetime_s,
            "process_starts": stats.process_starts,
            "num_envs": self._pool.num_envs,
            "recomputed": stats.recomputed,
            "snapshots": stats.snapshots,
            "snapshot_s": stats.snapshot_s,
            "diverged": stats.diverged,
            "env_steps_by_fidelity": _by_level(levels, stats.level_steps),
            "core_s_by_fidelity": _by_level(levels, stats.level_core_s),
            "committed": 0 if self._spool is None else self._spool.num_committed,
        }

    def close(self) -> None:
        """End the environments; what is not secured yet stays in the spool."""
        self._pool.close()
        if self._spool is not None:
            self._spool.close()


def _by_level(levels: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return {level: value for level, value in zip(levels, values.tolist(), strict=False) if value}


def build_env_worker(
    pool: EnvPool,
    policy: Policy,
    sink: FragmentSink,
    source: WeightsSource,
    *,
    fragment_steps: int,
    fragment_max_age_s: float | None,
    worker: int = 0,
    incarnation: int = 0,
    spool: Spool | None = None,
    durability: str = "auto",
    admission: Admission | None = None,
    server: ServerLink | None = None,
) -> EnvWorker:
    """An env worker over a pool, with the builder that suits the pool's hosting; ``server`` chooses its actions, or
    its own policy does."""
    local = LocalInference(policy, source)
    inference = local if server is None else ServerInference(server, local)
    leaves = observation_leaves(pool.spec.observation_space)
    action = action_leaf(pool.spec.action_space)
    builder = FragmentBuilder(
        pool.env_index,
        pool.agent_index,
        {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()},
        (action.shape, action.dtype),
        max_steps=fragment_steps,
        max_age_s=fragment_max_age_s,
        whole=pool.lockstep or admission is not None,  # rollouts are made of fragments of one length
        worker=worker,
        incarnation=incarnation,
    )
    return EnvWorker(pool, inference, builder, sink, spool, durability, admission)
