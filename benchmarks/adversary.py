"""A victim of tic-tac-toe hardened against an adversary that learns too: what the best adversary would still gain.

    python benchmarks/adversary.py --seeds 0 1 2 --env-steps 400000

The victim moves first, the adversary second; both are PPO policies of one run, each with a learning rate of its own and
no league. After it, the victim stays as it acted, by chance, and exact tree search tells what the best of all second
players gains from it. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from learned import machine

from distrl.api import train
from distrl.core.checkpoint import load_latest
from distrl.core.config import RunConfig
from distrl.core.policy_file import read_parts
from distrl.learners.league.exact import acting, best_response

OUT = Path(__file__).parent / "results" / "adversary.json"
FAST, SLOW, NEVER = 2e-3, 2e-4, 1e-12
CASES = {  # learning rates of victim and adversary
    "against random moves": (FAST, NEVER),
    "victim fast, adversary slow": (FAST, SLOW),
    "both fast": (FAST, FAST),
    "victim slow, adversary fast": (SLOW, FAST),
}


def gain(rates: tuple[float, float], seed: int, env_steps: int) -> float:
    """Of the best second player against the victim of one run: 1 at most, 0 against perfect play."""
    victim, adversary = rates
    with tempfile.TemporaryDirectory(prefix="distrl-adversary-") as folder:
        config = RunConfig(
            env={"id": "pettingzoo.classic.tictactoe_v3"},
            run={"steps": env_steps, "seed": seed, "out": f"{folder}/run"},
            actors={"env_workers": 1, "envs_per_worker": 64, "fragment_steps": 32},
            algorithm={
                "name": "ppo",
                "batch_size": 2048,
                "epochs": 4,
                "minibatches": 8,
                "hidden": [128, 128],
                "gamma": 1.0,
                "gae_lambda": 0.9,
                "normalize_advantages": False,
                "entropy_cost": 0.15,
            },
            policies={
                "victim": {"agents": ["player_1"], "algorithm": {"learning_rate": victim}},
                "adversary": {"agents": ["player_2"], "algorithm": {"learning_rate": adversary}},
            },
            evaluation={"period": env_steps, "episodes": 2, "final_episodes": 2},
        )
        run = train(config, local=True)
        return best_response(acting(_newest(run.directory), deterministic=False), seat=1)


def _newest(run: Path) -> Any:
    """The victim at the end of the run, as it acts in training; evaluations between perfect rivals choose none."""
    found = load_latest(run / "checkpoints")
    assert found is not None
    recipe, weights = read_parts(found[1], "victim")
    policy = recipe.build(seed=0)
    policy.load(weights)
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--env-steps", type=int, default=400_000)
    parser.add_argument("--out", type=Path, help=f"write the line there as well (committed: {OUT.name})")
    arguments = parser.parse_args()
    gains = {
        case: [round(gain(rates, seed, arguments.env_steps), 3) for seed in arguments.seeds]
        for case, rates in CASES.items()
    }
    line = json.dumps({"env_steps": arguments.env_steps, "best_response_gain": gains, "machine": machine()})
    print(line)
    if arguments.out is not None:
        arguments.out.write_text(line + "\n")


if __name__ == "__main__":
    main()
