"""Fragments with known content, as a pool and builder would make them."""

import numpy as np

from distrl.core.types import ARRAY, COLUMNS, FINAL, OBSERVATION, Fragment


def fragment(
    steps: int = 4,
    rows: int = 1,
    *,
    episode_uid: int = 0,
    first_step: int = 0,
    terminated: bool = False,
    version: int = 0,
    incarnation: int = 0,
    size: int = 3,
) -> Fragment:
    """``rows`` episodes, numbered from ``episode_uid``; observation = 100·uid + step, reward = step; float32."""
    columns = {name: np.zeros((steps, rows), dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "TB"}
    columns |= {name: np.zeros(rows, dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "B"}
    uids = np.arange(episode_uid, episode_uid + rows)
    step = np.arange(first_step, first_step + steps + 1)[:, None] + np.zeros((1, rows))
    columns["episode_uid"][:] = uids
    columns["step"][:] = step[:-1]
    columns["reward"][:] = step[:-1]
    columns["policy_version"][:] = version
    columns["env_index"][:] = np.arange(rows)
    columns["terminated"][-1] = terminated
    columns["action"] = np.zeros((steps, rows, 1), np.float32)
    columns[OBSERVATION + ARRAY] = np.repeat((100.0 * uids + step)[..., None], size, 2).astype(np.float32)
    columns["final_index"] = np.zeros((0, 2), np.int32)
    columns[FINAL + ARRAY] = np.zeros((0, size), np.float32)
    return Fragment(columns, incarnation=incarnation)
