"""One policy's side of the learner: transitions in, weights under a version out, an update whenever the limiter allows.

Inserting may happen in another thread than updating: a fragment is in before or after a draw, and it is known which.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distrl.core.contracts import Algorithm, Policy
from distrl.core.errors import StorageError
from distrl.core.histogram import LogHistogram
from distrl.core.limiter import SamplesPerInsert
from distrl.core.policy_file import policy_files
from distrl.core.published_version import PublishedVersion
from distrl.core.staleness import StalenessHistogram
from distrl.core.types import DEFAULT_POLICY, EnvSpec, Fragment, PolicySpec, Weights
from distrl.learners.episode_queue import EpisodeQueue
from distrl.learners.queue import Queue
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.replay import Replay, SampleBatch
from distrl.learners.rollout import Rollout
from distrl.learners.sharded_optimizer import ShardedOptimizer, ShardLink
from distrl.learners.together import Group

Publish = Callable[[int, Weights], Any]


def train_on(algorithm: Any, drawn: Any, seed: int, update: int, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Update ``update`` with what was drawn for it; its metrics.

    A replay's sample batch is one gradient. A queue's rollout is divided into minibatches by the algorithm, a gradient
    each; metrics are the means over them.
    """
    generator = update_generator(seed, update, device)
    batches = algorithm.minibatches(drawn, generator) if isinstance(drawn, Rollout) else [drawn]
    count, total = 0, dict[str, Any]()
    for batch in batches:
        gradients, metrics = algorithm.gradients(batch, generator)
        algorithm.apply(gradients)
        if not isinstance(drawn, Rollout):
            return metrics
        # a sum of its own, as metrics are valid until the next gradients
        count += 1
        total = {name: total.get(name, 0.0) + value for name, value in metrics.items()}
    return {name: value / count for name, value in total.items()}


@dataclass(frozen=True)
class FrozenPolicy:
    """One that acts and does not learn. Attributes: spec: its recipe. publish: see ``PolicyTrainer``."""

    spec: PolicySpec
    weights: Weights
    publish: Publish


@dataclass(frozen=True)
class TrainerSettings:
    """Attributes: batch_size: transitions an update samples. publish_period: in updates. seed: of what is sampled."""

    batch_size: int
    publish_period: int
    seed: int


class PolicyTrainer:
    """Trains one policy.

        trainer.insert(fragment)
        while trainer.update(): ...    # as far as the limiter allows

    Args:
        limiter: a queue is its own.
        publish: offers (version, weights) to the parameter server.

    Attributes:
        policy_id: whose. store: what it draws from. staleness: of what it trains on.
        step_us: times of the steps that have come in this life, in microseconds.
        num_updates: behind the weights.
        num_drawn: updates that have drawn their batch: one more than ``num_updates`` while one is under way.
        updates_undone: by deaths of a learner.
        metrics: (after how many updates, their newest metrics). update_s: wall seconds of all updates.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        store: Replay | Queue,
        limiter: SamplesPerInsert | Queue,
        publish: Publish,
        settings: TrainerSettings,
        env_spec: EnvSpec,
        device: str = "cpu",
        policy_id: str = DEFAULT_POLICY,
    ):
        self.policy_id, self.store = policy_id, store
        self._algorithm, self._limiter, self._publish, self._settings = algorithm, limiter, publish, settings
        self._device = torch.device(device)
        self._spaces = f"{env_spec.observation_space} → {env_spec.action_space}"
        self._draw_lock = threading.Lock()
        self._published: PublishedVersion | None = None
        self._first: bytes | None = None
        self.staleness, self.step_us = StalenessHistogram(), LogHistogram()
        self.num_updates = self.num_drawn = self.updates_undone = 0
        self.metrics: tuple[int, dict[str, float]] = (0, {})
        self.update_s = 0.0
        self._group: Group | None = None
        self._group_ended = False
        self._sharded: ShardedOptimizer | None = None

    @property
    def version(self) -> int:
        """What the weights are published under: updates, and those that deaths of a learner have undone, so that a
        version never comes twice and never decreases; or the parameter shards' version."""
        return self.num_updates + self.updates_undone if self._sharded is None else self._sharded.version

    # -- transitions ---------------------------------------------------------------------------------------------------

    def insert(self, fragment: Fragment) -> int:
        """Make a logged fragment sampleable; returns the first update that can draw from it."""
        with self._draw_lock:
            self.store.add(fragment)
            drawn = self.num_drawn
        self._limiter.inserted(fragment.num_transitions)
        return drawn

    def arrived(self, fragment: Fragment) -> None:
        """A fragment has come while training."""
        step_s = fragment.columns["end_s"] - fragment.columns["start_s"]
        self.step_us.count(np.maximum(step_s * 1e6, 0).astype(np.int64))
        if isinstance(self.store, Replay):  # what will be drawn, and when, is chance
            self.staleness.add(self.version, fragment.columns["policy_version"])

    def warmed(self, count: int) -> None:
        """So many transitions of other runs stand in for the first ``min_size`` ones, and no updates are owed for
        them."""
        self._limiter.inserted(min(count, self._limiter.min_size))

    # -- updates -------------------------------------------------------------------------------------------------------

    def update(self) -> bool:
        """One update if the limiter allows it; returns whether there was one.

        Raises:
            LearnerLost: another learner of the group has gone without a word.
        """
        if not (self._limiter.allows_update() if self._group is None else self._group_allows(self._group)):
            if self._sharded is not None:
                self._sharded.rest()
            return False
        if self._sharded is not None:
            self._sharded.refresh()
        started = time.perf_counter()
        number = self.num_updates
        with self._draw_lock:
            seed = self._settings.seed
            drawn: Any = self.store.sample(self._settings.batch_size, sample_generator(seed, number))
            self.num_drawn = number + 1
        if isinstance(drawn, Rollout):
            self.staleness.add(self.version, drawn.policy_version)
        elif isinstance(self.store, EpisodeQueue):
            for fragment in drawn:
                self.staleness.add(self.version, fragment.columns["policy_version"])
        metrics = train_on(self._algorithm, drawn, seed, number, self._device)
        if self._sharded is not None:
            metrics["gradient_staleness"] = self._sharded.staleness
        if isinstance(drawn, SampleBatch) and isinstance(self.store, Replay):
            self.store.learned(drawn)
        self._limiter.sampled()
        self.num_updates = number + 1
        self.metrics = (self.num_updates, metrics)
        self.update_s += time.perf_counter() - started
        if self.num_updates % self._settings.publish_period == 0:
            self.publish()
        return True

    def join(self, group: Group) -> None:
        """Train in step with other learners, from now on: each update of all is common, and so are the models, which
        are those of the first learner now.

        Raises:
            LearnerLost: another learner has gone without a word.
        """
        facts = {"updates": self.num_updates, "undone": self.updates_undone, "state": self._algorithm.state()}
        facts = from_bytes(group.from_first(to_bytes(facts) if group.rank == 0 else b""), self._device)
        self._algorithm.load_state(facts["state"])
        self.num_updates = self.num_drawn = facts["updates"]
        self.updates_undone = facts["undone"]
        algorithm: Any = self._algorithm
        algorithm.optimizer.together = self._group = group

    def share(self, links: Sequence[ShardLink], learner: str, first: bool) -> None:
        """Train the parameters that shards hold, together with other learners, from now on.

        Args:
            learner: unique in the run, for each life of a learner. first: whether the shards begin with these models.
        """
        algorithm: Any = self._algorithm
        self._sharded = ShardedOptimizer(algorithm.optimizer.trained, links, learner, first)
        self._sharded.updates = algorithm.optimizer.updates
        algorithm.optimizer = self._sharded

    def leave(self) -> None:
        """Tell the other learners, if there are any, that no update will come any more; harmless when repeated."""
        if self._group is not None and not self._group_ended:
            self._group_allows(self._group, leaving=True)
        if self._sharded is not None:
            self._sharded.rest()

    def _group_allows(self, group: Group, leaving: bool = False) -> bool:
        """Whether all learners of the group may do their next update; all get the same answer."""
        limiter = self._limiter
        if self._group_ended:
            return False
        own = (limiter.num_inserted, limiter.num_sampled, not limiter.can_sample(), leaving)
        inserted, sampled, unable, gone = group.sum(torch.tensor(own, dtype=torch.int64)).tolist()
        self._group_ended = gone > 0
        return not unable and not gone and limiter.allows(inserted, sampled, group.size)

    def publish(self) -> None:
        """Offer the policy's weights to the parameter server."""
        if self._published is not None:
            self._published.write(self.version)  # before anybody can act with it
        self._publish(self.version, self._algorithm.policy_weights())

    def allows_update(self) -> bool:
        """Whether the next update may start now."""
        return self._limiter.allows_update()

    def lacking(self) -> int:
        """Transitions that a queue lacks for the next update, where none is under way; 0 of a replay."""
        if isinstance(self.store, Replay) or self.num_drawn > self.num_updates:
            return 0
        return max(0, self.store.batch_size - self.store.num_unsampled)

    def waits_for(self) -> str:
        """What the next update waits for, as one sentence."""
        return self._limiter.waits_for()

    def wait(self, timeout_s: float) -> bool:
        """Until an update is allowed or the time is over; returns whether it is allowed."""
        return self._limiter.wait(timeout_s)

    def policy_spec(self) -> PolicySpec:
        """The recipe of the policy whose weights are published."""
        return self._algorithm.policy_spec()

    def policy_weights(self) -> Weights:
        """What would be published now."""
        return self._algorithm.policy_weights()

    def policy(self) -> Policy:
        """As an env worker would have it now."""
        policy = self.policy_spec().build(seed=0)
        policy.load(self.policy_weights())
        return policy

    def options(self) -> dict[str, Any]:
        """The hyperparameters that the algorithm holds, whatever it was restored from."""
        return self._algorithm.config.model_dump(mode="json")

    def keep_first(self) -> None:
        """Remember the models and optimizers as they are now, before anything is restored, for ``begin_again``."""
        self._first = to_bytes(self._algorithm.state())

    def begin_again(self) -> None:
        """Go back to what ``keep_first`` kept. Experience and counters stay."""
        assert self._first is not None
        self._algorithm.load_state(from_bytes(self._first, self._device))

    # -- what outlives the process -------------------------------------------------------------------------------------

    def keep_published(self, published: PublishedVersion) -> int:
        """Write the version to a file before it is published, from now on; the version that was there."""
        self._published = published
        return published.read()

    def facts(self) -> dict[str, Any]:
        """Counters for a checkpoint, plain data."""
        return {
            "num_updates": self.num_updates,
            "updates_undone": self.updates_undone,
            "num_sampled": self._limiter.num_sampled,
            "spaces": self._spaces,
            "staleness": {
                "counts": self.staleness.counts.tolist(),
                "total": self.staleness.total,
                "sum": self.staleness.sum,
            },
        }

    def algorithm_state(self) -> dict[str, Any]:
        """Models and optimizers; where shards have those, it waits for them."""
        return self._algorithm.state()

    def state(self, algorithm: dict[str, Any]) -> dict[str, Any]:
        """What ``algorithm_state`` gave, and which transitions have been sampled, for ``torch.save``."""
        return {"algorithm": algorithm, "sampled": self.store.sampled_state()}

    def files(self) -> dict[str, bytes]:
        """The policy's, for ``load_policy``."""
        return policy_files(self._algorithm.policy_weights(), self._algorithm.policy_spec(), self.policy_id)

    def restore(self, facts: dict[str, Any], state: dict[str, Any], checkpoint: str) -> None:
        """Continue from a checkpoint; then come the log's fragments, and ``restore_sampled``.

        Raises:
            StorageError: it was trained with other spaces or another configuration.
        """
        self._load(facts, state, f"checkpoint {checkpoint}")
        self.num_updates = self.num_drawn = facts["num_updates"]
        self.updates_undone = facts["updates_undone"]
        self._limiter.num_sampled = facts["num_sampled"]
        histogram = facts["staleness"]
        self.staleness.counts[:] = histogram["counts"]
        self.staleness.total, self.staleness.sum = histogram["total"], histogram["sum"]

    def start_from(self, facts: dict[str, Any], state: dict[str, Any]) -> None:
        """Take networks and optimizers of another run's checkpoint; counters begin at 0.

        Raises:
            StorageError: it was trained with other spaces or networks.
        """
        self._load(facts, state, "learner.start_from")

    def _load(self, facts: dict[str, Any], state: dict[str, Any], what: str) -> None:
        """Learning rates and all other hyperparameters stay those of the configuration."""
        if facts["spaces"] != self._spaces:
            raise StorageError(
                f"{what} was trained on {facts['spaces']}, but the environment now has {self._spaces}: take the "
                "environment it began with"
            )
        try:
            self._algorithm.load_state(state["algorithm"])
        except ValueError as error:
            raise StorageError(f"{what} does not fit the configuration: {error}") from None

    def report(self) -> dict[str, Any]:
        """Counters and newest metrics."""
        updates, metrics = self.metrics
        return {
            "updates": self.num_updates,
            "updates_undone": self.updates_undone,
            "version": self.version,
            "update_s": self.update_s,
            "sampled": self._limiter.num_sampled,
            "unsampled": self.store.num_unsampled,
            "evicted": self.store.num_evicted,
            "replay_size": len(self.store),
            "metrics_updates": updates,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }

    def close(self) -> None:
        """Close the file of ``keep_published``."""
        if self._published is not None:
            self._published.close()


def to_bytes(state: Any) -> bytes:
    """Tensors and plain data, as ``from_bytes`` reads them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(content: bytes, device: torch.device) -> Any:
    """What ``to_bytes`` wrote, with its tensors on a device."""
    return torch.load(io.BytesIO(content), map_location=device, weights_only=False)
