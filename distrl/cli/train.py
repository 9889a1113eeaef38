"""``distrl train``: a configuration on the command line in, a run out, and what it came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from distrl.cli.console import SetOption, console, say, stop_on_signals
from distrl.core.config import RunConfig
from distrl.core.config_input import apply_override, read_toml


def train(
    preset: Annotated[
        str | None, typer.Argument(help="A preset (fin-ray, fin-ray-full, sac …) or a TOML file.", show_default=False)
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.PATH=VALUE]…", help="As with --set; wandb agent writes them.", show_default=False),
    ] = None,
    set_: SetOption = None,
    env_workers: Annotated[int | None, typer.Option(help="actors.env_workers")] = None,
    steps: Annotated[int | None, typer.Option(help="run.steps: env steps in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="run.seed")] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="algorithm.name, without the preset's options of another one; rllib:PPO, SAC, APPO or IMPALA is "
            "RLlib's, as a baseline, with RLlib's options."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run.out: the run directory.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run directory, with its own configuration.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Everything in one process, without Ray; deterministic.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster; without it Ray runs on this machine.")] = None,
) -> None:
    """Train a policy and show what it learned; with offline.data=[RUN, …], from their logs alone."""
    from distrl import api
    from distrl.monitor.terminal import Progress

    overrides = [*(set_ or []), *(keys or [])]
    if preset is not None and "=" in preset and not preset.endswith(".toml"):
        overrides.append(preset)
        preset = None
    if local and address is not None:
        raise typer.BadParameter("--local runs in one process, --address on a Ray cluster: give one of them")
    if resume is not None and out is not None:
        raise typer.BadParameter("--resume continues in its own directory: leave out --out")
    if resume is not None:
        from distrl.core.run_directory import RunDirectory

        if preset is not None:
            raise typer.BadParameter(
                "--resume continues with the run's own configuration: leave out the preset (--set still applies)"
            )
        data = read_toml(RunDirectory.open(resume).path / "config.toml")
    elif preset is None:
        raise typer.BadParameter("name a preset or a TOML file, or continue a run with --resume DIR")
    else:
        data = read_toml(preset)
    if algorithm is not None and resume is not None:
        raise typer.BadParameter("--resume continues with the run's own algorithm: leave out --algorithm")
    if algorithm is not None and data.get("algorithm", {}).get("name") != algorithm:
        data["algorithm"] = {"name": algorithm}
    for override in overrides:
        apply_override(data, override)
    for key, value in (("actors.env_workers", env_workers), ("run.steps", steps), ("run.seed", seed), ("run.out", out)):
        if value is not None:
            apply_override(data, f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}")
    config = RunConfig.validated(data)

    stop = stop_on_signals("stopping with a checkpoint; once more to stop at once")
    with Progress(console, config.run.steps) as progress:
        result = api.train(config, resume=resume, local=local, address=address, show=progress.show, stop=stop)
    show_summary(result.summary)
    if result.summary["interrupted"] and config.algorithm.name.startswith("rllib:"):
        say(f"stopped; RLlib's runs cannot be continued; what it came to is in {result.directory}")
    elif result.summary["interrupted"]:
        say(f"stopped with a checkpoint; continue with: distrl train --resume {result.directory}")
    else:
        say(f"everything is in {result.directory}: summary.json, learning_curve.png, media/")


def show_summary(summary: dict[str, Any]) -> None:
    """The comparison and the run's totals as tables."""
    rows = summary.get("comparison", [])
    if rows:
        names = [name for name in rows[0] if name not in ("who", "return_mean", "return_std", "episodes", "diverged")]
        table = Table(
            "",
            "return",
            "± std",
            *(name.removeprefix("episode_") for name in names),
            "diverged",
            title=f"{rows[0]['episodes']} episodes on held-out seeds",
        )
        for row in rows:
            numbers = [row["return_mean"], row["return_std"], *(row.get(name) for name in names)]
            table.add_row(
                row["who"], *("–" if value is None else f"{value:.3f}" for value in numbers), str(row["diverged"])
            )
        console.print(table)
    if "data_transitions" in summary:
        mean, std = summary["data_return_mean"], summary["data_return_std"]
        returns = "" if mean is None else f", which returned {mean:.3f} ± {std:.3f}"
        say(
            f"{summary['updates']} updates in {summary['wall_s']:.0f} s ({summary['updates_per_s']:.1f} updates/s), "
            f"from {summary['data_transitions']} transitions with {summary['data_episodes']} whole episodes{returns}"
        )
        return
    say(
        f"{summary['env_steps']} env steps, {summary['updates']} updates in {summary['wall_s']:.0f} s · "
        f"environments busy {summary['env_busy_fraction']:.0%} · {summary['updates_per_s']:.1f} updates/s · "
        f"{summary['core_hours']:.3f} core-hours"
    )
    if "staleness_p50" not in summary:  # RLlib does not say
        return
    say(
        f"staleness {summary['staleness_p50']} updates or less for half of the transitions, "
        f"{summary['staleness_p90']} for 90 %, {summary['staleness_p99']} for 99 %, at most "
        f"{summary['staleness_max']}"
    )
