"""Named byte strings and a table of facts in, an atomic, checksummed checkpoint folder out; and back again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrl.core.errors import ConfigError, StorageError

META = "meta.json"
LEARNER = "learner.pt"  # models and optimizers of all policies
_INITIAL = "initial"  # another run's checkpoint, which the first update continues


def save_checkpoint(directory: Path, name: str, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> Path:
    """Write ``directory/name/`` so that it is either complete or not there.

    Args:
        files: file name → content. meta: JSON-serialisable facts, kept in ``meta.json`` beside the files' SHA-256.

    Raises:
        StorageError: it could not be written; earlier checkpoints are untouched.
    """
    final = directory / name
    temporary = directory / f".tmp-{name}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        checksums = {}
        for file_name, content in files.items():
            _write(temporary / file_name, content)
            checksums[file_name] = hashlib.sha256(content).hexdigest()
        # twice through JSON: keys that are numbers are sorted as the strings that a reader will find
        facts = json.dumps(json.loads(json.dumps(dict(meta))), sort_keys=True)
        seal = hashlib.sha256((facts + json.dumps(checksums, sort_keys=True)).encode()).hexdigest()
        text = json.dumps({"meta": json.loads(facts), "sha256": checksums, "seal": seal}, indent=1, sort_keys=True)
        _write(temporary / META, text.encode())
        if final.exists():  # os.replace cannot overwrite a folder that is not empty
            aside = directory / f".tmp-old-{name}-{os.getpid()}"
            os.replace(final, aside)
            os.replace(temporary, final)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, final)
        _sync_directory(directory)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            f"checkpoint {final} cannot be written: {error.strerror or error}. Earlier checkpoints are untouched; "
            "make room and use --resume"
        ) from error
    return final


def load_best(run: Path) -> dict[str, bytes]:
    """The files of a run's best policies by its evaluations; of the newest checkpoint where none was evaluated.

    Raises:
        StorageError: no policy in it can be read.
    """
    checkpoints = run / "checkpoints"
    complaints = []
    for path in [checkpoints / "best", *reversed(list_checkpoints(checkpoints))]:
        if path.exists():
            try:
                return load_checkpoint(path)[0]
            except StorageError as error:
                complaints.append(str(error))
    raise StorageError(
        f"{run} holds no policy that can be read"
        + (f": {'; '.join(complaints)}" if complaints else " yet: it has no checkpoint")
    )


def load_checkpoint(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(files, meta) of one checkpoint.

    Raises:
        StorageError: a file is missing or its checksum differs.
    """
    try:
        document = json.loads((path / META).read_bytes())
        files = {name: (path / name).read_bytes() for name in document["sha256"]}
        facts = json.dumps(document["meta"], sort_keys=True) + json.dumps(document["sha256"], sort_keys=True)
        damaged = [
            name for name, content in files.items() if hashlib.sha256(content).hexdigest() != document["sha256"][name]
        ]
        if hashlib.sha256(facts.encode()).hexdigest() != document["seal"]:
            damaged.append(META)
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"checkpoint {path} cannot be read: {error}") from error
    if damaged:
        raise StorageError(f"checkpoint {path} is damaged: the checksum of {', '.join(damaged)} differs")
    return files, document["meta"]


def list_checkpoints(directory: Path) -> list[Path]:
    """The numbered checkpoints, oldest first (``best`` and unfinished ones are not among them)."""
    return sorted(path for path in directory.glob("[0-9]*") if path.is_dir())


def load_latest(directory: Path) -> tuple[Path, dict[str, bytes], dict[str, Any], list[str]] | None:
    """The newest checkpoint that is whole: (path, files, meta, what was wrong with newer ones), or None where none was
    ever written.

    Raises:
        StorageError: there are checkpoints, and every one is damaged.
    """
    complaints: list[str] = []
    for path in reversed(list_checkpoints(directory)):
        try:
            return path, *load_checkpoint(path), complaints
        except StorageError as error:
            complaints.append(str(error))
    if complaints:
        raise StorageError(f"no checkpoint in {directory} can be read. {'; '.join(complaints)}")
    return None


def newest_checkpoint(source: Path) -> Path:
    """``source`` itself where it is a checkpoint, else the newest whole one of the run in it.

    Raises:
        ConfigError: neither, or there is nothing that a learner could continue.
    """
    if not (source / META).exists():
        found = load_latest(source / "checkpoints")
        if found is None:
            raise ConfigError(
                f"learner.start_from needs a run that has a checkpoint, or a checkpoint's folder, but {source} is "
                "neither"
            )
        return found[0]
    if LEARNER not in load_checkpoint(source)[0]:
        raise ConfigError(
            f"learner.start_from needs networks and optimizers, and {source} holds a policy alone: name its run, or "
            "one of its numbered checkpoints"
        )
    return source


def keep_initial(directory: Path, source: Path) -> None:
    """Copy a checkpoint beside those that a run will write: its own may be gone when the run's learner is replaced."""
    files, meta = load_checkpoint(source)
    save_checkpoint(directory, _INITIAL, files, meta)


def load_initial(directory: Path) -> tuple[dict[str, bytes], dict[str, Any]] | None:
    """What ``keep_initial`` kept, (files, meta); None where the run began with networks of its own."""
    return load_checkpoint(directory / _INITIAL) if (directory / _INITIAL).exists() else None


def prune_checkpoints(directory: Path, keep: int) -> None:
    """Remove all numbered checkpoints but the last ``keep``, and what unfinished writes have left."""
    for path in list_checkpoints(directory)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(".tmp-[0-9]*"):  # never the best one, which the evaluator may be writing right now
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
