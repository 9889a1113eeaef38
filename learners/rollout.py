"""Fragments of equal length flow in, one rollout flows out: T steps of N rows, what on-policy algorithms train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distrl.core.types import FINAL, OBSERVATION, STATE, Columns, Fragment
from distrl.learners.sample_weights import duration_weights


@dataclass
class Rollout:
    """T consecutive steps of N rows, plus the bootstrap row.

    Attributes:
        observation: path → [T + 1, N, …].
        final_observation: path → [K, …].
        final_index: int32 [K, 2], the (t, n) whose next observation is ``final_observation[k]``: every ended step.
        action: [T, N, …], as the policy gave it.
        reward: float32 [T, N]. terminated, truncated: bool [T, N]. log_prob: float32 [T, N].
        policy_version: int64 [T, N].
        is_first: bool [T + 1, N]: an episode, or another stretch of one, begins with observation[t, n].
        state: path → [T, N, …], the policy's recurrent state that each step was begun from.
        row: int64 [N]: which environment and agent of the run, the same from rollout to rollout.
        weight: float32 [T, N], what each transition counts in the losses; None: 1 each.
    """

    observation: Columns
    final_observation: Columns
    final_index: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_prob: np.ndarray
    policy_version: np.ndarray
    is_first: np.ndarray
    state: Columns
    row: np.ndarray
    weight: np.ndarray | None = None


_PER_STEP = ("action", "reward", "terminated", "truncated", "log_prob", "policy_version")


def rollout_of(fragments: Sequence[Fragment], duration_limit: float | None = None) -> Rollout:
    """Fragments side by side, [T, B₁ + B₂ + …].

    Args:
        duration_limit: of ``duration_weights``; None: there are no weights.

    Raises:
        ValueError: they differ in length.
    """
    lengths = {fragment.num_steps for fragment in fragments}
    if len(lengths) != 1:
        raise ValueError(f"a rollout needs fragments of one length, but theirs are {sorted(lengths)}")
    columns = [fragment.columns for fragment in fragments]
    names = list(columns[0])
    joined = {name: _beside([found[name] for found in columns]) for name in _PER_STEP}
    offsets = np.cumsum([0, *(fragment.num_rows for fragment in fragments[:-1])])
    index = [found["final_index"] + (0, offset) for found, offset in zip(columns, offsets, strict=True)]
    ended = joined["terminated"] | joined["truncated"]
    first = _beside([found["step"][:1] == 0 for found in columns])
    rows = [
        (fragment.worker << 40) + (found["env_index"].astype(np.int64) << 16) + found["agent_index"]
        for fragment, found in zip(fragments, columns, strict=True)
    ]
    return Rollout(
        observation={
            name.removeprefix(OBSERVATION): _beside([found[name] for found in columns])
            for name in names
            if name.startswith(OBSERVATION)
        },
        final_observation={
            name.removeprefix(FINAL): np.concatenate([found[name] for found in columns])
            for name in names
            if name.startswith(FINAL)
        },
        final_index=np.concatenate(index).astype(np.int32),
        is_first=np.concatenate([first, ended]),
        state={
            name.removeprefix(STATE): _beside([found[name] for found in columns])
            for name in names
            if name.startswith(STATE)
        },
        row=np.concatenate(rows),
        weight=None
        if duration_limit is None
        else duration_weights(_beside([found["end_s"] - found["start_s"] for found in columns]), duration_limit),
        **joined,
    )


def _beside(arrays: list[np.ndarray]) -> np.ndarray:
    """Joined along the rows' axis."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
