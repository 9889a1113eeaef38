"""Nothing in; one JSON line out: CPU seconds of HydroGym's ``KolmogorovFlow`` (JAX) as it comes, on one core.

A pseudo-spectral solver of the vorticity equation, 64 × 64 points on a square of side 2 pi, Re 200; a control step is
10 units of time (length 1 over velocity 1) in 10,000 Runge-Kutta steps. HydroGym 1.0.0 computes each of these twice:
once for the final state and once for the trajectory; the steps counted are the 10,000.
"""

import json
import math
import statistics
import time

import jax
import jax.numpy as jnp
from hydrogym.jax.envs.kolmogorov import KolmogorovFlow


def main() -> None:
    env = KolmogorovFlow()
    params, key = env.default_params, jax.random.PRNGKey(0)
    _, state = jax.jit(env.reset_env)(key, params)
    action = jnp.zeros(params.action_dim)
    step = jax.jit(env.step_env).lower(key, state, action, params).compile()
    taken, observation = [], None
    for _ in range(3):
        jax.block_until_ready(state)
        start = time.process_time()
        observation, state, *_ = jax.block_until_ready(step(key, state, action, params))
        taken.append(time.process_time() - start)
    step_s = statistics.median(taken)
    cells = env.n * env.m
    steps = round(params.action_time / params.dt)
    print(
        json.dumps(
            {
                "environment": "KolmogorovFlow",
                "grid": [env.n, env.m],
                "steps": steps,
                "s_per_control_step": round(step_s, 3),
                "mega_cell_steps_per_s": round(cells * steps / step_s / 1e6, 3),
                "s_per_convective_unit": round(step_s / params.action_time, 4),
                "crossings_per_s": round(cells * params.action_time * env.n / (2 * math.pi) / step_s),
                "observations_finite": bool(jnp.isfinite(observation).all()),
                "jax": jax.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
