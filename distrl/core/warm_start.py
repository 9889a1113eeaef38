"""Run directories in, the fragments of their logs out: what fills the replay of a new run before its first update, or
is all that an offline run learns from.

What comes out is marked as not this run's own: policy version 0, and episodes numbered from WARM_UIDS on in order of
appearance, which no episode of a run reaches (distrl.core.seeds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.log_facts import LogFacts, read_facts
from distrl.core.run_directory import RunDirectory
from distrl.core.types import Fragment

WARM_UIDS = 1 << 63


def check_warm_start(sources: Sequence[Path | str], facts: LogFacts, key: str = "replay.warm_start") -> None:
    """Refuse, before anything starts, logs whose transitions this run could not learn from.

    Args:
        sources: run directories. facts: of this run; its ``run_id`` may be empty.
        key: of the configuration, that names the sources.

    Raises:
        ConfigError: a source is no run, lacks a log or its description, holds another run's log, comes twice or is this
            run, or differs in spaces, reward definition or fidelity (each named with both values).
        StorageError: a log.json that cannot be read, or of another format.
    """
    seen = {facts.run_id: "this run itself"} if facts.run_id else {}
    for source in sources:
        run = RunDirectory.open(Path(source))
        found = read_facts(run.path / "log")
        if found is None:
            raise ConfigError(
                f"{key} needs a log that says what it holds, and {run.path / 'log'} has no log.json: it "
                "gets one when the run is resumed"
            )
        if found.run_id != run.id:
            raise ConfigError(
                f"{key}: {run.path} is run {run.id}, but its log was written by run {found.run_id}: name "
                "the directory that this log came from"
            )
        if found.run_id in seen:
            raise ConfigError(
                f"{key}: {source} is {seen[found.run_id]}: leave it out, its transitions would count twice"
            )
        seen[found.run_id] = f"the same run as {source}"
        if differences := found.differences(facts):
            raise ConfigError(
                f"{key}: what {source} holds does not fit this run: {'; '.join(differences)}. Leave it "
                "out, or give this run the same environment"
            )


def warm_fragments(
    sources: Sequence[Path | str],
    limits: Sequence[int] | None = None,
    *,
    damaged: list[str] | None = None,
    key: str = "replay.warm_start",
) -> Iterator[tuple[int, Fragment]]:
    """(index of the source, fragment) of everything in the logs of ``sources``, source by source in order of arrival.

    Args:
        limits: on a resume, the number of fragments that each source gave at the first start: it may have grown since.
        damaged: takes a sentence for each damaged place, which is then passed over; without it that is an error.
        key: of the configuration, that names the sources.

    Raises:
        StorageError: damage, as in ``read_log``; or a source gives fewer fragments than its limit.
    """
    num_episodes = 0
    for index, source in enumerate(sources):
        limit = None if limits is None else limits[index]
        numbers: dict[int, int] = {}  # the source's episodes → ours
        count = 0
        if limit != 0:
            for _, fragment in read_log(Path(source) / "log", damaged=damaged):
                uid, where = np.unique(fragment.columns["episode_uid"], return_inverse=True)
                for episode in uid.tolist():
                    if episode not in numbers:
                        numbers[episode] = WARM_UIDS + num_episodes
                        num_episodes += 1
                ours = np.array([numbers[episode] for episode in uid.tolist()], np.uint64)
                columns = {
                    **fragment.columns,
                    "episode_uid": ours[where].reshape(fragment.columns["episode_uid"].shape),
                    "policy_version": np.zeros_like(fragment.columns["policy_version"]),
                }
                yield index, replace(fragment, columns=columns)
                count += 1
                if count == limit:
                    break
        if limit is not None and count < limit:
            raise StorageError(
                f"this run began with {limit} fragments of {source} ({key}), and only {count} of them can "
                "be read now: restore its log from a copy"
            )
