"""Fragments in, parts of them out, and joined again: cutting along time loses nothing that a step bootstraps from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distrl.core.types import COLUMNS, FINAL, OBSERVATION, Fragment


def part(fragment: Fragment, row: int, start: int, stop: int) -> Fragment:
    """Steps [start, stop) of one row, as a fragment with B = 1; views where possible."""
    columns = fragment.columns
    if (fragment.num_rows, start, stop) == (1, 0, fragment.num_steps):
        return fragment
    found = {}
    final = columns["final_index"]
    inside = (final[:, 1] == row) & (final[:, 0] >= start) & (final[:, 0] < stop)
    for name, column in columns.items():
        if name.startswith(OBSERVATION):
            found[name] = column[start : stop + 1, row : row + 1]
        elif name.startswith(FINAL):
            found[name] = column[inside]
        elif COLUMNS.get(name, ("", "TB"))[1] == "B":
            found[name] = column[row : row + 1]
        elif name != "final_index":
            found[name] = column[start:stop, row : row + 1]
    found["final_index"] = np.stack([final[inside, 0] - start, np.zeros(int(inside.sum()), np.int32)], 1).astype(
        np.int32
    )
    return Fragment(found, fragment.policy_id, fragment.worker, fragment.incarnation)


def some_rows(fragment: Fragment, start: int, stop: int) -> Fragment:
    """The rows [start, stop), whole; views where possible."""
    if (start, stop) == (0, fragment.num_rows):
        return fragment
    found, final = {}, fragment.columns["final_index"]
    inside = (final[:, 1] >= start) & (final[:, 1] < stop)
    for name, column in fragment.columns.items():
        if name.startswith(FINAL):
            found[name] = column[inside]
        elif COLUMNS.get(name, ("", "TB"))[1] == "B":
            found[name] = column[start:stop]
        elif name == "final_index":
            found[name] = column[inside] - np.array([0, start], np.int32)
        else:
            found[name] = column[:, start:stop]
    return Fragment(found, fragment.policy_id, fragment.worker, fragment.incarnation)


def join(parts: Sequence[Fragment]) -> Fragment:
    """Consecutive parts of one row's stream as one fragment; the inverse of cutting it with ``part``."""
    if len(parts) == 1:
        return parts[0]
    first, offsets = parts[0], np.cumsum([0, *(item.num_steps for item in parts)])
    columns = {}
    for name, column in first.columns.items():
        pieces = [item.columns[name] for item in parts]
        if name.startswith(OBSERVATION):
            columns[name] = np.concatenate([*(piece[:-1] for piece in pieces), pieces[-1][-1:]])
        elif COLUMNS.get(name, ("", "TB"))[1] == "B":
            columns[name] = column
        elif name == "final_index":
            shifted = [
                piece + np.array([offset, 0], np.int32) for piece, offset in zip(pieces, offsets[:-1], strict=True)
            ]
            columns[name] = np.concatenate(shifted).astype(np.int32)
        else:
            columns[name] = np.concatenate(pieces)
    return Fragment(columns, first.policy_id, first.worker, first.incarnation)


def runs(fragment: Fragment) -> Iterator[tuple[int, int, int]]:
    """(row, start, stop) of every stretch of consecutive steps of one episode, row by row."""
    uid, step = fragment.columns["episode_uid"], fragment.columns["step"]
    breaks = (uid[1:] != uid[:-1]) | (step[1:] != step[:-1] + 1)
    for row in range(fragment.num_rows):
        ends = [*(np.flatnonzero(breaks[:, row]) + 1).tolist(), fragment.num_steps]
        start = 0
        for stop in ends:
            yield row, start, stop
            start = stop
