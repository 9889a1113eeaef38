"""``distrl watch``: a run in another terminal, or on another cluster in, the display of ``distrl train`` out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.console import console, say


def watch(
    run: Annotated[
        str, typer.Argument(help="A run directory; with --address, the id of a run (run.json).", show_default=False)
    ],
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, for a run whose directory cannot be seen from here.")
    ] = None,
) -> None:
    """Follow a live run from another terminal, until it has ended."""
    from distrl.core.run_directory import RunDirectory
    from distrl.monitor.terminal import Progress
    from distrl.monitor.watch import follow

    if address is not None:
        from distrl.cluster.watch import follow_on_cluster

        polls = follow_on_cluster(run, address)
        steps = next(polls)[0]["steps"]
    else:
        directory = RunDirectory.open(Path(run))
        polls, steps = follow(directory), directory.config().run.steps
    ended = ""
    with Progress(console, steps) as progress:
        for statuses in polls:
            for status in statuses[:-1]:
                progress.remember(status)
            progress.show(statuses[-1])
            ended = statuses[-1].get("ended", "")
    say(f"{run}: {ended}")
