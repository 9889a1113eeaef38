"""Two learners of one policy, through two shards of a parameter server: python examples/many_learners.py [--steps N]

``--mode all_reduce`` lets them go in step instead.
"""

import argparse

import distrl

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--mode", choices=["parameter_server", "all_reduce"], default="parameter_server")
    options = parser.parse_args()
    learner = {"mode": options.mode, "count": 2}
    if options.mode == "parameter_server":
        learner |= {"shards": 2, "staleness_bound": 4}
    result = distrl.train(
        distrl.RunConfig(
            env={"id": "Pendulum-v1", "delay": {"kind": "lognormal", "median_s": 0.01}},
            run={"steps": options.steps},
            actors={"env_workers": 2, "envs_per_worker": 4},
            algorithm={"name": "sac", "hidden": [64, 64], "batch_size": 64},
            replay={"min_size": 400, "samples_per_insert": 64},
            learner=learner,
        )
    )
    found = result.summary
    print(f"{found['updates']} updates by both; mean return {found['final_return_mean']:.0f} on held-out seeds")
    if "shards" in found:
        print(
            f"{found['shard_pushes'] // found['shards']} gradients pushed to each of {found['shards']} shards, "
            f"{found['gradient_staleness_mean']:.2f} updates late on average"
        )
