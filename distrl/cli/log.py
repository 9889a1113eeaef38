"""``distrl log``: a run's experience, which outlives the run, in; a table, a verdict or a file of it out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from distrl.cli.console import RunArgument, console
from distrl.core.episodes import Quality

log_app = typer.Typer(no_args_is_help=True, help="Look at a run's experience, check it, or export it.")


class Form(StrEnum):
    """What a log can be exported to."""

    MINARI = "minari"
    PARQUET = "parquet"


@log_app.command()
def ls(run: RunArgument) -> None:
    """What is in the log."""
    from distrl.experience import open_log, survey

    log = open_log(run)
    found = survey(log)
    table = Table(show_header=False)
    if log.facts is not None:
        table.add_row("run", log.facts.run_id)
        table.add_row("environment", log.facts.env_id)
        for agent in log.facts.agents:
            table.add_row(f"agent {agent.name}", f"{agent.observation_space} → {agent.action_space}")
        if not log.facts.agents:
            table.add_row("observations", str(log.facts.observation_space))
            table.add_row("actions", str(log.facts.action_space))
    low, high = found.versions
    for name, value in {
        "segments": f"{found.num_segments}",
        "bytes": f"{found.num_bytes} ({found.num_bytes / 1e6:.1f} MB)",
        "fragments": f"{found.num_fragments}",
        "transitions": f"{found.num_transitions}",
        "episodes": f"{found.num_episodes}, {found.num_ended} of them to the end",
        "env workers' lives": f"{len(found.lives)}",
        "policy versions": f"{low} to {high}",
        "fidelities": ", ".join(f"{name}: {count}" for name, count in sorted(found.fidelities.items())),
        "env time": f"{found.env_s:.1f} s",
        "core-hours": f"{found.core_s / 3600:.4f}",
    }.items():
        table.add_row(name, value)
    console.print(table)
    _say(found.damaged)


@log_app.command()
def verify(run: RunArgument) -> None:
    """Read every record and its checksum; ends with 1 and a sentence each where something is damaged."""
    from distrl.experience import open_log, survey

    found = survey(open_log(run))
    fewest, mean, most = found.episode_versions
    _say(
        [
            f"{found.num_fragments} fragments with {found.num_transitions} transitions of {found.num_episodes} "
            f"episodes were read from {found.num_segments} segments",
            f"{found.num_duplicates} transitions are there more than once; {found.num_recomputed} were computed more "
            "than once",
            f"{found.num_gaps} episodes lack steps in front of others, {found.num_missing} in all",
            f"{fewest} to {most} policy versions acted in an episode, {mean:.1f} in the mean",
            *found.damaged,
            f"{len(found.damaged)} damaged" if found.damaged else "nothing is damaged",
        ]
    )
    if found.damaged:
        raise typer.Exit(1)


@log_app.command()
def export(
    run: RunArgument,
    to: Annotated[
        Form,
        typer.Option(
            help="parquet: one file for each policy, one row per transition; minari: a dataset of episodes for each "
            "policy."
        ),
    ] = Form.PARQUET,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The Parquet file, or the folder that Minari is to find its datasets in; by default below RUN/export."
        ),
    ] = None,
) -> None:
    """Write the log for other tools: everything in it that can be read."""
    from distrl.experience import open_log
    from distrl.export import to_minari, to_parquet

    log = open_log(run)
    out = out or run / "export" / ("experience.parquet" if to is Form.PARQUET else "minari")
    written = to_parquet(log, out) if to is Form.PARQUET else to_minari(log, out)
    _say([*log.damaged, f"{written.what}: {', '.join(map(str, written.paths))}"])
    if to is Form.MINARI:
        names = [path.relative_to(out.absolute()) for path in written.paths]
        load = " and ".join(f"minari.load_dataset('{name}')" for name in names)
        _say([f"read it with MINARI_DATASETS_PATH={out.absolute()}: {load}"])


@log_app.command()
def mix(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    quality: Annotated[
        Quality,
        typer.Option(
            help="good, medium, poor: episodes from when the policy was in the highest, middle, lowest third of the "
            "levels that it went through; replay: from all of the run.",
            show_default=False,
        ),
    ],
    episodes: Annotated[int, typer.Option(min=1, help="How many, drawn at random.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new directory, for offline.data=[…].", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Decides which.")] = 0,
) -> None:
    """Write some of the whole episodes of runs as a dataset to learn from offline."""
    from distrl import mixes

    found = mixes.mix(runs, quality, episodes, out, seed)
    numbers = found.statistics()
    mean, std, low, high = (f"{numbers[f'return_{name}']:.3f}" for name in ("mean", "std", "min", "max"))
    said = f"{found.num_episodes} episodes with {found.num_transitions} transitions"
    said += f", returns {mean} ± {std} ({low} to {high})"
    if found.coverage is not None:
        said += f", {found.coverage:.0%} of joint observations and actions are different"
    _say([*found.damaged, f"{said}: {found.path}"])


def _say(sentences: list[str]) -> None:
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
