"""Commands about jobs on a Ray cluster: submit one, list them, stop one."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from distrl.cli.console import console, say
from distrl.core.config_input import apply_override, read_toml
from distrl.core.errors import ConfigError

AddressOption = Annotated[
    str, typer.Option(help="The cluster's dashboard, such as http://127.0.0.1:8265.", show_default=False)
]


def submit(
    words: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND …", help="What runs there: train PRESET --out DIR …")
    ],
    address: AddressOption,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show its log until it ends, and exit with its exit code; Ctrl-C stops it.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Forward this environment variable; no other is. Repeatable."),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="Ship this wheel in place of the working tree.", show_default=False)
    ] = None,
    stop_grace_s: Annotated[
        int, typer.Option(min=1, help="Seconds that a stopped job has for its checkpoint before Ray kills it.")
    ] = 300,
) -> None:
    """Run a distrl command as a job on a Ray cluster."""
    from distrl.cluster import jobs

    _check(words)
    there = jobs.Jobs(address)
    with tempfile.TemporaryDirectory() as folder:
        shipped = Path.cwd() if wheel is None else jobs.unpacked(wheel, Path(folder))
        job = there.submit(words, jobs.environment(shipped, env or [], stop_grace_s))
    say(f"{job} runs distrl {' '.join(words)}")
    if not wait:
        say(f"stop it with: distrl stop {job} --address {address}")
        return

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    code = there.follow(
        job, write, lambda: say(f"stopping {job}, which has {stop_grace_s} s for its checkpoint; once more to leave it")
    )
    raise typer.Exit(code)


def list_jobs(address: AddressOption) -> None:
    """List the jobs of a Ray cluster."""
    from distrl.cluster.jobs import Jobs

    table = Table(*(Column(name, no_wrap=True) for name in ("job", "status", "began", "lasted")), "command")
    for job in Jobs(address).list():
        began = "" if job.start_s is None else time.strftime("%m-%d %H:%M", time.localtime(job.start_s))
        lasted = "" if job.start_s is None else f"{(job.end_s or time.time()) - job.start_s:.0f} s"
        status = job.status if not job.exit_code else f"{job.status} ({job.exit_code})"
        table.add_row(job.id, status, began, lasted, job.command)
    console.print(table)


def stop(
    job: Annotated[str, typer.Argument(help="A job's id, as distrl jobs lists it.", show_default=False)],
    address: AddressOption,
) -> None:
    """End a job of a Ray cluster, with a checkpoint."""
    from distrl.cluster.jobs import Jobs

    running = Jobs(address).stop(job)
    say(f"{job} ends, with a checkpoint" if running else f"{job} had ended before")


def _check(words: list[str]) -> None:
    """What a command's own options refuse is refused here, before anything travels."""
    from distrl.cli import app

    commands: Any = typer.main.get_command(app)
    if words[0] not in commands.commands:
        known = ", ".join(commands.commands)
        raise typer.BadParameter(f"a job is one of distrl's commands ({known}), but {words[0]!r} came")
    given = commands.commands[words[0]].make_context(words[0], list(words[1:])).params
    if given.get("local"):
        raise typer.BadParameter("--local runs in one process, a job on a Ray cluster: leave out --local")
    if "out" in given and "resume" in given:
        _check_kept(words[0], given)


def _check_kept(command: str, given: dict[str, Any]) -> None:
    """What a job writes into its own folder is deleted after it has ended."""
    name, path = "--out", given["out"]
    if given["resume"] is not None:
        name, path = "--resume", given["resume"]
    elif path is None:
        path = _configured(command, given)
    if path is None or not Path(path).is_absolute():
        came = "none came" if path is None else f"{path} came"
        raise ConfigError(
            f"a job's own folder is deleted after it has ended, so {name} must be an absolute path, on storage that "
            f"the cluster's nodes share, but {came}"
        )


def _configured(command: str, given: dict[str, Any]) -> str | None:
    """What --out would be without the option."""
    if command == "tune":
        from distrl.core.sweep import SweepConfig

        return SweepConfig.load(given["sweep"], given["set_"] or []).out if given["sweep"] is not None else None
    overrides = [word for word in (given["preset"], *(given["keys"] or [])) if word is not None and "=" in word]
    data: dict[str, Any] = read_toml(given["preset"]) if given["preset"] not in (None, *overrides) else {}
    for override in [*(given["set_"] or []), *overrides]:
        apply_override(data, override)
    return data.get("run", {}).get("out")
