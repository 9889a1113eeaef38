"""``distrl tune-pool``: a configuration on the command line in, how to host its environments on this machine out."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from distrl.cli.console import SetOption, console
from distrl.core.config import RunConfig

if TYPE_CHECKING:
    from distrl.cluster.tune_pool import Tuned


def tune_pool(
    preset: Annotated[
        str, typer.Argument(help="A preset (cartpole, fin-ray, sac …) or a TOML file.", show_default=False)
    ],
    set_: SetOption = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="How long to measure in all, beside the time that processes take to start.")
    ] = 20.0,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores that the run may use; by default all of this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line and nothing else.")] = False,
) -> None:
    """Measure how a run's environments are best hosted on this machine: processes or not, how many, with reasons."""
    from distrl.cluster.tune_pool import tune

    config = RunConfig.load(preset, set_ or [])
    if as_json:
        sys.stdout.write(json.dumps(tune(config, seconds, cores).to_json()) + "\n")
        return
    with console.status("starting") as status:
        found = tune(config, seconds, cores, status.update)
    _show(found)


def _show(found: Tuned) -> None:
    from distrl.cluster.pool_choice import per_s
    from distrl.cluster.pool_choice import seconds as time_of

    table = Table("hosting", "rows", "env steps/s of one env worker", "CPU time a step", "memory an environment")
    for column in table.columns[1:]:
        column.justify = "right"
    for rung in found.rungs:
        table.add_row(
            rung.hosting,
            str(rung.rows),
            per_s(rung.env_steps_per_s),
            time_of(rung.cpu_s),
            f"{rung.memory_bytes / 1e6:.1f} MB",
        )
    console.print(table)
    layout = found.choice.layout
    _say(
        f"one update of the learner takes {time_of(found.update_s)}; a reset {time_of(found.reset_s)}; expected: "
        f"{per_s(layout.trained_per_s)} env steps/s trained on with {found.needs.cores:g} cores"
    )
    for text in (*found.choice.hints, *found.notes):
        _say(text)
    _say("\n" + found.to_toml())
    _say("or: " + " ".join(f"--set {key}={value}" for key, value in found.overrides().items()))


def _say(text: str) -> None:
    """Never wrapped: it may hold lines to copy."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)
