"""Fragments in, published weights out: secures what arrives, gives it to the trainer of its policy, lets each update
when its limiter allows, checkpoints.

``receive`` may run in another thread than ``update``: appending to the log and filling the replay overlap the update.
Which update could first draw from which fragment is written beside the log (``arrivals.bin``), so that the updates of a
run can be repeated.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distrl.core.accounting import Ledger
from distrl.core.arrivals import Arrivals
from distrl.core.checkpoint import LEARNER, load_initial, load_latest, prune_checkpoints, save_checkpoint
from distrl.core.contracts import Receipt
from distrl.core.deduplication import SeenSteps
from distrl.core.errors import RunFailed, StorageError
from distrl.core.experience_log import ExperienceLog, read_log
from distrl.core.histogram import LogHistogram
from distrl.core.log_facts import LogFacts
from distrl.core.policy_file import policy_files
from distrl.core.published_version import PublishedVersion
from distrl.core.staleness import StalenessHistogram
from distrl.core.types import DEFAULT_POLICY, Fragment
from distrl.core.warm_start import warm_fragments
from distrl.learners.league.league import League
from distrl.learners.queue import Queue, Unlogged
from distrl.learners.replay import Replay
from distrl.learners.trainer import FrozenPolicy, PolicyTrainer, from_bytes, to_bytes

_LOOK_S = 0.002  # between two looks at several limiters


@dataclass
class LearnerSettings:
    """Attributes: checkpoint_period: in updates of all policies together. keep: checkpoints kept. sync_period_s: how
    often the log is forced to the disk; 0: before each fragment is acknowledged. warm_start: run directories whose logs
    fill the replay first. warm_limits: fragments that the first start takes of each, or None: all. logged: whether
    there is a log; a replay needs one.
    """

    checkpoint_period: int
    keep: int
    sync_period_s: float = 0.0
    warm_start: Sequence[str] = ()
    warm_limits: list[int] | None = None
    logged: bool = True


class Learner:
    """One learner process: one log, and a trainer for each policy.

        learner.receive(fragment)      # log it, insert it; the receipt tells when it is secured
        while learner.update(): ...    # as far as the limiters allow, one policy after the other

    A transition is identified by (episode_uid, agent_index, step): what has been logged once is not inserted again.

    Attributes:
        trainers: by policy.
    """

    def __init__(
        self,
        trainers: Sequence[PolicyTrainer],
        run_directory: Path,
        settings: LearnerSettings,
        device: str = "cpu",
        facts: LogFacts | None = None,
        frozen: Mapping[str, FrozenPolicy] | None = None,
        league: League | None = None,
    ):
        """
        Args:
            facts: what the log says about itself, for whoever reads it without the run.
            frozen: policies that act and do not learn, by name.
            league: of the trainers' policies.

        Raises:
            StorageError: the run directory cannot be written, or a resume finds only damaged checkpoints or other
            spaces.
        """
        self.trainers = {trainer.policy_id: trainer for trainer in trainers}
        self._turns, self._frozen, self._league = itertools.cycle(trainers), frozen or {}, league
        self._settings, self._device = settings, torch.device(device)
        self._directory = run_directory
        self._insert_lock = threading.Lock()  # log, replay and ledger change together
        self._log: ExperienceLog | Unlogged
        if settings.logged:
            self._log = ExperienceLog(run_directory / "log", facts=facts)
        else:
            self._log = Unlogged(self._queues())
            (run_directory / "log").mkdir(parents=True, exist_ok=True)
        self._arrivals = Arrivals(run_directory / "log" / "arrivals.bin")
        self._synced_at = time.monotonic()
        self.ledger = Ledger()
        self._seen = SeenSteps()
        self._warm: list[int] = []  # fragments taken from each source of settings.warm_start
        self.notes: list[str] = self._restore()
        self._began = self.num_updates
        self._arrivals.began(self.num_updates, self._log.num_records)

    @property
    def num_updates(self) -> int:
        """Of all policies."""
        return sum(trainer.num_updates for trainer in self.trainers.values())

    @property
    def version(self) -> int:
        """Of all policies' weights together."""
        return sum(trainer.version for trainer in self.trainers.values())

    @property
    def update_s(self) -> float:
        """Wall seconds of all updates."""
        return sum(trainer.update_s for trainer in self.trainers.values())

    # -- the experience side -------------------------------------------------------------------------------------------

    def receive(self, fragment: Fragment) -> Receipt:
        """Log one fragment, then make it sampleable. What of it came before is left out.

        Raises:
            StorageError: it could not be logged; nothing has changed. RunFailed: it is of a policy without a trainer.
        """
        trainer = self.trainers.get(fragment.policy_id)
        if trainer is None:
            raise RunFailed(
                f"a fragment of policy {fragment.policy_id!r} has come, but {', '.join(self.trainers)} are trained here"
            )
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
                drawn = self._insert(trainer, part)
                self._arrivals.arrived(drawn, self._log.num_records)
                trainer.arrived(part)
            if self._settings.logged and time.monotonic() - self._synced_at >= self._settings.sync_period_s:
                self._sync()
            return Receipt(trainer.version, self._log.num_records, self._log.num_synced)

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

    def _insert(self, trainer: PolicyTrainer, fragment: Fragment) -> int:
        """Make a logged fragment sampleable; returns the first update that can draw from it."""
        self.ledger.secured[fragment.incarnation] += fragment.num_transitions
        return trainer.insert(fragment)

    def _queues(self) -> dict[str, Queue]:
        queues = {}
        for name, trainer in self.trainers.items():
            assert isinstance(trainer.store, Queue)
            queues[name] = trainer.store
        return queues

    # -- the gradient side ---------------------------------------------------------------------------------------------

    def update(self) -> bool:
        """One update of the next policy whose limiter allows it; returns whether there was one."""
        for _ in self.trainers:
            trainer = next(self._turns)
            if trainer.update():
                self._play_on(trainer)
                if self.num_updates % self._settings.checkpoint_period == 0:
                    self.checkpoint()
                return True
        return False

    def leave(self) -> None:
        """Tell the other learners, if there are any, that no update will come any more."""
        for trainer in self.trainers.values():
            trainer.leave()

    def _play_on(self, trainer: PolicyTrainer) -> None:
        """The league's part of an update."""
        if self._league is None:
            return
        change = self._league.after_update(
            trainer.policy_id, trainer.version, trainer.policy_weights, trainer.policy_spec
        )
        if change.reset:
            trainer.begin_again()  # published with the next update, which has a version of its own

    def publish(self) -> None:
        """Offer all policies' weights to the parameter server."""
        for trainer in self.trainers.values():
            trainer.publish()
        for policy in self._frozen.values():
            policy.publish(0, policy.weights)
        if self._league is not None:
            self._league.publish()

    # -- what outlives the process -------------------------------------------------------------------------------------

    def checkpoint(self) -> Path:
        """Write models, optimizers and counters; the experience is referred to by its position in the log.

        Raises:
            StorageError: it cannot be written.
        """
        # not under the lock: it may wait for a parameter shard, and who holds up ``receive`` does not hear of another
        algorithms = {name: trainer.algorithm_state() for name, trainer in self.trainers.items()}
        with self._insert_lock:
            if self._settings.logged:
                self._sync()
            meta = {
                "num_updates": self.num_updates,
                "policies": {name: trainer.facts() for name, trainer in self.trainers.items()},
                "log_records": self._log.num_records,
                "ledger": self._ledger_to_keep().state(),
                "warm_fragments": self._warm,
            }
            states = {name: trainer.state(algorithms[name]) for name, trainer in self.trainers.items()}
        files = {name: content for trainer in self.trainers.values() for name, content in trainer.files().items()}
        for name, policy in self._frozen.items():
            files |= policy_files(policy.weights, policy.spec, name)
        files[LEARNER] = to_bytes(states)
        directory = self._directory / "checkpoints"
        path = save_checkpoint(directory, f"{self.num_updates:010d}", files, meta)
        prune_checkpoints(directory, self._settings.keep)
        return path

    def _ledger_to_keep(self) -> Ledger:
        """What a successor begins with: what is not logged and still waits will be sent to it again."""
        if self._settings.logged:
            return self.ledger
        waiting = sum((queue.waiting() for queue in self._queues().values()), Counter())
        return dataclasses.replace(self.ledger, secured=self.ledger.secured - waiting)

    def _restore(self) -> list[str]:
        """Continue from the newest whole checkpoint and the log; returns what the user should know."""
        found = load_latest(self._directory / "checkpoints")
        notes: list[str] = []
        if self._log.num_bytes_cut:
            notes.append(
                f"the log ended in a torn record of {self._log.num_bytes_cut} bytes, which was never acknowledged and "
                "was cut off"
            )
        records, states = 0, {}
        if self._league is not None:
            for trainer in self.trainers.values():
                trainer.keep_first()
        if found:
            path, files, meta, complaints = found
            notes += [f"{complaint}; continuing from {path.name}" for complaint in complaints]
            if set(meta["policies"]) != set(self.trainers):
                raise StorageError(
                    f"this run trained the policies {', '.join(meta['policies'])}, but the configuration has "
                    f"{', '.join(self.trainers)}: resume it with those that it began with"
                )
            if meta["log_records"] > self._log.num_records and self._settings.logged:
                raise StorageError(
                    f"checkpoint {path.name} refers to {meta['log_records']} fragments, but the experience log holds "
                    f"only {self._log.num_records}: "
                    "restore the log from a copy, or remove the checkpoint to continue from an older one"
                )
            states = from_bytes(files[LEARNER], self._device)
            for name, trainer in self.trainers.items():
                trainer.restore(meta["policies"][name], states[name], str(path))
                if self._league is not None and self._league.players.resets[name] > trainer.version:
                    trainer.begin_again()  # it had, after the checkpoint
            records = meta["log_records"]
        else:
            self._start_from(notes)
        self._warm_up(meta["warm_fragments"] if found else self._settings.warm_limits, notes)
        newest = {name: trainer.keep_published(self._published(name)) for name, trainer in self.trainers.items()}
        for number, fragment in read_log(self._directory / "log", alone=True) if self._settings.logged else ():
            if found and number == records:
                self._restore_sampled(states)
            self._seen.new_parts(fragment)
            self._insert(self.trainers[fragment.policy_id], fragment)
            version = int(fragment.columns["policy_version"].max())
            newest[fragment.policy_id] = max(newest[fragment.policy_id], version)
        for name, trainer in self.trainers.items():
            trainer.updates_undone = max(trainer.updates_undone, newest[name] - trainer.num_updates)
        if found:
            if records == self._log.num_records:
                self._restore_sampled(states)
            ledger = Ledger.from_state(meta["ledger"])
            if self._settings.logged:
                ledger.secured = self.ledger.secured
            ledger.warm = self.ledger.warm
            self.ledger = ledger
            where = f"{sum(ledger.secured.values())} transitions from the log" if self._settings.logged else "no log"
            notes.append(f"continues from checkpoint {path.name} with {where}")
        return notes

    def _start_from(self, notes: list[str]) -> None:
        """Take networks and optimizers from another run's checkpoint, where the run directory holds one."""
        initial = load_initial(self._directory / "checkpoints")
        if initial is None:
            return
        files, meta = initial
        if set(meta["policies"]) != set(self.trainers):
            raise StorageError(
                f"learner.start_from holds the policies {', '.join(meta['policies'])}, but the configuration has "
                f"{', '.join(self.trainers)}: start from a run with the same policies"
            )
        states = from_bytes(files[LEARNER], self._device)
        for name, trainer in self.trainers.items():
            trainer.start_from(meta["policies"][name], states[name])
        notes.append(f"starts from the networks of another run, after {meta['num_updates']} updates")

    def _published(self, policy_id: str) -> PublishedVersion:
        suffix = "" if policy_id == DEFAULT_POLICY else f"-{policy_id}"
        return PublishedVersion(self._directory / "checkpoints" / f"published{suffix}")

    def _restore_sampled(self, states: dict[str, Any]) -> None:
        for name, trainer in self.trainers.items():
            trainer.store.restore_sampled(states[name]["sampled"])

    def _warm_up(self, limits: list[int] | None, notes: list[str]) -> None:
        """Other runs' transitions, each for the policy of its name."""
        sources = self._settings.warm_start
        stores = {name: trainer.store for name, trainer in self.trainers.items() if isinstance(trainer.store, Replay)}
        if not stores:
            return
        self._warm = add_warm(stores, sources, limits, notes)
        for name, store in stores.items():
            self.ledger.warm += store.num_added
            self.trainers[name].warmed(store.num_added)
        if sources and limits is None:
            notes.append(f"the replay begins with {self.ledger.warm} transitions of {', '.join(sources)}")

    def report(self) -> dict[str, Any]:
        """Counters and newest metrics, for the supervisor; of several policies the sums, ``metrics`` by "policy/name",
        and ``staleness_by_policy``, each as ``StalenessHistogram.summary``; ``waits_for``: see there, or None."""
        reports = {name: trainer.report() for name, trainer in self.trainers.items()}
        staleness, step_us = StalenessHistogram(), LogHistogram()
        trainers = self.trainers.items()
        for _, trainer in trainers:
            staleness.include(trainer.staleness)
            step_us.include(trainer.step_us)
        alone = len(reports) == 1
        metrics = {
            name if alone else f"{policy}/{name}": value
            for policy, report in reports.items()
            for name, value in report["metrics"].items()
        }
        if self._league is not None:
            metrics |= {f"league/{name}": value for name, value in self._league.report().items()}
        counts = ("updates", "updates_undone", "version", "update_s", "sampled", "unsampled", "evicted", "replay_size")
        return {
            **{name: sum(report[name] for report in reports.values()) for name in (*counts, "metrics_updates")},
            "life": self._arrivals.num_lives,
            "began": self._began,
            "inserted": sum(self.ledger.secured.values()),
            "warm": self.ledger.warm,
            "secured": dict(self.ledger.secured),
            "duplicates": self.ledger.duplicates,
            "rejected": dict(self.ledger.rejected),
            **staleness.summary(),
            **({} if alone else {"staleness_by_policy": {name: its.staleness.summary() for name, its in trainers}}),
            "step_s_counts": [[most * 1e-6, count] for most, count in step_us.bins()],
            "metrics": metrics,
            "waits_for": None if any(map(PolicyTrainer.allows_update, self.trainers.values())) else self.waits_for(),
        }

    def wait(self, timeout_s: float) -> bool:
        """Until an update is allowed or the time is over; returns whether it is allowed."""
        trainers = list(self.trainers.values())
        if len(trainers) == 1:
            return trainers[0].wait(timeout_s)
        deadline = time.monotonic() + timeout_s
        while not (allowed := any(trainer.allows_update() for trainer in trainers)) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return allowed

    def lacking(self) -> dict[str, tuple[int, int]]:
        """See ``FragmentSink``."""
        found = {name: trainer.lacking() for name, trainer in self.trainers.items()}
        return {name: (self.trainers[name].version, count) for name, count in found.items() if count}

    def waits_for(self) -> str:
        """What the next update waits for, as one sentence."""
        waits = {name: trainer.waits_for() for name, trainer in self.trainers.items()}
        if len(waits) == 1:
            return next(iter(waits.values()))
        return "; ".join(f"{name}: {what}" for name, what in waits.items())

    def close(self) -> None:
        """Close the log; harmless when repeated."""
        self._log.close()
        self._arrivals.close()
        if self._league is not None:
            self._league.close()
        for trainer in self.trainers.values():
            trainer.close()


def add_warm(
    stores: dict[str, Replay], sources: Sequence[str], limits: Sequence[int] | None, damaged: list[str] | None = None
) -> list[int]:
    """Fill policies' replays from other runs' logs; fragments taken from each. See ``warm_fragments``."""
    counts = [0] * len(sources)
    for index, fragment in warm_fragments(sources, limits, damaged=damaged):
        if fragment.policy_id in stores:
            stores[fragment.policy_id].add(fragment)
        counts[index] += 1
    return counts
