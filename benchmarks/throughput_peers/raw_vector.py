"""How fast Gymnasium's vectorisations step a case's environment on one core, with random actions and nobody to learn: a
case in, one JSON line out.

    python raw_vector.py --case cartpole [--seconds 2] [--rows 16 64]

``sync``: SyncVectorEnv. ``native``: the environment's own vector class (CartPole's in numpy; ALE's in C++, with one
thread). Env steps a wall second, the best of several blocks: a limit is what the machine can do undisturbed.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable

import gymnasium
from shared import IDS, make

BLOCKS = 5


def native_cartpole(rows: int) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(IDS["cartpole"], num_envs=rows, vectorization_mode="vector_entry_point")


def native_pong(rows: int) -> gymnasium.vector.VectorEnv:
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv("pong", num_envs=rows, num_threads=1)


NATIVE: dict[str, Callable[[int], gymnasium.vector.VectorEnv]] = {"cartpole": native_cartpole, "pong": native_pong}


def steps_per_s(vector: gymnasium.vector.VectorEnv, seconds: float) -> float:
    """Env steps a second: the best of ``BLOCKS`` blocks that take ``seconds`` together."""
    vector.reset(seed=0)
    vector.action_space.seed(0)
    actions = [vector.action_space.sample() for _ in range(64)]
    best = 0.0
    for _ in range(BLOCKS):
        steps, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds / BLOCKS:
            for action in actions[:8]:
                vector.step(action)
            actions = actions[8:] + actions[:8]
            steps += 8 * vector.num_envs
        best = max(best, steps / (time.perf_counter() - begin))
    vector.close()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=[case for case in IDS if case != "slow"], required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64])
    options, _ = parser.parse_known_args()
    found: dict[str, float] = {}
    for rows in options.rows:
        sync = gymnasium.vector.SyncVectorEnv([functools.partial(make, options.case)] * rows)
        found[f"sync {rows}"] = steps_per_s(sync, options.seconds)
        if options.case in NATIVE:
            found[f"native {rows}"] = steps_per_s(NATIVE[options.case](rows), options.seconds)
    print("\n" + json.dumps({"steps_per_s": max(found.values()), "by_vectorisation": found}))


if __name__ == "__main__":
    main()
