"""A run's experience log in; what is in it, and its episodes put together again, out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.deduplication import SeenSteps
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log, segments
from distrl.core.fragments import join, part, runs
from distrl.core.log_facts import LogFacts, read_facts
from distrl.core.types import FINAL, OBSERVATION, Fragment, Observation

_ALL = 1 << 62  # episodes that deduplication remembers here: every one


@dataclass
class OpenLog:
    """A run's log, to be read.

    Attributes:
        directory: the folder of the segments.
        facts: what log.json says, None where it is missing or cannot be read.
        damaged: a sentence for everything that is wrong; reading adds to it.
    """

    directory: Path
    facts: LogFacts | None
    damaged: list[str]


def open_log(run: Path) -> OpenLog:
    """The log of a run directory; nothing is written.

    Raises:
        ConfigError: there is none.
    """
    directory = run / "log"
    if not segments(directory):
        raise ConfigError(f"a run directory with an experience log is needed, and {directory} holds no segment of one")
    damaged: list[str] = []
    facts = None
    try:
        facts = read_facts(directory)
    except StorageError as error:
        damaged.append(str(error))
    try:
        run_id = json.loads((run / "run.json").read_text())["id"]
        if facts is not None and facts.run_id != run_id:
            damaged.append(
                f"{directory} was written by run {facts.run_id}, but {run} is run {run_id}: the log, or run.json, is "
                "another run's"
            )
    except (OSError, ValueError, KeyError) as error:
        damaged.append(f"{run / 'run.json'} cannot be read ({error}): whether the log is this run's is not known")
    return OpenLog(directory, facts, damaged)


@dataclass
class Survey:
    """What is in a log.

    Attributes:
        num_segments, num_bytes, num_fragments: as they lie on the disk.
        num_transitions: different ones, by (episode, agent, step).
        num_duplicates: transitions that are there once more.
        num_recomputed: transitions whose ``attempt`` is not 0.
        num_episodes: of one agent each. num_ended: of them, terminated or truncated in the log.
        num_gaps: episodes that lack steps in front of others; num_missing: steps lacking there.
        lives: (worker, incarnation) of the env workers that it came from.
        versions: the smallest and largest policy version.
        episode_versions: the smallest, mean and largest number of policy versions that acted in an episode.
        fidelities: name → transitions.
        env_s, core_s: wall and CPU seconds of the steps, each step of an environment once.
        damaged: a sentence each.
    """

    num_segments: int = 0
    num_bytes: int = 0
    num_fragments: int = 0
    num_transitions: int = 0
    num_duplicates: int = 0
    num_recomputed: int = 0
    num_episodes: int = 0
    num_ended: int = 0
    num_gaps: int = 0
    num_missing: int = 0
    lives: set[tuple[int, int]] = field(default_factory=set)
    versions: tuple[int, int] = (0, 0)
    episode_versions: tuple[int, float, int] = (0, 0.0, 0)
    fidelities: Counter[str] = field(default_factory=Counter)
    env_s: float = 0.0
    core_s: float = 0.0
    damaged: list[str] = field(default_factory=list)


@dataclass
class _Episode:
    steps: int = 0  # different ones
    stop: int = 0  # behind the last one
    ended: bool = False
    versions: set[int] = field(default_factory=set)


def survey(log: OpenLog) -> Survey:
    """Read all of a log, checksums included, one record at a time."""
    files = segments(log.directory)
    found = Survey(len(files), sum(path.stat().st_size for path in files), damaged=log.damaged)
    names = log.facts.fidelities if log.facts else ()
    seen = SeenSteps(_ALL)
    episodes: defaultdict[tuple[int, int], _Episode] = defaultdict(_Episode)
    for _, fragment in read_log(log.directory, damaged=log.damaged):
        found.num_fragments += 1
        found.lives.add((fragment.worker, fragment.incarnation))
        pieces = seen.new_parts(fragment)
        found.num_duplicates += fragment.num_transitions - sum(piece.num_transitions for piece in pieces)
        for piece in pieces:
            columns = piece.columns
            found.num_transitions += piece.num_transitions
            found.num_recomputed += int(np.count_nonzero(columns["attempt"]))
            for level, count in zip(*np.unique(columns["fidelity"], return_counts=True), strict=True):
                found.fidelities[names[level] if level < len(names) else str(level)] += int(count)
            rows = columns["agent_index"] == 0  # what the agents of an environment share is counted once
            found.env_s += float((columns["end_s"] - columns["start_s"])[:, rows].sum())
            found.core_s += float(columns["core_s"].sum(dtype=np.float64))  # agents have a share of it each
            for key, row, start, stop in _keyed(piece):
                episode = episodes[key]
                episode.steps += stop - start
                episode.stop = max(episode.stop, int(columns["step"][stop - 1, row]) + 1)
                episode.ended |= bool((columns["terminated"] | columns["truncated"])[stop - 1, row])
                episode.versions.update(np.unique(columns["policy_version"][start:stop, row]).tolist())
    found.num_episodes = len(episodes)
    if episodes:
        counts = [len(episode.versions) for episode in episodes.values()]
        found.num_ended = sum(episode.ended for episode in episodes.values())
        found.num_gaps = sum(episode.stop > episode.steps for episode in episodes.values())
        found.num_missing = sum(episode.stop - episode.steps for episode in episodes.values())
        found.versions = (
            min(min(episode.versions) for episode in episodes.values()),
            max(max(episode.versions) for episode in episodes.values()),
        )
        found.episode_versions = (min(counts), sum(counts) / len(counts), max(counts))
    return found


def trajectories(log: OpenLog, episodes: Collection[int] | None = None) -> Iterator[Fragment]:
    """Every episode of a log as fragments with B = 1, put together from all that the log holds of it.

    Parts may lie in any order and more than once: they are ordered by step, and of a step that is there twice the
    first is taken. An episode is cut where steps are missing, and behind a step that ended it, so it may give several
    fragments. They come when the last record of their episode has been read; so the log is read twice, and only
    episodes under way are held in memory.

    Args:
        episodes: the only ones that are wanted, or None for all.
    """
    last: dict[tuple[int, int], int] = {}
    for number, fragment in read_log(log.directory, damaged=[]):
        last.update((key, number) for key, *_ in _keyed(fragment) if episodes is None or key[0] in episodes)
    end = max(last.values(), default=-1)
    seen = SeenSteps(_ALL)
    parts: defaultdict[tuple[int, int], list[Fragment]] = defaultdict(list)
    for number, fragment in read_log(log.directory, damaged=log.damaged):
        if number > end:  # written meanwhile
            break
        for piece in seen.new_parts(fragment):
            for key, row, start, stop in _keyed(piece):
                if key in last:
                    parts[key].append(part(piece, row, start, stop))
        for key in [key for key, *_ in _keyed(fragment) if last.get(key) == number]:
            yield from _stretches(parts.pop(key, []))


def next_observation(fragment: Fragment) -> Observation:
    """path → [T, B, …], the next observation of every step."""
    finals = fragment.columns["final_index"]
    found = {}
    for name, column in fragment.columns.items():
        if name.startswith(OBSERVATION):
            path = name[len(OBSERVATION) :]
            found[path] = column[1:].copy()
            if len(finals):
                found[path][finals[:, 0], finals[:, 1]] = fragment.columns[FINAL + path]
    return found


def _keyed(fragment: Fragment) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    """((episode, agent), row, start, stop) of every stretch of consecutive steps of one episode."""
    for row, start, stop in runs(fragment):
        yield (
            (int(fragment.columns["episode_uid"][start, row]), int(fragment.columns["agent_index"][row])),
            row,
            start,
            stop,
        )


def _stretches(parts: Sequence[Fragment]) -> Iterator[Fragment]:
    ordered = sorted(parts, key=_first_step)
    begin = 0
    for i, piece in enumerate(ordered, 1):
        if i == len(ordered) or _first_step(ordered[i]) != _first_step(piece) + piece.num_steps:
            whole = join(ordered[begin:i])
            over = np.flatnonzero((whole.columns["terminated"] | whole.columns["truncated"])[:-1, 0]) + 1
            for start, stop in zip([0, *over.tolist()], [*over.tolist(), whole.num_steps], strict=True):
                yield part(whole, 0, start, stop)
            begin = i


def _first_step(fragment: Fragment) -> Any:
    return int(fragment.columns["step"][0, 0])
