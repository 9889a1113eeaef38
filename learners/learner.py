"""Fragments in, published weights out: secures what arrives, fills the replay or queue, updates when the limiter
allows, checkpoints.

``receive`` may run in another thread than ``update``: appending to the log and filling the replay overlap the update.
Which update could first draw from which fragment is written beside the log (``arrivals.bin``), so that the updates of a
run can be repeated.
"""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distrl.core.accounting import Ledger
from distrl.core.arrivals import Arrivals
from distrl.core.checkpoint import load_latest, prune_checkpoints, save_checkpoint
from distrl.core.contracts import Algorithm, Policy, Receipt
from distrl.core.deduplication import SeenSteps
from distrl.core.errors import StorageError
from distrl.core.experience_log import ExperienceLog, read_log
from distrl.core.limiter import SamplesPerInsert
from distrl.core.log_facts import LogFacts
from distrl.core.policy_file import policy_files
from distrl.core.published_version import PublishedVersion
from distrl.core.staleness import StalenessHistogram
from distrl.core.types import EnvSpec, Fragment, PolicySpec, Weights
from distrl.core.warm_start import warm_fragments
from distrl.learners.queue import Queue, Unlogged
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.replay import Replay
from distrl.learners.rollout import Rollout

Publish = Callable[[int, Weights], Any]


def train_on(algorithm: Any, drawn: Any, seed: int, update: int, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Update ``update`` with what was drawn for it; its metrics.

    A replay's sample batch is one gradient. A queue's rollout is divided into minibatches by the algorithm, a gradient
    each; metrics are the means over them.
    """
    generator = update_generator(seed, update, device)
    batches = algorithm.minibatches(drawn, generator) if isinstance(drawn, Rollout) else [drawn]
    found: list[dict[str, Any]] = []
    for batch in batches:
        gradients, metrics = algorithm.gradients(batch, generator)
        algorithm.apply(gradients)
        found.append(metrics)
    if len(found) == 1:
        return found[0]
    return {name: torch.stack([torch.as_tensor(one[name]) for one in found]).mean() for name in found[0]}


@dataclass
class LearnerSettings:
    """Attributes: batch_size: transitions an update samples. publish_period, checkpoint_period: in updates. keep:
    checkpoints kept. sync_period_s: how often the log is forced to the disk; 0: before each fragment is acknowledged.
    warm_start: run directories whose logs fill the replay first. logged: whether there is a log; a replay needs one.
    """

    batch_size: int
    publish_period: int
    checkpoint_period: int
    keep: int
    seed: int
    sync_period_s: float = 0.0
    warm_start: Sequence[str] = ()
    logged: bool = True


class Learner:
    """One learner with its own replay shard or queue.

        learner.receive(fragment)      # log it, insert it; the receipt tells when it is secured
        while learner.update(): ...    # as far as the limiter allows

    A transition is identified by (episode_uid, agent_index, step): what has been logged once is not inserted again.

    Attributes:
        num_updates: behind the weights.
        version: what the weights are published under: ``num_updates`` and the updates that deaths of a learner have
            undone, so that a version never comes twice and never decreases.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        replay: Replay | Queue,
        limiter: SamplesPerInsert | Queue,
        run_directory: Path,
        publish: Publish,
        settings: LearnerSettings,
        env_spec: EnvSpec,
        device: str = "cpu",
        facts: LogFacts | None = None,
    ):
        """
        Args:
            limiter: a queue is its own.
            facts: what the log says about itself, for whoever reads it without the run.

        Raises:
            StorageError: the run directory cannot be written, or a resume finds only damaged checkpoints or other
            spaces.
        """
        self._algorithm, self._replay, self._limiter = algorithm, replay, limiter
        self._publish, self._settings, self._device = publish, settings, torch.device(device)
        self._directory = run_directory
        self._spaces = f"{env_spec.observation_space} → {env_spec.action_space}"
        self._insert_lock = threading.Lock()  # log, replay and ledger change together
        self._draw_lock = threading.Lock()  # a fragment is inserted before or after a draw, and it is known which
        self._log: ExperienceLog | Unlogged
        if settings.logged:
            self._log = ExperienceLog(run_directory / "log", facts=facts)
        else:
            assert isinstance(replay, Queue)
            self._log = Unlogged(replay)
            (run_directory / "log").mkdir(parents=True, exist_ok=True)
        self._arrivals = Arrivals(run_directory / "log" / "arrivals.bin")
        self._synced_at = time.monotonic()
        self.ledger = Ledger()
        self.staleness = StalenessHistogram()
        self.num_updates = 0
        self._num_drawn = 0  # updates that have drawn their batch: one more than num_updates while one is under way
        self._updates_undone = 0
        self._published = PublishedVersion(run_directory / "checkpoints" / "published")
        self.metrics: tuple[int, dict[str, float]] = (0, {})  # (after how many updates, their newest metrics)
        self.update_s = 0.0
        self._seen = SeenSteps()
        self._warm: list[int] = []  # fragments taken from each source of settings.warm_start
        self.notes: list[str] = self._restore()
        self._began = self.num_updates
        self._arrivals.began(self.num_updates, self._log.num_records)

    @property
    def version(self) -> int:
        """See the class."""
        return self.num_updates + self._updates_undone

    # -- the experience side -------------------------------------------------------------------------------------------

    def receive(self, fragment: Fragment) -> Receipt:
        """Log one fragment, then make it sampleable. What of it came before is left out.

        Raises:
            StorageError: it could not be logged; nothing has changed.
        """
        with self._insert_lock:
            new = self._seen.new_parts(fragment)
            self.ledger.duplicates += fragment.num_transitions - sum(part.num_transitions for part in new)
            for index, part in enumerate(new):
                try:
                    self._log.append(part)
                except StorageError:
                    for lost in new[index:]:  # whoever sends them again must not be taken for a duplicate
                        self._seen.forget(lost)
                    raise
                drawn = self._insert(part)
                self._arrivals.arrived(drawn, self._log.num_records)
                if isinstance(self._replay, Replay):  # what will be drawn, and when, is chance
                    self.staleness.add(self.version, part.columns["policy_version"])
            if self._settings.logged and time.monotonic() - self._synced_at >= self._settings.sync_period_s:
                self._sync()
            return Receipt(self.version, self._log.num_records, self._log.num_synced)

    def secure(self) -> int:
        """Force the log to the disk now; records of the log that are secured."""
        with self._insert_lock:
            self._sync()
            return self._log.num_synced

    def _sync(self) -> None:
        try:
            self._log.sync()
        except OSError as error:
            raise StorageError(
                f"the experience log in {self._directory} cannot be forced to its disk: {error.strerror or error}. "
                "What was acknowledged before is secured; make room or mend the disk, and continue with --resume"
            ) from error
        self._synced_at = time.monotonic()

    def _insert(self, fragment: Fragment) -> int:
        """Make a logged fragment sampleable; returns the first update that can draw from it."""
        self.ledger.secured[fragment.incarnation] += fragment.num_transitions
        with self._draw_lock:
            self._replay.add(fragment)
            drawn = self._num_drawn
        self._limiter.inserted(fragment.num_transitions)
        return drawn

    # -- the gradient side ---------------------------------------------------------------------------------------------

    def update(self) -> bool:
        """One update if the limiter allows it; returns whether there was one."""
        if not self._limiter.allows_update():
            return False
        started = time.perf_counter()
        number = self.num_updates
        with self._draw_lock:
            seed = self._settings.seed
            drawn = self._replay.sample(self._settings.batch_size, sample_generator(seed, number))
            self._num_drawn = number + 1
        if isinstance(drawn, Rollout):
            self.staleness.add(self.version, drawn.policy_version)
        metrics = train_on(self._algorithm, drawn, seed, number, self._device)
        self._limiter.sampled()
        self.num_updates = number + 1
        self.metrics = (self.num_updates, metrics)
        self.update_s += time.perf_counter() - started
        if self.num_updates % self._settings.publish_period == 0:
            self.publish()
        if self.num_updates % self._settings.checkpoint_period == 0:
            self.checkpoint()
        return True

    def publish(self) -> None:
        """Offer the policy's weights to the parameter server."""
        self._published.write(self.version)  # before anybody can act with it
        self._publish(self.version, self._algorithm.policy_weights())

    # -- what outlives the process -------------------------------------------------------------------------------------

    def checkpoint(self) -> Path:
        """Write models, optimizers and counters; the experience is referred to by its position in the log.

        Raises:
            StorageError: it cannot be written.
        """
        with self._insert_lock:
            if self._settings.logged:
                self._sync()
            meta = {
                "num_updates": self.num_updates,
                "updates_undone": self._updates_undone,
                "num_sampled": self._limiter.num_sampled,
                "log_records": self._log.num_records,
                "ledger": self._ledger_to_keep().state(),
                "warm_fragments": self._warm,
                "spaces": self._spaces,
                "staleness": {
                    "counts": self.staleness.counts.tolist(),
                    "total": self.staleness.total,
                    "sum": self.staleness.sum,
                },
            }
            sampled = self._replay.sampled_state()
        files = policy_files(self._algorithm.policy_weights(), self._algorithm.policy_spec())
        files["learner.pt"] = _to_bytes({"algorithm": self._algorithm.state(), "sampled": sampled})
        directory = self._directory / "checkpoints"
        path = save_checkpoint(directory, f"{self.num_updates:010d}", files, meta)
        prune_checkpoints(directory, self._settings.keep)
        return path

    def _ledger_to_keep(self) -> Ledger:
        """What a successor begins with: what is not logged and still waits will be sent to it again."""
        if self._settings.logged:
            return self.ledger
        assert isinstance(self._replay, Queue)
        return dataclasses.replace(self.ledger, secured=self.ledger.secured - self._replay.waiting())

    def _restore(self) -> list[str]:
        """Continue from the newest whole checkpoint and the log; returns what the user should know."""
        found = load_latest(self._directory / "checkpoints")
        notes: list[str] = []
        if self._log.num_bytes_cut:
            notes.append(
                f"the log ended in a torn record of {self._log.num_bytes_cut} bytes, which was never acknowledged and "
                "was cut off"
            )
        records = 0
        if found:
            path, files, meta, complaints = found
            notes += [f"{complaint}; continuing from {path.name}" for complaint in complaints]
            if meta["spaces"] != self._spaces:
                raise StorageError(
                    f"this run was trained on {meta['spaces']}, but the environment now has {self._spaces}: resume it "
                    "with the environment it began with"
                )
            if meta["log_records"] > self._log.num_records and self._settings.logged:
                raise StorageError(
                    f"checkpoint {path.name} refers to {meta['log_records']} fragments, but the experience log holds "
                    f"only {self._log.num_records}: "
                    "restore the log from a copy, or remove the checkpoint to continue from an older one"
                )
            state = torch.load(io.BytesIO(files["learner.pt"]), map_location=self._device, weights_only=False)
            try:
                self._algorithm.load_state(state["algorithm"])
            except ValueError as error:
                raise StorageError(f"checkpoint {path} does not fit the configuration: {error}") from None
            self.num_updates = self._num_drawn = meta["num_updates"]
            self._updates_undone = meta["updates_undone"]
            self._limiter.num_sampled = meta["num_sampled"]
            histogram = meta["staleness"]
            self.staleness.counts[:] = histogram["counts"]
            self.staleness.total, self.staleness.sum = histogram["total"], histogram["sum"]
            records = meta["log_records"]
        self._warm_up(meta["warm_fragments"] if found else None, notes)
        newest = self._published.read()
        for number, fragment in read_log(self._directory / "log") if self._settings.logged else ():
            if found and number == records:
                self._replay.restore_sampled(state["sampled"])
            self._seen.new_parts(fragment)
            self._insert(fragment)
            newest = max(newest, int(fragment.columns["policy_version"].max()))
        self._updates_undone = max(self._updates_undone, newest - self.num_updates)
        if found:
            if records == self._log.num_records:
                self._replay.restore_sampled(state["sampled"])
            ledger = Ledger.from_state(meta["ledger"])
            if self._settings.logged:
                ledger.secured = self.ledger.secured
            ledger.warm = self.ledger.warm
            self.ledger = ledger
            where = f"{sum(ledger.secured.values())} transitions from the log" if self._settings.logged else "no log"
            notes.append(f"continues from checkpoint {path.name} with {where}")
        return notes

    def _warm_up(self, limits: list[int] | None, notes: list[str]) -> None:
        """Other runs' transitions: they stand in for the first ``min_size`` ones, and no updates are owed for them."""
        sources = self._settings.warm_start
        if not isinstance(self._replay, Replay):
            return
        self._warm = add_warm(self._replay, sources, limits, notes)
        self.ledger.warm = self._replay.num_added
        self._limiter.inserted(min(self.ledger.warm, self._limiter.min_size))
        if sources and limits is None:
            notes.append(f"the replay begins with {self.ledger.warm} transitions of {', '.join(sources)}")

    def report(self) -> dict[str, Any]:
        """Counters and newest metrics, for the supervisor."""
        updates, metrics = self.metrics
        return {
            "updates": self.num_updates,
            "updates_undone": self._updates_undone,
            "version": self.version,
            "life": self._arrivals.num_lives,
            "began": self._began,
            "update_s": self.update_s,
            "inserted": sum(self.ledger.secured.values()),
            "warm": self.ledger.warm,
            "sampled": self._limiter.num_sampled,
            "unsampled": self._replay.num_unsampled,
            "evicted": self._replay.num_evicted,
            "replay_size": len(self._replay),
            "secured": dict(self.ledger.secured),
            "duplicates": self.ledger.duplicates,
            "rejected": dict(self.ledger.rejected),
            **self.staleness.summary(),
            "metrics_updates": updates,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }

    def policy(self) -> Policy:
        """As an env worker would have it now."""
        policy = self._algorithm.policy_spec().build(seed=0)
        policy.load(self._algorithm.policy_weights())
        return policy

    def policy_spec(self) -> PolicySpec:
        """The recipe of the policy whose weights are published."""
        return self._algorithm.policy_spec()

    def wait(self, timeout_s: float) -> bool:
        """Until an update is allowed or the time is over; returns whether it is allowed."""
        return self._limiter.wait(timeout_s)

    def waits_for(self) -> str:
        """What the next update waits for, as one sentence."""
        return self._limiter.waits_for()

    def close(self) -> None:
        """Close the log; harmless when repeated."""
        self._log.close()
        self._arrivals.close()
        self._published.close()


def add_warm(
    replay: Replay, sources: Sequence[str], limits: Sequence[int] | None, damaged: list[str] | None = None
) -> list[int]:
    """Fill a replay from other runs' logs; fragments taken from each. See ``warm_fragments``."""
    counts = [0] * len(sources)
    for index, fragment in warm_fragments(sources, limits, damaged=damaged):
        replay.add(fragment)
        counts[index] += 1
    return counts


def _to_bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
