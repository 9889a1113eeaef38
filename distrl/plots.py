"""A run directory in, pictures that a person can look at out: the learning curve, the staleness of what was trained on,
and a film of the best policy.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.report.points import Clock, evaluations

_POLICY, _TRAINING, _BASELINE, _NOTHING, _OTHER = "#1f5fa8", "#9db8d6", "#c2571a", "#777777", "#d5cfc3"


def learning_curve(directory: Path, summary: dict[str, Any]) -> Path:
    """``learning_curve.png``: return against env steps (of an offline run, updates) and against wall time, with the
    baseline where there is one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metrics = read_json_lines(directory / "metrics.jsonl")
    timing = read_json_lines(directory / "timing.jsonl")
    evaluated = evaluations(metrics, timing, Clock([record for record in timing if record["kind"] == "totals"]))
    status = [record for record in timing if record["kind"] == "status"]
    episodes = [record for record in metrics if record["kind"] == "episode"]

    figure, (by_steps, by_time) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    config = RunDirectory.open(directory).config()
    target, steps = config.env.fidelity, "updates" if config.offline.data else "env_steps"
    for level in dict.fromkeys(e["fidelity"] for e in episodes):  # returns of two fidelities are two curves
        own = target is None or level == target
        by_steps.plot(
            [e["env_steps"] for e in episodes if e["fidelity"] == level],
            [e["return"] for e in episodes if e["fidelity"] == level],
            "." if own else "x",
            ms=3,
            color=_TRAINING if own else _OTHER,
            label="training episodes" if own else f"… at {level}",
            zorder=1.9 if own else 1.8,
        )
    recent = [(record["wall_s"], record["recent_return"]) for record in status if record["recent_return"] is not None]
    if recent:
        by_time.plot(*zip(*recent, strict=True), "-", lw=1, color=_TRAINING, label="training, last 20 episodes")
    for axes, places in ((by_steps, getattr(evaluated, steps)), (by_time, evaluated.wall_s)):
        axes.plot(places, evaluated.value, "o-", ms=4, color=_POLICY, label="evaluation, held-out seeds")
    references = (
        ("data_return_mean", "the data", _TRAINING, "-."),
        ("baseline_selection_return", "best baseline", _BASELINE, "--"),
        ("nothing_return", "doing nothing", _NOTHING, ":"),
    )
    for axes in (by_steps, by_time):
        for key, label, color, style in references:
            if summary.get(key) is not None:
                axes.axhline(summary[key], color=color, ls=style, lw=1.2, label=label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    by_steps.set(xlabel=steps.replace("_", " "), ylabel="episode return")
    by_time.set(xlabel="wall time [s]")
    by_steps.legend(frameon=False, fontsize=8)
    by_time.legend(frameon=False, fontsize=8)
    figure.suptitle(directory.resolve().name, fontsize=10)
    path = directory / "learning_curve.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def staleness(directory: Path, summary: dict[str, Any]) -> Path:
    """``staleness.png``: how much older than the learner's the policies were that had acted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), constrained_layout=True)
    most, counts = zip(*summary["staleness_counts"], strict=True) if summary["staleness_counts"] else ((), ())
    places, total = range(len(most)), max(sum(counts), 1)
    axes.bar(places, [count / total for count in counts], color=_TRAINING)
    axes.set_xticks(places, [f"{number:g}" for number in most], rotation=90 if len(most) > 16 else 0)
    for percentile, style in (("p50", ":"), ("p99", "--")):
        if summary[f"staleness_{percentile}"] in most:
            place = most.index(summary[f"staleness_{percentile}"])
            axes.axvline(place, color=_BASELINE, ls=style, label=f"{percentile[1:]} % of them up to here")
            axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="staleness: updates since the policy that acted, at most", ylabel="share of transitions")
    axes.spines[["top", "right"]].set_visible(False)
    path = directory / "staleness.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def film(
    run: RunDirectory, config: RunConfig, path: Path, seed: int | None = None, max_frames: int = 600
) -> Path | None:
    """One episode of the best policy as a film, with its middle frame beside it; None where the environment cannot
    render.
    """
    import imageio
    from gymnasium.error import DependencyNotInstalled

    from distrl.actors.evaluator import act_alone
    from distrl.cluster import components
    from distrl.envs.resolve import make, renderable, spec_of
    from distrl.loading import load_policies

    recipe = renderable(dataclasses.replace(config.env.recipe(), delay=None))  # delays and crashes are the training's
    if recipe is None:
        return None
    env = make(recipe)
    spec = spec_of(env, recipe)
    act = act_alone(spec, components.evaluation_act(config, spec, load_policies(run.path), 1))
    try:
        observation, _ = env.reset(seed=components.TEST_SEEDS if seed is None else seed)
        frames: list[Any] = [_even(env.render())]
        over = False
        while not over and len(frames) < max_frames:
            observation, _, terminated, truncated, _ = env.step(act(observation))
            over = bool(terminated or truncated)
            frames.append(_even(env.render()))
    except DependencyNotInstalled:  # Gymnasium's own environments render with packages that nothing else needs
        return None
    finally:
        env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = int(env.metadata.get("render_fps", 20))
    imageio.mimwrite(path, frames, fps=rate, macro_block_size=2)
    imageio.imwrite(path.with_suffix(".png"), frames[len(frames) // 2])
    return path


def _even(frame: Any) -> np.ndarray:
    """Video codecs want even sides."""
    frame = np.asarray(frame)
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
