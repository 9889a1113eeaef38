"""Fragments in, published weights out: secures what arrives, fills the replay, updates when the limiter allows,
checkpoints.

``receive`` may run in another thread than ``update``: appending to the log and filling the replay overlap the update.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distrl.core.accounting import Ledger
from distrl.core.checkpoint import load_latest, prune_checkpoints, save_checkpoint
from distrl.core.contracts import Algorithm
from distrl.core.errors import StorageError
from distrl.core.experience_log import ExperienceLog, read_log
from distrl.core.limiter import SamplesPerInsert
from distrl.core.policy_file import policy_files
from distrl.core.staleness import StalenessHistogram
from distrl.core.types import EnvSpec, Fragment, PolicySpec, Weights
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.replay import Replay

Publish = Callable[[int, Weights], Any]


@dataclass
class LearnerSettings:
    """Attributes: batch_size: transitions an update samples. publish_period, checkpoint_period: in updates. keep:
    checkpoints kept.
    """

    batch_size: int
    publish_period: int
    checkpoint_period: int
    keep: int
    seed: int


class Learner:
    """One learner with its own replay shard.

        learner.receive(fragment)      # secure, insert; returning is the acknowledgement
        while learner.update(): ...    # as far as the limiter allows

    A transition is identified by (episode_uid, agent_index, step): what has been secured once is not inserted again.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        replay: Replay,
        limiter: SamplesPerInsert,
        run_directory: Path,
        publish: Publish,
        settings: LearnerSettings,
        env_spec: EnvSpec,
        device: str = "cpu",
    ):
        """
        Raises:
            StorageError: the run directory cannot be written, or a resume finds only damaged checkpoints or other
            spaces.
        """
        self._algorithm, self._replay, self._limiter = algorithm, replay, limiter
        self._publish, self._settings, self._device = publish, settings, torch.device(device)
        self._directory = run_directory
        self._spaces = f"{env_spec.observation_space} → {env_spec.action_space}"
        self._insert_lock = threading.Lock()  # log, replay and ledger change together
        self._log = ExperienceLog(run_directory / "log")
        self.ledger = Ledger()
        self.staleness = StalenessHistogram()
        self.num_updates = 0
        self.metrics: dict[str, float] = {}
        self.update_s = 0.0
        self._next_step: OrderedDict[tuple[int, int], int] = (
            OrderedDict()
        )  # (episode, agent) → the step that must come next
        self.notes: list[str] = self._restore()

    # -- the experience side -------------------------------------------------------------------------------------------

    def receive(self, fragment: Fragment) -> int:
        """Secure one fragment, then make it sampleable; returns the learner's version. Returning acknowledges.

        Raises:
            StorageError: it could not be secured; nothing has changed.
        """
        with self._insert_lock:
            if not self._is_new(fragment):
                self.ledger.duplicates += fragment.num_transitions
                return self.num_updates
            self._log.append(fragment)
            self._insert(fragment)
            self.staleness.add(self.num_updates, fragment.columns["policy_version"])
        return self.num_updates

    def _is_new(self, fragment: Fragment) -> bool:
        # A fragment is secured whole or not at all, so its first step decides.
        columns = fragment.columns
        key = (int(columns["episode_uid"][0, 0]), int(columns["agent_index"][0]))
        return int(columns["step"][0, 0]) >= self._next_step.get(key, 0)

    def _insert(self, fragment: Fragment) -> None:
        columns = fragment.columns
        for row in range(fragment.num_rows):
            for t in (0, -1):  # a rectangle may begin in one episode and end in another
                key = (int(columns["episode_uid"][t, row]), int(columns["agent_index"][row]))
                self._next_step[key] = int(columns["step"][t, row]) + 1
                self._next_step.move_to_end(key)
        while len(self._next_step) > 100_000:  # far more episodes than can be on their way twice
            self._next_step.popitem(last=False)
        self.ledger.secured[fragment.incarnation] += fragment.num_transitions
        self._replay.add(fragment)
        self._limiter.inserted(fragment.num_transitions)

    # -- the gradient side ---------------------------------------------------------------------------------------------

    def update(self) -> bool:
        """One update if the limiter allows it; returns whether there was one."""
        if not self._limiter.allows_update():
            return False
        started = time.perf_counter()
        number = self.num_updates
        batch = self._replay.sample(self._settings.batch_size, sample_generator(self._settings.seed, number))
        self._limiter.sampled()
        gradients, metrics = self._algorithm.gradients(
            batch, update_generator(self._settings.seed, number, self._device)
        )
        self._algorithm.apply(gradients)
        self.metrics = metrics
        self.num_updates = number + 1
        self.update_s += time.perf_counter() - started
        if self.num_updates % self._settings.publish_period == 0:
            self.publish()
        if self.num_updates % self._settings.checkpoint_period == 0:
            self.checkpoint()
        return True

    def publish(self) -> None:
        """Offer the policy's weights to the parameter server."""
        self._publish(self.num_updates, self._algorithm.policy_weights())

    # -- what outlives the process -------------------------------------------------------------------------------------

    def checkpoint(self) -> Path:
        """Write models, optimizers and counters; the experience is referred to by its position in the log.

        Raises:
            StorageError: it cannot be written.
        """
        with self._insert_lock:
            self._log.sync()
            meta = {
                "num_updates": self.num_updates,
                "num_sampled": self._limiter.num_sampled,
                "log_records": self._log.num_records,
                "ledger": self.ledger.state(),
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
            if meta["log_records"] > self._log.num_records:
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
            self.num_updates = meta["num_updates"]
            self._limiter.num_sampled = meta["num_sampled"]
            histogram = meta["staleness"]
            self.staleness.counts[:] = histogram["counts"]
            self.staleness.total, self.staleness.sum = histogram["total"], histogram["sum"]
            records = meta["log_records"]
        for number, fragment in read_log(self._directory / "log"):
            if found and number == records:
                self._replay.restore_sampled(state["sampled"])
            self._insert(fragment)
        if found:
            if records == self._log.num_records:
                self._replay.restore_sampled(state["sampled"])
            ledger = Ledger.from_state(meta["ledger"])
            self.ledger.duplicates, self.ledger.rejected = ledger.duplicates, ledger.rejected
            notes.append(
                f"continues from checkpoint {path.name} with {self._limiter.num_inserted} transitions from the log"
            )
        return notes

    def report(self) -> dict[str, Any]:
        """Counters and newest metrics, for the supervisor."""
        return {
            "updates": self.num_updates,
            "update_s": self.update_s,
            "inserted": self._limiter.num_inserted,
            "sampled": self._limiter.num_sampled,
            "unsampled": self._replay.num_unsampled,
            "evicted": self._replay.num_evicted,
            "replay_size": len(self._replay),
            "secured": dict(self.ledger.secured),
            "duplicates": self.ledger.duplicates,
            "rejected": dict(self.ledger.rejected),
            "staleness_mean": self.staleness.mean,
            "staleness_p95": self.staleness.quantile(0.95),
            "metrics": {name: float(value) for name, value in self.metrics.items()},
        }

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


def _to_bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
