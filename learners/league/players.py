"""Weights that are kept in, a league's players out: policies that learn, and snapshots of them, whose weights lie in
``RUN/league/players/``.

A policy that learns has its policy's name and one of three roles (AlphaStar: Vinyals et al. 2019, Nature 575). *Main*
players are what the league is for. A *main exploiter* looks for weaknesses of main players, a *league exploiter* for
those that everyone has. A snapshot is named after its policy and that one's version: ``main:000123``.

``players.jsonl`` says, in order, which snapshots there are and which policies have begun again. A snapshot is entered
there once its files are complete, so that one that a death interrupts was never there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import StorageError
from distrl.core.metrics import JsonLines, read_json_lines
from distrl.core.policy_file import policy_files, read_parts
from distrl.core.types import PolicySpec, Weights
from distrl.learners.league.config import LeagueConfig, Role
from distrl.learners.league.matchmaking import Pool

_FILES = {"policy.npz": "{}.npz", "policy.json": "{}.json"}  # of distrl.core.policy_file → in players/


@dataclass(frozen=True)
class Snapshot:
    """Attributes: policy_id: whose weights they were. version: of that policy then."""

    policy_id: str
    version: int

    @property
    def name(self) -> str:
        """As it stands in matches."""
        return f"{self.policy_id}:{self.version:06d}"


class Players:
    """Everybody in a league, oldest snapshot first. One process adds and resets; others may look.

    Args:
        directory: ``RUN/league``. roles: of all policies, which learn.

    Attributes:
        snapshots: in the order in which they were added.
        began: policy → its version at its newest snapshot or reset; 0 before.
        resets: policy → its version when it last began again; 0: never.
    """

    def __init__(self, directory: Path, roles: Mapping[str, Role]):
        self.roles = dict(roles)
        self._folder, self._journal = directory / "players", directory / "players.jsonl"
        self._lines: JsonLines | None = None  # opened by who writes: that cuts a torn line off
        self.snapshots: list[Snapshot] = []
        self.began, self.resets = dict.fromkeys(roles, 0), dict.fromkeys(roles, 0)
        for record in read_json_lines(self._journal):
            self._note(record)

    def pool(self, policies: Sequence[str]) -> Pool:
        """These policies and their snapshots, as opponents."""
        return Pool(
            {policy: role for policy, role in self.roles.items() if policy in policies},
            {one.name: one.policy_id for one in self.snapshots if one.policy_id in policies},
        )

    def add(self, policy_id: str, version: int, weights: Weights, spec: PolicySpec) -> Snapshot:
        """Keep these weights as a player.

        Raises:
            StorageError: they cannot be written; the league is as before.
        """
        snapshot = Snapshot(policy_id, version)
        for name, content in policy_files(weights, spec).items():
            self._write(_FILES[name].format(snapshot.name), content)
        self._enter({"kind": "snapshot", "policy_id": policy_id, "version": version})
        return snapshot

    def reset(self, policy_id: str, version: int) -> None:
        """The policy begins again from its first weights.

        Raises:
            StorageError: it cannot be noted.
        """
        self._enter({"kind": "reset", "policy_id": policy_id, "version": version})

    def parts(self, name: str) -> tuple[PolicySpec, Weights]:
        """See ``read_snapshot``."""
        return read_snapshot(self._folder.parent, name)

    def close(self) -> None:
        """Harmless when repeated."""
        if self._lines is not None:
            self._lines.close()

    def _enter(self, record: dict[str, Any]) -> None:
        if self._lines is None:
            self._lines = JsonLines(self._journal)
        self._lines.write(record)
        self._note(record)

    def _note(self, record: dict[str, Any]) -> None:
        if record["kind"] == "snapshot":
            self.snapshots.append(Snapshot(record["policy_id"], record["version"]))
        else:
            self.resets[record["policy_id"]] = record["version"]
        self.began[record["policy_id"]] = record["version"]

    def _write(self, name: str, content: bytes) -> None:
        path, temporary = self._folder / name, self._folder / f".tmp-{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise StorageError(
                f"the snapshot {path} cannot be written: {error.strerror or error}; make room and use --resume"
            ) from error


def read_snapshot(directory: Path, name: str) -> tuple[PolicySpec, Weights]:
    """A snapshot's recipe, and what the policy built of it loads.

    Args:
        directory: ``RUN/league``.

    Raises:
        StorageError: there is no such snapshot.
    """
    folder = directory / "players"
    try:
        return read_parts({kind: (folder / form.format(name)).read_bytes() for kind, form in _FILES.items()})
    except OSError as error:
        raise StorageError(f"the snapshot {name!r} cannot be read from {folder}: {error.strerror}") from error


def is_due(updates: int, win_rates: np.ndarray, config: LeagueConfig) -> bool:
    """Whether a policy becomes a snapshot now: not before the period is over; then at once, or where a win rate is
    asked for, as soon as it is above that against everybody, after twice the period in any case (AlphaStar's rule, with
    updates for steps).

    Args:
        updates: since its last one. win_rates: [n], against those that its role is about.
    """
    if updates < config.snapshot_period:
        return False
    threshold = config.snapshot_win_rate
    return threshold is None or updates >= 2 * config.snapshot_period or bool((win_rates > threshold).all())


def begins_again(role: Role, config: LeagueConfig, rng: np.random.Generator) -> bool:
    """Whether a policy begins again from its first weights after a snapshot (AlphaStar's rule: main exploiters always,
    league exploiters with a probability, main players never)."""
    if role == "league_exploiter":
        return bool(rng.random() < config.exploiter_reset)
    return role == "main_exploiter"
