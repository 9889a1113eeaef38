"""Which step size and horizon swing up a pendulum soonest: a sweep of four short runs, and what its best one is.

python examples/sweep.py [--steps 6000] [--samples 4]
"""

import argparse

import distrl


def search(steps: int, samples: int, out: str | None = None) -> distrl.SweepResult:
    """The sweep; ``out``: its folder."""
    sweep = distrl.SweepConfig.validated(
        {
            "config": "sac",
            "set": {
                "env": {"id": "Pendulum-v1"},
                "run": {"steps": steps},
                "actors": {"envs_per_worker": 1},
                "algorithm": {"hidden": [64, 64]},
                "replay": {"min_size": 100, "samples_per_insert": 64},
                "evaluation": {"period": steps // 3, "episodes": 2},
            },
            "space": {
                "algorithm.actor_learning_rate": {"loguniform": [1e-4, 1e-2]},
                "algorithm.hidden": {"choice": [[64, 64], [32, 32]]},
                "algorithm.gamma": {"uniform": [0.9, 0.99]},
            },
            "samples": samples,
            "out": out,
        }
    )
    return distrl.tune(sweep, show=lambda trial, values, result: print(trial, values, result.get(sweep.metric)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    found = search(options.steps, options.samples)
    best = found.rows[0]
    print(f"best: {best.values} with a return of {best.result['best_return_mean']:.0f}")
    print(f"distrl train {found.directory / 'best.toml'}")
