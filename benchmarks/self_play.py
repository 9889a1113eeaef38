"""Tic-tac-toe by self-play: a league's run in, exact measures of every snapshot and games against a perfect player out.

    python benchmarks/self_play.py --seeds 0 1 2          # trains the preset tic-tac-toe, 10 minutes or so a seed
    python benchmarks/self_play.py --run runs/mine        # measures a run that is there

NashConv (what best responses gain against a policy in both seats together) is exact, by full tree search, of the policy
as it is evaluated (its most probable move) and as it acts in training (by chance). The last policy then plays 1,000
games of PettingZoo's environment, half of them in each seat, against a player that draws from all perfect moves. One
JSON line, and a picture of the curves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from learned import machine

from distrl.api import load_policy, train
from distrl.core.config import RunConfig
from distrl.core.metrics import read_json_lines
from distrl.learners.league.exact import acting, nash_conv, perfect
from distrl.learners.league.players import Players, read_snapshot

RESULTS = Path(__file__).parent / "results" / "self_play"
GAMES = 1000


def measure(run: Path) -> dict[str, Any]:
    """Of one finished run."""
    facts = list(read_json_lines(run / "metrics.jsonl"))
    learner = {one["updates"]: one["env_steps"] for one in facts if one["kind"] == "learner"}
    episodes = [one for one in facts if one["kind"] == "episode"]
    summary = json.loads((run / "summary.json").read_text())
    players = Players(run / "league", {})
    curve = []
    for snapshot in players.snapshots:
        recipe, weights = read_snapshot(run / "league", snapshot.name)
        greedy, stochastic = recipe.build(seed=0, deterministic=True), recipe.build(seed=0)
        greedy.load(weights)
        stochastic.load(weights)
        curve.append(
            {
                "updates": snapshot.version,
                "nash_conv": abs(nash_conv(acting(greedy))),
                "nash_conv_stochastic": nash_conv(acting(stochastic, deterministic=False)),
            }
        )
    last = load_policy(run).policy
    return {
        "nash_conv": abs(nash_conv(acting(last))),  # never −0
        **games(last, np.random.default_rng(0)),
        # PettingZoo ends a game at an illegal move: −1 for whoever made it, 0 for the other
        "illegal_moves_in_training": sum(sum(episode["scores"]) != 0 for episode in episodes),
        "games_in_training": len(episodes),
        "env_steps": summary["env_steps"],
        "updates": summary["updates"],
        "wall_s": round(summary["wall_s"], 1),
        "env_steps_per_update": max(learner.values()) / max(learner),
        "curve": curve,
    }


def games(policy: Any, rng: np.random.Generator) -> dict[str, Any]:
    """How games in PettingZoo's environment end, ``policy`` in each seat in turn."""
    from pettingzoo.classic import tictactoe_v3

    env = tictactoe_v3.raw_env()
    results = {"wins": 0, "draws": 0, "losses": 0, "illegal_moves": 0}
    for game in range(GAMES):
        env.reset()
        own = env.possible_agents[game % 2]
        while not any(env.terminations.values()):
            seen = {path: array[None] for path, array in env.observe(env.agent_selection).items()}
            if env.agent_selection == own:
                move = int(policy.env_action(policy.step(seen, {}, np.zeros(1, bool))[0])[0])
                if not seen["action_mask"][0, move]:
                    results["illegal_moves"] += 1
                    break
            else:
                move = rng.choice(9, p=perfect(seen["observation"], seen["action_mask"])[0])
            env.step(move)
        else:
            reward = env.rewards[own]
            results["wins" if reward > 0 else "losses" if reward < 0 else "draws"] += 1
    return {"games": GAMES, **results}


def draw(path: Path, runs: dict[int, dict[str, Any]]) -> None:
    """NashConv against env steps, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), constrained_layout=True)
    for name, colour, label in (
        ("nash_conv_stochastic", "#1f5fa8", "as it acts in training"),
        ("nash_conv", "#c2571a", "its most probable moves"),
    ):
        for number, run in enumerate(runs.values()):
            steps = [point["updates"] * run["env_steps_per_update"] for point in run["curve"]]
            values = [point[name] for point in run["curve"]]
            axes.plot(steps, values, lw=1.2, color=colour, alpha=0.7, label=None if number else label)
    axes.axhline(0.05, color="#777777", lw=0.8, ls="--")
    axes.set(xlabel="env steps (moves)", ylabel="NashConv (0: perfect play)", ylim=(-0.05, 2.1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="tic-tac-toe", help="a preset or a TOML file")
    parser.add_argument("--run", type=Path, help="measure this run, and train none")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where nash_conv.png and result.json go")
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(measure(arguments.run) | {"machine": machine()}))
        return
    runs = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory(prefix="distrl-self-play-") as folder:
            config = RunConfig.load(arguments.preset, [f"run.seed={seed}", f"run.out={folder}/run"])
            runs[seed] = measure(train(config).directory)
    draw(arguments.out / "nash_conv.png", runs)
    line = {"preset": arguments.preset, "machine": machine(), "runs": runs}
    (arguments.out / "result.json").write_text(json.dumps(line, indent=1) + "\n")
    short = {seed: {name: value for name, value in run.items() if name != "curve"} for seed, run in runs.items()}
    print(json.dumps(line | {"runs": short}))


if __name__ == "__main__":
    main()
