"""Commands that try things: whether this machine is fit, and whether a run survives what kills processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from distrl.cli.console import console


def chaos(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill, equally many of each role.")] = 20,
    minutes: Annotated[float, typer.Option(min=0.1, help="Over how long the kills are spread.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Decides who is killed.")] = 0,
    reference_minutes: Annotated[
        float, typer.Option(min=0.1, help="How long the same run without kills takes, for the throughput ratio.")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Keep runs and ledgers in this new folder.")] = None,
) -> None:
    """Train on this machine while killing its processes, and balance what was computed against what is secured."""
    from distrl import chaos as game

    with console.status("starting") as status:
        found = game.chaos(kills, minutes, seed, reference_minutes, out, status.update)
    sys.stdout.write(json.dumps(found) + "\n")
    if any(found[name] for name in ("lost", "duplicated", "invented", "orphans", "difference", "versions_decreased")):
        raise typer.Exit(1)


def doctor() -> None:
    """Check this machine: Python, Ray, torch and GPU, disk, shared memory, limits."""
    from distrl.doctor import checks

    table = Table("", "what", "found")
    worst = True
    for check in checks():
        worst &= check.good
        table.add_row("[green]✓" if check.good else "[red]✗", check.what, check.found)
    console.print(table)
    if not worst:
        raise typer.Exit(1)
