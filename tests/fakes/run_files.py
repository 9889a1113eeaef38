"""Run directories made by hand: what a run writes, without the run."""

from distrl.core.config import RunConfig
from distrl.core.metrics import JsonLines
from distrl.core.run_directory import RunDirectory

STATUS = {
    "kind": "status", "updates": 10, "session_s": 2.0, "busy": 0.9, "env_steps_per_s": 50.0, "staleness_p50": 1,
    "staleness_p99": 3, "staleness_max": 4, "recent_return": 5.0, "num_envs": 4, "env_workers": 2, "faults": 1,
    "evaluation": 7.0, "best": 7.0, "core_hours": 0.25, "waits_for": None,
}  # fmt: skip
WORKERS = [
    {"worker": 0, "num_envs": 2, "busy": 1.0, "waits_for": None},
    {"worker": 1, "num_envs": 2, "busy": 0.25, "waits_for": "newer weights"},
]


def hand_made(path, *overrides):
    """A new run directory, with its configuration."""
    config = RunConfig.load("sac", [f"run.out={path}", "run.steps=1000", *overrides])
    return RunDirectory.create(path, config), config


def write(run, name, *records):
    """Append to ``metrics``, ``timing`` or ``events``."""
    file = JsonLines(run.path / f"{name}.jsonl")
    for record in records:
        file.write(record)
    file.close()


def episode(env_steps, value, **more):
    return {"kind": "episode", "env_steps": env_steps, "return": value, "length": 10, "fidelity": "default"} | more


def status(env_steps, **more):
    return {**STATUS, "env_steps": env_steps, "wall_s": env_steps / 50, "workers": WORKERS} | more


def evaluation(env_steps, value, best):
    numbers = {"env_steps": env_steps, "updates": env_steps // 10, "return_mean": value, "best": best}
    return {"kind": "evaluation", **numbers, "returns": [value], "lengths": [10], "seeds": [1]}


def first_session(run):
    """100 env steps with one of everything."""
    diverged = {"diverged": True, "episode_drag": 2.0}
    episodes = [episode(20, 1.0, terminated=True), episode(40, 3.0, info=diverged), episode(60, 5.0)]
    losses = {"kind": "learner", "env_steps": 60, "updates": 6, "critic_loss": 0.5}
    write(run, "metrics", *episodes, losses, evaluation(100, 7.0, best=True))
    bins = {
        "kind": "histograms",
        "env_steps": 100,
        "staleness": [[0, 5], [3, 7]],
        "staleness/prey": [[3, 7]],
        "step_s": [[0.01, 11], [0.1, 1]],
    }
    write(run, "timing", status(50), status(100), bins)
    fault = {"kind": "fault", "fault": "crash", "message": "signal 11", "time_s": 1.0}
    write(run, "events", fault, {"kind": "restart", "role": "learner", "time_s": 2.0})
