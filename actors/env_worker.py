"""The one loop over any pool: rows that are ready go through their policies and back; finished steps are committed to
the node's spool, become fragments and are published.

pool → rows of agents → each policy's stream: actions back into the pool, fragments → spool → sink

In a league each policy has a second stream, without fragments, of the rows in which its weights act as an opponent.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from distrl.actors.agent_rows import AgentRows, agent_rows
from distrl.actors.fragment_builder import FragmentBuilder
from distrl.actors.inference import Inference, LocalInference, ServerInference, ServerLink, ThreadInference
from distrl.actors.policy_stream import PolicyStream
from distrl.actors.seating import OpponentStream, Seating
from distrl.core.contracts import EnvPool, FragmentSink, Policy, Requests, WeightsSource
from distrl.core.limiter import Admission, WaitNotice
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.spool import Spool
from distrl.core.types import DEFAULT_POLICY, Cursor

_COMMIT_EACH_STEP_S = 0.1  # mean seconds a step above which durability = "auto" commits every transition …
_COMMIT_S = 1e-3  # … and below which it commits nothing: the simulator is cheaper than its record
_DECIDE_PERIOD_S = 1.0
_HELD_S = 0.001  # between two looks for weights or actions, while some rows wait for them and others are under way …
_HELD_LOOK_S = 0.05  # … and while all wait: then they are woken, and look meanwhile after what they have published


@dataclasses.dataclass(frozen=True)
class PolicyPart:
    """What an env worker needs for one policy.

    Attributes:
        policy: acts. source: of its weights.
        agents: whose policy it is, by index; of equal spaces.
        admission: of an on-policy learner; see ``PolicyStream``.
        server: chooses the actions; None: the policy itself does.
        frozen: it does not learn: what it does becomes no fragments.
    """

    policy: Policy
    source: WeightsSource
    agents: Sequence[int] = (0,)
    admission: Admission | None = None
    server: ServerLink | None = None
    frozen: bool = False


class EnvWorker:
    """Keeps every environment of a pool busy.

    One round (``run_once``): receive whatever is ready, one inference a policy for all its rows that want an action,
    send the actions, then do the bookkeeping while the environments compute. Rows whose actions an inference server
    chooses wait for them while the others go on. Weights are pulled elsewhere (``pull``), never
    between a row's outcome and its next action; a worker whose parameter server is away acts on with what it has.

    What has finished is committed after the actions have left, so that the environments compute meanwhile, and before
    anything of it is published.

    Args:
        rows: of the pool's environments. parts: by policy, in the order of ``rows.policies``.
        builders: of the policies' fragments, in the same order; None where there are none.
        spool: of this worker's life, or None (``durability`` "off", or a sink that secures at once).
        durability: ``always`` commits each transition, ``auto`` decides by the measured mean step: each transition
            above 100 ms, whole fragments above 1 ms, nothing below.
        seating: who acts for which agents, in a league.

    Attributes:
        streams: of the policies; in a league, behind them those of opponents.
    """

    def __init__(
        self,
        pool: EnvPool,
        rows: AgentRows,
        parts: Sequence[PolicyPart],
        builders: Sequence[FragmentBuilder | None],
        sink: FragmentSink,
        spool: Spool | None = None,
        durability: str = "auto",
        seating: Seating | None = None,
    ):
        self._pool, self._rows, self._sink = pool, rows, sink
        self._spool, self._durability = spool, durability
        self._mean_step_s = math.inf  # of late; what has not been measured yet may be dear
        self._measured = (0.0, 0)  # seconds and number of the steps before
        self._decided_at = -math.inf
        self._faults: list[dict[str, Any]] = []
        self._notice = WaitNotice("an env worker")
        self._newer = threading.Event()  # weights have been pulled
        self._builders = [builder for builder in builders if builder is not None]
        self._seating = seating
        self.streams: list[PolicyStream] = []
        for number, (its_rows, part, builder) in enumerate(zip(rows.policies, parts, builders, strict=False)):
            local = LocalInference(part.policy, part.source)
            inference: Inference = local
            if part.server is not None:
                inference = ServerInference(part.server, local)
            elif len(parts) > 1 and not pool.lockstep:  # there, all wait for the slowest anyway
                inference = ThreadInference(local)
            send = partial(self._send, number)
            self.streams.append(PolicyStream(its_rows, inference, builder, send, part.admission))
        self._policies = list(self.streams)
        if seating is not None:
            for number in range(len(parts), len(rows.policies)):
                self.streams.append(OpponentStream(rows.policies[number], seating, partial(self._send, number)))

    def pull(self, wait_s: float = 0.0) -> bool:
        """Take newer weights where there are any, or come within the time (for each policy); returns whether there
        were."""
        if self._seating is not None:
            self._seating.pull()
        return sum(stream.inference.pull(wait_s) for stream in self._policies) > 0

    @property
    def version(self) -> int:
        """Of the weights that act now, the oldest policy's; −1 before the first pull."""
        return min(stream.inference.version for stream in self._policies)

    def run_once(self, timeout_s: float) -> int:
        """One round; returns the number of steps that finished."""
        waiting = False
        for stream in self.streams:
            if stream.num_held and stream.act_on_held():
                self._notice.over()
            if stream.asks:
                stream.take_answers(0.0 if self._rows.in_flight.any() else _HELD_S)
            waiting = waiting or stream.num_held > 0 or stream.asks
        num_steps = 0
        if not self.waits:
            num_steps, ready = self._receive(_HELD_S if waiting else timeout_s)
            for stream, requests in zip(self.streams, ready, strict=True):
                if len(requests.rows):
                    stream.act(requests)
        waits = self.waits
        if waits:
            for builder in self._builders:
                builder.flush()  # the learner may need what is open for the weights that we wait for
        now = time.monotonic()
        for builder in self._builders:
            builder.close_aged(now)
        self._deliver()
        if waits and self._pool.spec.agents:
            lacking = self._sink.lacking()
            for stream in self._policies:
                stream.lend(*lacking.get(stream.policy_id, (0, 0)))
        return num_steps

    @property
    def waits(self) -> bool:
        """Whether no environment goes on before newer weights come."""
        return (
            any(stream.num_held for stream in self.streams)
            and not any(stream.asks for stream in self.streams)
            and not self._rows.in_flight.any()
        )

    def _send(self, policy: int, actions: np.ndarray, rows: np.ndarray) -> None:
        joined, envs = self._rows.join(policy, actions, rows)
        if len(envs):
            self._pool.send(joined, envs)

    def _receive(self, timeout_s: float) -> tuple[int, list[Requests]]:
        """Take what is ready; (steps that finished, each policy's rows that want an action)."""
        outcomes, requests, faults = self._pool.recv(timeout_s)
        split = self._rows.split(outcomes, requests)
        now = time.monotonic()
        for number, (stream, (its_outcomes, _)) in enumerate(zip(self.streams, split, strict=True)):
            stream.finished(its_outcomes, now)
            if faults:
                stream.failed(self._rows.faults(number, faults))
        self._faults += [{"row": fault.row, "fault": fault.kind, "message": fault.message} for fault in faults]
        return len(outcomes.rows), [its_requests for _, its_requests in split]

    def _deliver(self) -> None:
        """Commit what has finished, then publish the fragments that have closed."""
        builders = self._builders
        closed = [item for builder in builders for item in builder.take()]
        spool = self._spool
        if spool is not None:
            each_step, fragments = self._commits()
            pieces = [piece for item in closed for piece in item.rest()] if fragments else []
            if each_step:
                pieces += [piece for builder in builders for piece in builder.pieces()]
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
        self.pull()
        while not self._may_begin(wait_for_weights):
            if stop.wait(0.02):
                return
            self.pull()
        pullers = [
            threading.Thread(
                target=stream.pull_for_ever, args=(stop, pull_period_s, self._newer), name="pull", daemon=True
            )
            for stream in self._policies
        ]
        if self._seating is not None:
            pullers.append(
                threading.Thread(
                    target=self._seating.pull_for_ever, args=(stop, pull_period_s), name="pull", daemon=True
                )
            )
        for puller in pullers:
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
        for puller in pullers:
            puller.join()

    def _may_begin(self, wait_for_weights: bool) -> bool:
        if self._seating is not None and not self._seating.ready:
            return False
        ready = all(stream.inference.ready for stream in self._policies)
        return self.version >= 0 or (ready and not wait_for_weights)

    def finish(self, grace_s: float = 0.0) -> None:
        """Publish every step that has finished within the grace; those still under way are abandoned (they were never
        produced)."""
        deadline = time.monotonic() + grace_s
        while (left_s := deadline - time.monotonic()) > 0 and self._rows.in_flight.any():
            _, ready = self._receive(min(left_s, 0.25))
            self._show(ready)
        outcomes, requests = self._pool.halt()
        split = self._rows.split(outcomes, requests)
        for stream, (its_outcomes, _) in zip(self.streams, split, strict=True):
            stream.finished(its_outcomes, time.monotonic())
        self._show([its_requests for _, its_requests in split])
        for builder in self._builders:
            builder.flush()
        self._deliver()

    def _show(self, ready: Sequence[Requests]) -> None:
        for stream, requests in zip(self.streams, ready, strict=True):
            if len(requests.rows):
                stream.show(requests)

    def cursors(self) -> dict[int, Cursor]:
        """After ``finish``: how far each environment's running episode has come, for whoever continues it.

        With several agents none: those that acted at different times have come to different steps.
        """
        if self._pool.spec.agents:
            return {}
        (builder,) = self._builders
        return builder.cursors()

    def progress(self, env_steps: int) -> None:
        """See the pool's."""
        self._pool.progress(env_steps)

    def report(self) -> dict[str, Any]:
        """What happened since the last report (episodes, faults), and totals of the pool."""
        levels = self._pool.spec.fidelities
        found = []
        for builder in self._builders:
            found += builder.episodes
            builder.episodes = []
        episodes = self._rows.take_episodes(found)
        episodes = [episode | {"fidelity": levels[episode["fidelity"]]} for episode in episodes]
        faults, self._faults = self._faults, []
        stats = self._pool.stats()
        return {
            "episodes": episodes,
            "faults": faults,
            "version": self.version,
            "inference_s": sum(stream.inference.seconds for stream in self.streams),
            "env_steps": stats.produced,
            "produced": stats.transitions,
            "frozen": sum(stream.num_frozen for stream in self.streams),
            "resets": stats.resets,
            "step_s": stats.step_s,
            "reset_s": stats.reset_s,
            "core_s": stats.core_s,
            "lifetime_s": stats.lifetime_s,
            "process_starts": stats.process_starts,
            "num_envs": self._pool.num_envs,
            "waits_for": "newer weights" if self.waits else None,
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
        for stream in self.streams:
            stream.inference.close()
        if self._spool is not None:
            self._spool.close()


def _by_level(levels: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return {level: value for level, value in zip(levels, values.tolist(), strict=False) if value}


def build_env_worker(
    pool: EnvPool,
    parts: Mapping[str, PolicyPart],
    sink: FragmentSink,
    *,
    fragment_steps: int,
    fragment_max_age_s: float | None,
    worker: int = 0,
    incarnation: int = 0,
    spool: Spool | None = None,
    durability: str = "auto",
    seating: Seating | None = None,
) -> EnvWorker:
    """An env worker over a pool, with the builders that suit the pool's hosting; ``parts``: by policy id."""
    origin = {"worker": worker, "incarnation": incarnation}
    rows = agent_rows(pool.spec, pool.num_envs, {name: part.agents for name, part in parts.items()}, origin, seating)
    builders: list[FragmentBuilder | None] = []
    for number, (its_rows, part) in enumerate(zip(rows.policies, parts.values(), strict=False)):
        if part.frozen:
            builders.append(None)
            continue
        leaves = observation_leaves(its_rows.spec.observation_space)
        action = action_leaf(its_rows.spec.action_space)
        builders.append(
            FragmentBuilder(
                its_rows.env_index,
                its_rows.agent_index,
                {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()},
                (action.shape, action.dtype),
                max_steps=fragment_steps,
                max_age_s=fragment_max_age_s,
                # rollouts are made of fragments of one length
                whole=pool.lockstep or part.admission is not None,
                worker=worker,
                incarnation=incarnation,
                policy_id=its_rows.policy_id,
                numbers=(number, len(parts)),
            )
        )
    return EnvWorker(pool, rows, list(parts.values()), builders, sink, spool, durability, seating)


def one_policy(
    policy: Policy, source: WeightsSource, admission: Admission | None = None, server: ServerLink | None = None
) -> dict[str, PolicyPart]:
    """``parts`` of ``build_env_worker`` for environments of one agent."""
    return {DEFAULT_POLICY: PolicyPart(policy, source, admission=admission, server=server)}
