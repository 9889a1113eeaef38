"""Logs of runs in, a log of some of their whole episodes out, chosen by how well those who acted did: datasets to learn
from offline, in the qualities of OG-MARL (Formanek et al. 2023, arXiv 2302.00521).

There a dataset is what policies did that had been trained to a level (good, medium, poor), or what training itself did
(replay). A run's log has what all its policies did, one after the other. So its whole episodes, in the order in which
they began, are cut into *stages* of equally many, and a stage's level is its mean return: how good the policy was then,
not how lucky an episode. From the lowest level of all runs to the highest there are three equal bands:

    poor, medium, good    episodes of the stages in the lowest, the middle, the highest band
    replay                of all stages

of which the wanted number is drawn at random, without replacement.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrl.core.episodes import EpisodeReturns, Quality
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import ExperienceLog, read_log
from distrl.core.log_facts import FILE, LogFacts
from distrl.core.metrics import write_json
from distrl.core.types import OBSERVATION, Fragment
from distrl.experience import OpenLog, open_log, trajectories

_STAGES, _STAGE_EPISODES = 100, 20  # of a run: at most so many stages, of at least so many episodes each
_BANDS = (Quality.POOR, Quality.MEDIUM, Quality.GOOD)  # of the levels, from the lowest to the highest


@dataclass(frozen=True)
class Mix:
    """What was written.

    Attributes:
        path: a directory with a log, for ``offline.data``, ``replay.warm_start`` and the commands of ``distrl log``.
        num_episodes, num_transitions: in it; those of several agents count each.
        returns: float64 [num_episodes], each the sum over all agents.
        coverage: share of the steps whose joint observation and joint action occur for the first time (OG-MARL's joint
            SACo); None where the agents of an episode do not all act in every step.
        damaged: a sentence for each place of the logs that could not be read.
    """

    path: Path
    num_episodes: int
    num_transitions: int
    returns: np.ndarray
    coverage: float | None
    damaged: list[str]

    def statistics(self) -> dict[str, float | None]:
        """What OG-MARL's tables say of a dataset."""
        returns = {name: float(getattr(self.returns, name)()) for name in ("mean", "std", "min", "max")}
        return {
            "num_episodes": self.num_episodes,
            "num_transitions": self.num_transitions,
            **{f"return_{name}": value for name, value in returns.items()},
            "coverage": self.coverage,
        }


def mix(runs: Sequence[Path], quality: Quality, num_episodes: int, out: Path, seed: int = 0) -> Mix:
    """Write ``num_episodes`` whole episodes of the runs' logs to a directory of their own. The same arguments choose
    the same episodes.

    Raises:
        ConfigError: ``out`` exists, a run has no log that says what it holds, the runs are not of one environment, have
            several levels of detail, or too few episodes of that quality. StorageError: it cannot be written.
    """
    if out.exists():
        raise ConfigError(f"a mix needs a directory that does not exist yet, and {out} does: choose another --out")
    logs = [open_log(run) for run in runs]
    facts = _common_facts(logs, quality)
    found = [_returns(log) for log in logs]
    whole = [returns.whole() for returns in found]
    chosen = _choose([_stages(returns) for returns in whole], quality, num_episodes, np.random.default_rng(seed))
    returns = np.array([whole[run][uid] for run, uids in enumerate(chosen) for uid in uids])
    run_id, written = uuid.uuid4().hex[:12], False
    coverage, num_transitions = _Coverage(), 0
    try:
        out.mkdir(parents=True)
        target = ExperienceLog(out / "log", facts=dataclasses.replace(facts, run_id=run_id))
        sources = zip(logs, chosen, found, strict=True)
        episodes = (episode for log, uids, agents in sources for episode in _episodes(log, uids, agents))
        for number, episode in enumerate(episodes):
            for part in episode:
                columns = part.columns | {"episode_uid": np.full_like(part.columns["episode_uid"], number)}
                target.append(dataclasses.replace(part, columns=columns))
                num_transitions += part.num_transitions
            coverage.add(episode)
        target.close()
        damaged = [sentence for log in logs for sentence in log.damaged]
        done = Mix(out, num_episodes, num_transitions, returns, coverage.share(), damaged)
        of = {"runs": [str(run) for run in runs], "quality": str(quality), "episodes": num_episodes, "seed": seed}
        document = {"id": run_id, "created_s": time.time(), "env_id": facts.env_id, "mix": of}
        write_json(out / "run.json", document | {"statistics": done.statistics()})
        written = True
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if not written:
            shutil.rmtree(out, ignore_errors=True)
    return done


def _episodes(log: OpenLog, uids: Sequence[int], agents: EpisodeReturns) -> Iterator[list[Fragment]]:
    """The whole episodes of these numbers, one fragment with B = 1 for each agent."""
    under_way: defaultdict[int, list[Fragment]] = defaultdict(list)
    for fragment in trajectories(log, set(uids)):
        uid = int(fragment.columns["episode_uid"][0, 0])
        under_way[uid].append(fragment)
        if len(under_way[uid]) == agents.num_agents(uid):
            yield under_way.pop(uid)


def _common_facts(logs: Sequence[OpenLog], quality: Quality) -> LogFacts:
    first, seen = None, set[str]()
    for log in logs:
        if log.facts is None:
            raise ConfigError(f"a mix needs logs that say what they hold, and {log.directory} has no {FILE} to be read")
        if log.facts.scheduled and quality != Quality.REPLAY:
            raise ConfigError(
                f"{log.directory} has episodes at several levels of detail, whose returns cannot be compared: take "
                "--quality replay"
            )
        if log.facts.run_id in seen:
            raise ConfigError(f"the runs of a mix need to be different, but {log.directory.parent} comes twice")
        seen.add(log.facts.run_id)
        first = first or log.facts
        if differences := log.facts.differences(first):
            raise ConfigError(f"the runs of a mix need one environment, but {'; '.join(differences)}: leave one out")
    if first is None:
        raise ConfigError("a mix needs at least one run")
    return first


def _returns(log: OpenLog) -> EpisodeReturns:
    returns = EpisodeReturns()
    for _, fragment in read_log(log.directory, damaged=[]):
        returns.add(fragment)
    return returns


@dataclass(frozen=True)
class _Stage:
    """Attributes: episodes: in the order in which they began. level: their mean return."""

    episodes: list[int]
    level: float


def _stages(returns: dict[int, float]) -> list[_Stage]:
    """Of one run, in order."""
    uids = np.array(list(returns), np.uint64)
    number = min(max(len(uids) // _STAGE_EPISODES, 1), _STAGES)
    parts = [part.tolist() for part in np.array_split(uids, number) if len(part)]
    return [_Stage(part, float(np.mean([returns[uid] for uid in part]))) for part in parts]


def _choose(
    stages: Sequence[Sequence[_Stage]], quality: Quality, num_episodes: int, rng: np.random.Generator
) -> list[list[int]]:
    """Of each run, the episodes that are taken, in their order."""
    levels = [stage.level for its in stages for stage in its]
    low, span = min(levels, default=0.0), float(np.ptp(levels)) if levels else 0.0

    def band(stage: _Stage) -> Quality | None:
        """None where all stages are of one level."""
        return _BANDS[min(int(3 * (stage.level - low) / span), 2)] if span else None

    all_of = [(run, uid, band(stage)) for run, its in enumerate(stages) for stage in its for uid in stage.episodes]
    counts = Counter(its for *_, its in all_of)
    suitable = [(run, uid) for run, uid, its in all_of if quality in (its, Quality.REPLAY)]
    if len(suitable) < num_episodes:
        if quality != Quality.REPLAY and not span:
            raise ConfigError(
                f"quality {quality} needs runs whose policies became better or worse, but all {len(levels)} stages of "
                f"the {len(all_of)} whole episodes have one level: take --quality replay"
            )
        raise ConfigError(
            f"{num_episodes} whole episodes of quality {quality} are wanted, but the runs have {len(suitable)} (of "
            f"{len(all_of)} in all: {', '.join(f'{counts[its]} {its}' for its in _BANDS)}): lower --episodes, or name "
            "more runs"
        )
    chosen: list[list[int]] = [[] for _ in stages]
    for index in np.sort(rng.choice(len(suitable), num_episodes, replace=False)).tolist():
        run, uid = suitable[index]
        chosen[run].append(uid)
    return chosen


class _Coverage:
    """Counts different pairs of joint observation and joint action."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._steps = 0
        self._together = True  # all agents act in every step

    def add(self, episode: Sequence[Fragment]) -> None:
        steps = episode[0].num_steps
        self._together &= all(part.num_steps == steps for part in episode)
        if not self._together:
            return
        columns = [
            column[:steps, 0].reshape(steps, -1)
            for part in sorted(episode, key=lambda part: int(part.columns["agent_index"][0]))
            for name, column in sorted(part.columns.items())
            if name == "action" or name.startswith(OBSERVATION)
        ]
        rows = np.concatenate([np.ascontiguousarray(column).view(np.uint8) for column in columns], 1)
        self._seen.update(hash(row.tobytes()) for row in rows)
        self._steps += steps

    def share(self) -> float | None:
        return len(self._seen) / self._steps if self._together and self._steps else None
