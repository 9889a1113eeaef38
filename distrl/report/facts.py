"""A run directory in; what a report shows of it out, as plain data, with a reason for everything that is not there."""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrl.core.accounting import Accounts
from distrl.core.errors import ConfigError, StorageError
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.report.configuration import changed, flat
from distrl.report.experience import Experience, read_experience
from distrl.report.league import Standing, league_of
from distrl.report.points import CPU_TOTALS, Clock, Points, Record, core_hours, episodes, evaluations
from distrl.report.words import duration, share

_NAMES = dict(zip(CPU_TOTALS, ("environments", "env workers", "learner"), strict=True))
_TIMES = ("step_s", "reset_s")
MAX_FILM_BYTES = 4_000_000


@dataclass(frozen=True)
class Missing:
    """Attributes: reason: a sentence that says why there is nothing to show."""

    reason: str


@dataclass(frozen=True)
class Ending:
    """How a run ended. Attributes: kind: finished, trained, interrupted, failed, going on, or unknown. sentence: of a
    page."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class Level:
    """Attributes: name: of a fidelity. env_steps: at it. core_hours: that environments took for them."""

    name: str
    env_steps: int
    core_hours: float


@dataclass(frozen=True)
class Outcomes:
    """What became of episodes, processes and transitions.

    Attributes:
        episodes: training episodes that ended, as recorded. diverged: of them by the environment's own guard.
        terminated, truncated: as the log has them; None without one.
        faults: by kind. restarts: by role. recomputed: steps, to continue episodes from snapshots.
        accounts: where each transition went, or why that is not known.
        duplicates: transitions that came again and were left out. lost: committed ones that were not secured.
    """

    episodes: int
    diverged: int
    terminated: int | None
    truncated: int | None
    faults: Counter[str]
    restarts: Counter[str]
    recomputed: int
    accounts: Accounts | Missing
    duplicates: int
    lost: int


@dataclass(frozen=True)
class Film:
    """Attributes: path: of an .mp4 or .gif of at most MAX_FILM_BYTES."""

    path: Path


@dataclass(frozen=True)
class RunFacts:
    """Everything that a report shows of one run.

    Attributes:
        path, name: the run directory. id, env_id, algorithm, seed: its identity. created_s: Unix time.
        sessions: starts and resumes. offline: it learned from logs alone; its curves go by updates.
        num_envs: environments that the configuration asks for. one_process: it was not on Ray.
        ending: how it ended.
        options: the whole configuration, ``table.key`` → value. changed: of it, what is not the default, → (value,
            default).
        policies: names, of a run that has several.
        env_steps, updates, wall_s, core_hours, busy: totals, as far as they are recorded.
        summary: summary.json, where it is of the newest session; else empty.
        evaluations: on held-out seeds. episodes: fidelity → training returns. policy_episodes: policy → training
            returns, where there are several.
        cost: who → core-hours. levels: by fidelity.
        staleness: (the most that a bin holds, transitions in it) pairs.
        outcomes: what became of everything. experience: what the log says of the environments.
        league: who beat whom. film: of the best policy. notes: sentences that the run left.
    """

    path: Path
    name: str
    id: str
    env_id: str
    algorithm: str
    seed: int
    created_s: float
    sessions: int
    offline: bool
    num_envs: int
    one_process: bool
    ending: Ending
    options: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]
    policies: tuple[str, ...]
    env_steps: int
    updates: int
    wall_s: float
    core_hours: float
    busy: float | None
    summary: Record
    evaluations: Points
    episodes: dict[str, Points]
    policy_episodes: dict[str, Points]
    cost: dict[str, float]
    levels: list[Level]
    staleness: list[tuple[int, int]] | Missing
    outcomes: Outcomes
    experience: Experience | Missing
    league: Standing | Missing | None
    film: Film | Missing
    notes: list[str]


def gather(path: Path, cells: int) -> RunFacts:
    """The facts of a run, whatever state it is in.

    Args:
        cells: environments × time bins that its timeline may have.

    Raises:
        ConfigError: not a run directory, or one with nothing in it yet. StorageError: its files cannot be read.
    """
    run = RunDirectory.open(path)
    try:
        metrics, timing, events = (read_json_lines(path / f"{name}.jsonl") for name in ("metrics", "timing", "events"))
        tables = tomllib.loads((path / "config.toml").read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be reported, a file of it cannot be read: {error}") from None
    totals = [record for record in timing if record["kind"] == "totals"]
    if not totals and not metrics:
        raise ConfigError(
            f"{path} has nothing to report yet: neither metrics.jsonl nor timing.jsonl holds a record; try again once "
            "its environments step"
        )
    options, offline = flat(tables), bool(tables.get("offline", {}).get("data"))
    last, clock = totals[-1] if totals else {}, Clock(totals)
    summary, stale = _summary(path, last)
    status: Record = next((record for record in reversed(timing) if record["kind"] == "status"), {})
    ending = _ending(run, summary, events)
    experience = _experience(run, tables, events, last, cells)
    lifetime_s = last.get("lifetime_s") or 0.0
    learner = [record for record in metrics if record["kind"] == "learner"]
    return RunFacts(
        path=path,
        name=path.resolve().name,
        id=run.id,
        env_id=run.facts["env_id"],
        algorithm=options.get("algorithm.name", "sac"),
        seed=options.get("run.seed", 0),
        created_s=run.facts["created_s"],
        sessions=run.facts["sessions"],
        offline=offline,
        num_envs=0 if offline else options.get("actors.env_workers", 1) * options.get("actors.envs_per_worker", 1),
        one_process="ray" not in run.facts and not str(options.get("algorithm.name")).startswith("rllib:"),
        ending=ending,
        options=options,
        changed=changed(tables),
        policies=tuple(tables.get("policies", {})),
        env_steps=summary.get("env_steps", last.get("env_steps", 0)),
        updates=summary.get("updates", status.get("updates", learner[-1]["updates"] if learner else 0)),
        wall_s=last.get("wall_s", 0.0),
        core_hours=core_hours(last),
        busy=last.get("step_s", 0.0) / lifetime_s if lifetime_s else None,
        summary=summary,
        evaluations=evaluations(metrics, timing, clock),
        episodes=_by_level(metrics, clock),
        policy_episodes=_by_policy(metrics, clock),
        cost={who: last[name] / 3600 for name, who in _NAMES.items() if last.get(name)},
        levels=_levels(last),
        staleness=_staleness(summary, status, ending, offline, stale),
        outcomes=_outcomes(summary, metrics, events, experience, ending),
        experience=experience,
        league=Missing(league) if isinstance(league := league_of(path, tables), str) else league,
        film=_film(path, ending, events),
        notes=[event["text"] for event in events if event["kind"] == "note"],
    )


def _summary(path: Path, last: Record) -> tuple[Record, bool]:
    """summary.json, or nothing where there is none or the run has gone on since; and whether that is so."""
    try:
        summary = json.loads((path / "summary.json").read_text())
    except FileNotFoundError:
        return {}, False
    except (OSError, ValueError) as error:
        raise StorageError(f"{path / 'summary.json'} cannot be read: {error}") from None
    stale = last.get("wall_s", 0.0) > summary.get("wall_s", 0.0) + 1.0
    return ({}, True) if stale else (summary, False)


def _ending(run: RunDirectory, summary: Record, events: list[Record]) -> Ending:
    try:
        owner = Path(f"/proc/{int((run.scratch() / 'owner').read_text())}")
        if owner.exists():
            return Ending("going on", "Still going on: this is how far it had come.")
    except (OSError, ValueError):
        pass
    if summary.get("interrupted"):
        return Ending("interrupted", f"Stopped with a checkpoint; it goes on with distrl train --resume {run.path}.")
    if "final_return_mean" in summary:
        return Ending("finished", "Finished, and evaluated on held-out seeds.")
    if summary:
        return Ending("trained", "Trained to its end, or to its sweep's; there is no final evaluation.")
    failed = [index for index, event in enumerate(events) if event["kind"] == "failed"]
    started = [index for index, event in enumerate(events) if event["kind"] == "start"]
    if failed and failed[-1] > max(started, default=-1):
        return Ending("failed", f"Failed: {events[failed[-1]]['message']}")
    return Ending("unknown", "No end is recorded: it was killed, or goes on on another machine.")


def _by_level(metrics: list[Record], clock: Clock) -> dict[str, Points]:
    found: dict[str, list[tuple[float, float]]] = {}
    for record in metrics:
        if record["kind"] == "episode" and record["return"] is not None:
            found.setdefault(record["fidelity"], []).append((record["return"], record["env_steps"]))
    return {level: episodes(pairs, clock) for level, pairs in found.items()}


def _by_policy(metrics: list[Record], clock: Clock) -> dict[str, Points]:
    """Of a run with several policies."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in metrics:
        for policy, value in (record.get("returns") or {}).items() if record["kind"] == "episode" else ():
            found.setdefault(policy, []).append((value, record["env_steps"]))
    return {policy: episodes(found[policy], clock) for policy in sorted(found)} if len(found) > 1 else {}


def _levels(last: Record) -> list[Level]:
    steps, core_s = last.get("env_steps_by_fidelity") or {}, last.get("core_s_by_fidelity") or {}
    return [Level(name, steps.get(name, 0), core_s.get(name, 0.0) / 3600) for name in dict.fromkeys([*steps, *core_s])]


def _staleness(
    summary: Record, status: Record, ending: Ending, offline: bool, stale: bool
) -> list[tuple[int, int]] | Missing:
    if offline:
        return Missing("Nobody acted in this run: it learned from logs alone, so nothing has a staleness.")
    if summary.get("staleness_counts"):
        return [(int(most), int(count)) for most, count in summary["staleness_counts"]]
    if "staleness_counts" in summary:
        return Missing("No transition had been trained on when the session ended.")
    so_far = ", ".join(
        f"{status[f'staleness_{name}']} ({what})"
        for name, what in (("p50", "half of the transitions up to here"), ("p99", "99 %"), ("max", "the most"))
        if status.get(f"staleness_{name}") is not None
    )
    why = "the summary is of an earlier session" if stale else "there is no summary"
    if summary:
        why = "the summary does not hold it"
    return Missing(
        f"The histogram is written when a session ends, and {why}." + (f" So far: {so_far}." if so_far else "")
    )


def _experience(
    run: RunDirectory, tables: dict[str, Any], events: list[Record], last: Record, cells: int
) -> Experience | Missing:
    if tables.get("offline", {}).get("data"):
        return Missing("No environment trained in this run: it learned from the logs of others (offline.data).")
    found = read_experience(run.path / "log", events, cells)
    if found is not None:
        return found
    why = f"The run's experience log, {run.path / 'log'}, holds no transition: none has come yet, or it was removed."
    if not run.facts.get("logged", True):
        why = "The run kept no experience log, which has the times of every step"
        if tables.get("run", {}).get("experience_log", "auto") == "off":
            why += ' (run.experience_log = "off").'
        else:
            why += ': on-policy runs of cheap environments keep none (run.experience_log = "on" keeps one).'
    if last.get("env_steps") and last.get("lifetime_s"):
        mean, steps, resets = last["step_s"] / last["env_steps"], *(last[k] / last["lifetime_s"] for k in _TIMES)
        why += f" In the mean a step took {duration(mean)}; steps are {share(steps)} of the environments' time"
        why += f" and resets {share(resets)}."
    return Missing(why)


def _outcomes(
    summary: Record, metrics: list[Record], events: list[Record], experience: Experience | Missing, ending: Ending
) -> Outcomes:
    ended = [record for record in metrics if record["kind"] == "episode"]
    logged = None if isinstance(experience, Missing) else experience
    accounts: Accounts | Missing = Missing(
        "The balance of all transitions is written when a session ends."
        if ending.kind in ("going on", "unknown", "failed")
        else "The summary does not hold the balance of all transitions."
    )
    if "transitions_produced" in summary:
        accounts = Accounts(
            **{
                name: summary[f"transitions_{name}"]
                for name in ("produced", "trained", "queued", "evicted", "rejected")
            },
            warm=summary.get("transitions_warm", 0),
        )
    return Outcomes(
        episodes=len(ended),
        diverged=sum(bool((record.get("info") or {}).get("diverged")) for record in ended),
        terminated=logged.terminated if logged else None,
        truncated=logged.truncated if logged else None,
        faults=Counter(event["fault"] for event in events if event["kind"] == "fault"),
        restarts=Counter(event["role"] for event in events if event["kind"] == "restart"),
        recomputed=summary.get("steps_recomputed", 0),
        accounts=accounts,
        duplicates=summary.get("transitions_duplicated", 0),
        lost=summary.get("transitions_lost", 0),
    )


def _film(path: Path, ending: Ending, events: list[Record]) -> Film | Missing:
    found = sorted(file for suffix in ("mp4", "gif") for file in (path / "media").glob(f"*.{suffix}"))
    if not found:
        said = [e["text"] for e in events if e["kind"] == "note" and e["text"].startswith("no film")]
        if said:
            return Missing(f"There is {said[-1]}.")
        if ending.kind == "finished":
            return Missing("There is no film: the environment renders no pictures, or drawing was cut short.")
        return Missing("There is no film: one is made when a run has been evaluated.")
    size = os.path.getsize(found[0])
    if size > MAX_FILM_BYTES:
        return Missing(
            f"The film is left out, to keep this page small: {found[0]} has {size / 1e6:.1f} MB, and at most "
            f"{MAX_FILM_BYTES / 1e6:.0f} MB are embedded."
        )
    return Film(found[0])
