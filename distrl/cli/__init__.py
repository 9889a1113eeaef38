"""The ``distrl`` command: words on the command line in, calls of ``distrl.api`` and its neighbours out."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from distrl.cli.console import console
from distrl.cli.envs import baseline, envs
from distrl.cli.health import chaos, doctor
from distrl.cli.jobs import list_jobs, stop, submit
from distrl.cli.log import log_app
from distrl.cli.report import report
from distrl.cli.runs import evaluate, reproduce, scale
from distrl.cli.train import train
from distrl.cli.tune import tune
from distrl.cli.tune_pool import tune_pool
from distrl.cli.watch import watch
from distrl.core.errors import DistrlError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Asynchronous reinforcement learning for expensive environments, on Ray or in one process.",
)
for command in (train, tune, watch, scale, evaluate, report, reproduce, chaos, baseline, tune_pool, envs, doctor):
    app.command()(command)
app.command()(submit)
app.command()(stop)
app.command("jobs")(list_jobs)
app.add_typer(log_app, name="log")


def main() -> None:
    """Entry point: what goes wrong is one sentence, not a traceback."""
    try:
        if code := app(standalone_mode=False):  # click returns the code of an Exit here, and raises none
            sys.exit(code)
    except DistrlError as error:
        console.print(f"[red]distrl:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
