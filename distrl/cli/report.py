"""``distrl report``: run directories on the command line in, an HTML page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.console import say


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The file; by default RUN/report.html, of several runs report.html in this folder."),
    ] = None,
) -> None:
    """Write all that a run, or several, has to show as one HTML page that opens without a network."""
    from distrl.report import write_report

    written = write_report(runs, out)
    say(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")
