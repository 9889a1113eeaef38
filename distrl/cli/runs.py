"""Commands about a run that there is: change its env workers, evaluate it, repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from distrl.cli.console import RunArgument, console, say


def scale(
    run: RunArgument,
    env_workers: Annotated[
        int | None, typer.Option(min=1, help="How many env workers the run should have from now on.")
    ] = None,
    learners: Annotated[
        int | None,
        typer.Option(min=1, help="How many learners, of the learner.count of a run with a parameter server."),
    ] = None,
) -> None:
    """Let env workers or learners join or leave a running job."""
    from distrl.cluster import launch
    from distrl.core.errors import ConfigError
    from distrl.core.run_directory import RunDirectory

    if env_workers is None and learners is None:
        raise ConfigError("distrl scale needs --env-workers N or --learners N, or both; neither came")
    changes = launch.scale(RunDirectory.open(run), env_workers, learners)
    words = {"env_workers": "env workers", "learners": "learners"}
    for name, (before, now) in changes.items():
        say(f"{run} goes from {before} to {now} {words[name]}")


def evaluate(
    run: RunArgument,
    episodes: Annotated[
        int, typer.Option(min=1, help="Deterministic episodes, each on a seed of its own that training never saw.")
    ] = 8,
    video: Annotated[Path | None, typer.Option(help="Also write a film of the first one (.mp4 or .gif).")] = None,
) -> None:
    """Evaluate the best policy of a run on held-out seeds."""
    import shutil

    from distrl import plots, results
    from distrl.actors.evaluator import mean_return
    from distrl.core.run_directory import RunDirectory

    directory = RunDirectory.open(run)
    config = directory.config()
    try:
        found = results.evaluate(directory, config, episodes)
    finally:
        shutil.rmtree(directory.scratch(), ignore_errors=True)
    table = Table("seed", "return", "length", "")
    for result in found:
        table.add_row(
            str(result.seed),
            f"{result.episode_return:.3f}",
            str(result.length),
            "diverged" if result.info.get("diverged") else str(result.info.get("failed", "")),
        )
    console.print(table)
    console.print(f"mean return {mean_return(found):.3f} over {len(found)} episodes")
    if video is not None:
        written = plots.film(directory, config, video)
        say(
            f"film: {written}"
            if written
            else f"no film: {config.env.id} renders no rgb arrays, or its renderer is missing"
        )


def reproduce(run: RunArgument) -> None:
    """Repeat a run's updates from its experience log, and say whether they are the same bit for bit."""
    from distrl import reproduce as repetition
    from distrl.core.run_directory import RunDirectory

    with console.status("repeating") as status:
        found = repetition.reproduce(
            RunDirectory.open(run), lambda update, total: status.update(f"update {update} of {total}")
        )
    compared = f"{found.metrics_compared} recorded metrics and {found.checkpoints_compared} checkpoints"
    if found.difference is None:
        say(f"{found.updates} updates repeated, the same bit for bit: {compared} compared")
    else:
        say(f"the repetition differs: {found.difference} ({compared} compared up to there)")
        raise typer.Exit(1)
