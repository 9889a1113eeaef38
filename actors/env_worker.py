"""The one loop over any pool: rows that are ready go through the policy and back, finished steps become fragments and
are published.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from distrl.actors.fragment_builder import FragmentBuilder
from distrl.core.contracts import EnvPool, FragmentSink, Policy, Requests, WeightsSource
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.types import Columns


class EnvWorker:
    """Keeps every environment of a pool busy.

    One round (``run_once``): receive whatever is ready, one inference for all rows that want an action, send the
    actions, then do the bookkeeping while the environments compute. Weights are pulled elsewhere (``pull``), never
    between a row's outcome and its next action; a worker whose parameter server is away acts on with what it has.
    """

    def __init__(
        self,
        pool: EnvPool,
        policy: Policy,
        builder: FragmentBuilder,
        sink: FragmentSink,
        source: WeightsSource,
    ):
        self._pool, self._policy, self._builder, self._sink, self._source = pool, policy, builder, sink, source
        self._state: Columns = policy.initial_state(len(pool.env_index))
        self._initial_state = policy.initial_state(1)
        self.version = -1  # of the weights that act now; −1 before the first pull
        self._faults: list[dict[str, Any]] = []
        self._inference_s = 0.0

    def pull(self) -> bool:
        """Take newer weights where there are any; returns whether there were."""
        newer = self._source.pull_if_newer(self.version)
        if newer is None:
            return False
        version, weights = newer
        self._policy.load(weights)
        self.version = version
        return True

    def run_once(self, timeout_s: float) -> int:
        """One round; returns the number of steps that finished."""
        outcomes, requests, faults = self._pool.recv(timeout_s)
        now = time.monotonic()
        self._builder.finished(outcomes, now)
        if faults:
            self._builder.failed(faults)
            self._faults += [{"row": fault.row, "fault": fault.kind, "message": fault.message} for fault in faults]
        if len(requests.rows):
            self._act(requests)
        self._builder.close_aged(now)
        for fragment in self._builder.take():
            self._sink.publish(fragment)
        return len(outcomes.rows)

    def _act(self, requests: Requests, send: bool = True) -> None:
        rows, version = requests.rows, max(self.version, 0)  # before the first weights, no update is behind the actions
        state = {path: array[rows] for path, array in self._state.items()}
        for path, initial in self._initial_state.items():
            state[path][requests.is_first] = initial
        started = time.perf_counter()
        action, log_prob, next_state = self._policy.step(requests.observation, state, requests.is_first, requests.mask)
        self._inference_s += time.perf_counter() - started
        if send:
            self._pool.send(action, rows)
        for path, array in next_state.items():
            self._state[path][rows] = array
        self._builder.requested(requests, action, log_prob, version, state)

    def run(self, stop: threading.Event, pull_period_s: float, wait_for_weights: bool) -> None:
        """Until ``stop``: act, with weights pulled by a thread of its own; then publish what is open.

        ``wait_for_weights``: do not begin before the first pull, even with a policy that can act untrained.
        """
        while not self.pull() and (wait_for_weights or not self._policy.ready):
            if stop.wait(0.02):
                return
        puller = threading.Thread(target=self._pull_for_ever, args=(stop, pull_period_s), name="pull", daemon=True)
        puller.start()
        while not stop.is_set():
            self.run_once(timeout_s=0.25)
        self.finish()
        puller.join()

    def _pull_for_ever(self, stop: threading.Event, period_s: float) -> None:
        while not stop.wait(period_s):
            self.pull()

    def finish(self) -> None:
        """Publish every step that has finished; those under way are abandoned (they were never produced)."""
        outcomes, requests = self._pool.halt()
        self._builder.finished(outcomes, time.monotonic())
        if len(requests.rows):
            self._act(requests, send=False)  # writes the observations that the last steps bootstrap from
        self._builder.flush()
        for fragment in self._builder.take():
            self._sink.publish(fragment)

    def report(self) -> dict[str, Any]:
        """What happened since the last report (episodes, faults), and totals of the pool."""
        episodes, self._builder.episodes = self._builder.episodes, []
        faults, self._faults = self._faults, []
        stats = self._pool.stats()
        return {
            "episodes": episodes,
            "faults": faults,
            "version": self.version,
            "inference_s": self._inference_s,
            "produced": stats.produced,
            "resets": stats.resets,
            "step_s": stats.step_s,
            "reset_s": stats.reset_s,
            "core_s": stats.core_s,
            "lifetime_s": stats.lifetime_s,
            "process_starts": stats.process_starts,
            "num_envs": self._pool.num_envs,
        }

    def close(self) -> None:
        """End the environments."""
        self._pool.close()


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
) -> EnvWorker:
    """An env worker over a pool, with the builder that suits the pool's hosting."""
    leaves = observation_leaves(pool.spec.observation_space)
    action = action_leaf(pool.spec.action_space)
    builder = FragmentBuilder(
        pool.env_index,
        pool.agent_index,
        {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()},
        (action.shape, action.dtype),
        max_steps=fragment_steps,
        max_age_s=fragment_max_age_s,
        grouped=pool.lockstep,
        worker=worker,
        incarnation=incarnation,
    )
    return EnvWorker(pool, policy, builder, sink, source)
