"""Where a run leaves everything: names of the files, who began it, and which worker lives it has had.

run.json            id, version, environment, sessions          summary.json       the totals at the end
config.toml         the whole configuration                     log/               every fragment, in order of arrival
metrics.jsonl       deterministic quantities                    checkpoints/       what a resume starts from, and best/
timing.jsonl        measured ones                               media/             curves and films
events.jsonl        starts, faults, restarts, checkpoints
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from distrl.core.checkpoint import keep_initial, newest_checkpoint
from distrl.core.config import RunConfig, to_toml
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import LEARNERS
from distrl.core.metrics import write_json

_OWNER = "owner"  # file in a scratch folder: process id of the driver


def scratch_directory(run_id: str) -> Path:
    """Node-local folder of a run for shared memory and counters; in memory where the system offers that."""
    return _scratch_base() / f"distrl-{run_id}"


def own_scratch(run_id: str) -> Path:
    """``scratch_directory``, made and marked as this process's; removes what killed processes have left in theirs."""
    for folder in _scratch_base().glob("distrl-*"):
        with contextlib.suppress(OSError, ValueError):
            if not Path(f"/proc/{int((folder / _OWNER).read_text())}").exists():
                shutil.rmtree(folder)
    own = scratch_directory(run_id)
    own.mkdir(parents=True, exist_ok=True)
    (own / _OWNER).write_text(str(os.getpid()))
    return own


def _scratch_base() -> Path:
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def learner_directory(run: Path, rank: int) -> Path:
    """Where a learner has its log and its checkpoints: the first one in the run's directory itself."""
    return run if rank == 0 else run / LEARNERS / str(rank)


class RunDirectory:
    """A run's folder. Create a new one with ``create``, continue or read one with ``open``."""

    def __init__(self, path: Path, facts: dict[str, Any]):
        self.path = path
        self.facts = facts

    @staticmethod
    def create(path: Path, config: RunConfig) -> RunDirectory:
        """A new run.

        Raises:
            ConfigError: there is a run already, or ``learner.start_from`` names none that one could start from.
            StorageError: the folder cannot be written.
        """
        if (path / "run.json").exists():
            raise ConfigError(f"{path} already holds a run: continue it with --resume {path}, or choose another --out")
        source = config.learner.start_from
        initial = newest_checkpoint(Path(source)) if source is not None else None
        try:
            for folder in ("log", "checkpoints", "snapshots", "media"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            (path / "config.toml").write_text(to_toml(config))
        except OSError as error:
            raise StorageError(
                f"the run directory {path} cannot be written: {error.strerror}; choose another with --out"
            ) from error
        if initial is not None:
            keep_initial(path / "checkpoints", initial)
        facts = {
            "id": uuid.uuid4().hex[:12],
            "created_s": time.time(),
            "env_id": config.env.id,
            "sessions": 0,
            "incarnations": 0,
            "produced": {},  # incarnation of an env worker → steps its environments finished, where known …
            "committed": {},  # … and transitions that its spool has held
        }
        run = RunDirectory(path, facts)
        run._save()
        return run

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            ConfigError: there is none, or its ``run.json`` cannot be read.
        """
        try:
            facts = json.loads((path / "run.json").read_text())
        except FileNotFoundError:
            raise ConfigError(f"{path} is not a run directory: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path / 'run.json'} cannot be read: {error}") from None
        return RunDirectory(path, facts)

    @property
    def id(self) -> str:
        """Unique name of the run."""
        return self.facts["id"]

    def config(self) -> RunConfig:
        """The configuration it was begun with."""
        return RunConfig.load(self.path / "config.toml")

    def begin_session(self) -> int:
        """Counts a start or a resume; returns its number, from 0."""
        own_scratch(self.id)
        self.facts["sessions"] += 1
        self._save()
        return self.facts["sessions"] - 1

    def note(self, **facts: Any) -> None:
        """Keep facts for later sessions and for other processes."""
        self.facts |= facts
        self._save()

    def lives(self, name: str) -> dict[int, int]:
        """``produced`` or ``committed`` by each env worker's life (incarnation) of earlier sessions, where known."""
        return {int(life): count for life, count in self.facts[name].items()}

    def next_incarnation(self) -> int:
        """The number of a new env worker's life, persisted before it is used: no two lives of a run share one."""
        self.facts["incarnations"] += 1
        self._save()
        return self.facts["incarnations"] - 1

    def scratch(self) -> Path:
        """See ``scratch_directory``."""
        return scratch_directory(self.id)

    def _save(self) -> None:
        write_json(self.path / "run.json", self.facts)
