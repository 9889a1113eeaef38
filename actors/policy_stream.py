"""Rows of one policy that want actions in; their actions out, at once, when the learner admits them, or when an
inference server has answered; and what they do, into the policy's fragments.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np

from distrl.actors.agent_rows import PolicyRows
from distrl.actors.fragment_builder import FragmentBuilder
from distrl.actors.inference import Answer, Inference
from distrl.core.contracts import Fault, Outcomes, Requests
from distrl.core.limiter import Admission
from distrl.core.spaces import action_leaf
from distrl.core.types import Columns

_PULL_WAIT_S = 0.5  # that the parameter server may take to answer; so long may a worker take to end
_PAUSE_S = 0.001  # after a parameter server that is away has not waited


class PolicyStream:
    """One policy's part of an env worker.

    Args:
        rows: of the policy. inference: what chooses the actions, here or on a server.
        builder: of the fragments, over the same rows; None: the policy is frozen, and what it does is counted only.
        send: takes actions [N, …] as the environment is given them, and their rows.
        admission: of an on-policy learner. Rows that it does not admit wait for newer weights, and then act with those.

    Attributes:
        num_held: rows that wait for newer weights. asks: whether rows wait for an inference server.
        num_frozen: steps of a frozen policy that have finished.
    """

    def __init__(
        self,
        rows: PolicyRows,
        inference: Inference,
        builder: FragmentBuilder | None,
        send: Callable[[np.ndarray, np.ndarray], None],
        admission: Admission | None = None,
    ):
        self.policy_id, self.inference, self.builder, self.admission = rows.policy_id, inference, builder, admission
        self._send_actions = send
        policy, num_rows = inference.policy, len(rows.env_index)
        self._state: Columns = policy.initial_state(num_rows)
        self._initial_state = policy.initial_state(1)
        action = action_leaf(rows.spec.action_space)
        self._no_action = np.zeros((num_rows, *action.shape), action.dtype), np.zeros(num_rows, np.float32)
        self._ticket = np.full(num_rows, -1)  # of the row's request at an inference server
        self._tickets = itertools.count()
        self._asked: dict[int, tuple[Requests, Columns]] = {}  # by ticket; of these, rows may want another action now
        self._held: list[Requests] = []  # of rows that are not admitted
        self.num_held = self.num_frozen = 0

    @property
    def asks(self) -> bool:
        """See the class."""
        return bool(self._asked)

    def act(self, requests: Requests) -> None:
        """Choose actions, or let the rows wait until the learner admits them."""
        if self.admission is None or self.admission.admits(self.inference.version):
            self._act(requests)
            return
        self._let_go(set(requests.rows.tolist()))  # a row that asks again has been continued from a snapshot
        self.show(requests)
        self._held.append(requests.select(np.arange(len(requests.rows))))
        self.num_held += len(requests.rows)

    def act_on_held(self) -> bool:
        """Choose actions for those that the learner admits now; whether there were any."""
        assert self.admission is not None
        before = self.num_held
        while self._held and self.admission.admits(self.inference.version):
            requests = self._held.pop(0)
            self.num_held -= len(requests.rows)
            self._act(requests)
        return self.num_held < before

    def take_answers(self, wait_s: float) -> None:
        """Send what the inference server has chosen, waiting for the first answer so long."""
        for ticket, answer in self.inference.answers(wait_s):
            requests, state = self._asked.pop(ticket)
            current = np.flatnonzero(self._ticket[requests.rows] == ticket)
            if len(current) < len(requests.rows):  # the others have failed, or been continued from a snapshot
                requests = requests.select(current)
                state, following = ({p: a[current] for p, a in one.items()} for one in (state, answer.state))
                answer = Answer(answer.version, answer.action[current], answer.log_prob[current], following)
            if len(current):
                self._ticket[requests.rows] = -1
                self._send(requests, state, answer)

    def finished(self, outcomes: Outcomes, now: float) -> None:
        """What became of its rows' actions."""
        if self.builder is None:
            self.num_frozen += len(outcomes.rows)
        else:
            self.builder.finished(outcomes, now)

    def failed(self, faults: Sequence[Fault]) -> None:
        """Of its rows: episodes that are cut, and requests that nobody has any more."""
        if self.builder is not None:
            self.builder.failed(faults)
        self._let_go({fault.row for fault in faults if fault.cut})

    def show(self, requests: Requests) -> None:
        """No action is known yet, but what has finished can bootstrap from the observations."""
        if self.builder is None:
            return
        action, log_prob = (array[: len(requests.rows)] for array in self._no_action)
        version = max(self.inference.version, 0)
        self.builder.requested(requests, action, log_prob, version, self._state_before(requests))

    def lend(self, version: int, missing: int) -> None:
        """The learner of this version waits for so many transitions: rows that wait for a newer one must make them."""
        if self.num_held and self.inference.version >= version:
            assert self.admission is not None
            self.admission.lend(min(missing, self.num_held))

    def pull_for_ever(self, stop: threading.Event, period_s: float, newer: threading.Event) -> None:
        """By the clock, or, where producers wait for them, as soon as there are newer weights: then ``newer`` is
        set."""
        period_s, wait_s = (period_s, 0.0) if self.admission is None else (0.0, _PULL_WAIT_S)
        while not stop.wait(period_s):
            if self.inference.pull(wait_s):
                newer.set()
            elif wait_s:
                stop.wait(_PAUSE_S)

    def _let_go(self, rows: set[int]) -> None:
        """Requests of rows that want another action now, or none."""
        self._ticket[list(rows)] = -1
        if not self.num_held:
            return
        held, self._held = self._held, []
        for requests in held:
            kept = np.array([row not in rows for row in requests.rows.tolist()])
            if kept.any():
                self._held.append(requests.select(np.flatnonzero(kept)))
        self.num_held = sum(len(requests.rows) for requests in self._held)

    def _act(self, requests: Requests) -> None:
        if self.admission is not None:
            self.admission.begun(len(requests.rows))
        if not self.inference.remote:
            state = self._state_before(requests)
            self._send(requests, state, self.inference.act(requests.observation, state, requests.is_first))
            return
        requests = requests.select(np.arange(len(requests.rows)))  # the pool goes on meanwhile
        state, ticket = self._state_before(requests), next(self._tickets)
        self.show(requests)
        self._asked[ticket] = requests, state
        self._ticket[requests.rows] = ticket
        self.inference.ask(ticket, requests.observation, state, requests.is_first)

    def _send(self, requests: Requests, state: Columns, answer: Answer) -> None:
        self._send_actions(self.inference.policy.env_action(answer.action), requests.rows)
        for path, array in answer.state.items():
            self._state[path][requests.rows] = array
        if self.builder is not None:
            self.builder.requested(requests, answer.action, answer.log_prob, answer.version, state)

    def _state_before(self, requests: Requests) -> Columns:
        """The policy's, path → [N, …]: a copy."""
        state = {path: array[requests.rows] for path, array in self._state.items()}
        for path, initial in self._initial_state.items():
            state[path][requests.is_first] = initial
        return state
