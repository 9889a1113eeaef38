"""The ``distrl`` command: words on the command line in, calls of ``distrl.api`` and its neighbours out."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from distrl.cli_log import log_app
from distrl.cli_tune_pool import tune_pool
from distrl.core.config import RunConfig
from distrl.core.config_input import apply_override, read_toml
from distrl.core.errors import DistrlError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Asynchronous reinforcement learning for expensive environments, on Ray or in one process.",
)
app.add_typer(log_app, name="log")
app.command()(tune_pool)
console = Console()

RunArgument = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]


@app.command()
def train(
    preset: Annotated[
        str | None, typer.Argument(help="A preset (fin-ray, fin-ray-full, sac …) or a TOML file.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override any key of the configuration; repeatable."),
    ] = None,
    env_workers: Annotated[int | None, typer.Option(help="actors.env_workers")] = None,
    steps: Annotated[int | None, typer.Option(help="run.steps: env steps in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="run.seed")] = None,
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
    from distrl.progress import Progress

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
    for override in set_ or []:
        apply_override(data, override)
    for key, value in (("actors.env_workers", env_workers), ("run.steps", steps), ("run.seed", seed), ("run.out", out)):
        if value is not None:
            apply_override(data, f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}")
    config = RunConfig.validated(data)

    stop = threading.Event()
    _stop_on_signals(stop)
    with Progress(console, config.run.steps) as progress:
        result = api.train(config, resume=resume, local=local, address=address, show=progress.show, stop=stop)
    show_summary(result.summary)
    if result.summary["interrupted"]:
        say(f"stopped with a checkpoint; continue with: distrl train --resume {result.directory}")
    else:
        say(f"everything is in {result.directory}: summary.json, learning_curve.png, staleness.png, media/")


def say(text: str) -> None:
    """One line, never wrapped: it may hold a command to copy."""
    console.print(text, soft_wrap=True, highlight=False)


def _stop_on_signals(stop: threading.Event) -> None:
    """The first Ctrl-C or SIGTERM ends the run with a checkpoint, the second at once."""

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.print("stopping with a checkpoint; once more to stop at once")

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


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
    say(
        f"staleness {summary['staleness_p50']} updates or less for half of the transitions, "
        f"{summary['staleness_p90']} for 90 %, {summary['staleness_p99']} for 99 %, at most "
        f"{summary['staleness_max']}"
    )


@app.command()
def scale(
    run: RunArgument,
    env_workers: Annotated[int, typer.Option(min=1, help="How many env workers the run should have from now on.")],
) -> None:
    """Let env workers join or leave a running job."""
    from distrl.cluster import launch
    from distrl.core.run_directory import RunDirectory

    before = launch.scale(RunDirectory.open(run), env_workers)
    say(f"{run} goes from {before} to {env_workers} env workers")


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def baseline(
    env: Annotated[str, typer.Argument(help="A preset, a TOML file or an environment id.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override any key of the configuration; repeatable."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each candidate, on the same seeds.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the table goes; by default beside the environments, where `distrl train` finds it."),
    ] = None,
) -> None:
    """Search an environment's open-loop controllers (for the fin ray: sinusoids) and store the table."""
    from distrl import baseline as search

    config = config_for_env(env, set_ or [])
    with console.status("searching") as status:

        def show(number: int, total: int, entry: dict[str, Any]) -> None:
            status.update(f"{number}/{total}  {entry['params']}  return {entry['return_mean']:.3f}")

        document = search.search(config, episodes, show)
    path = out or search.table_path(config)
    search.store(document, path)
    table = Table("parameters", "return", title=f"best of {len(document['table'])}")
    for entry in document["table"][:10]:
        parameters = (f"{name} {_short(value)}" for name, value in entry["params"].items())
        table.add_row(", ".join(parameters), f"{entry['return_mean']:.3f}")
    console.print(table)
    say(f"stored in {path}")


def _short(value: Any) -> str:
    """A controller's parameter: a number, or a list of them."""
    return " ".join(map(_short, value)) if isinstance(value, list) else f"{value:g}"


def config_for_env(name: str, overrides: list[str]) -> RunConfig:
    """The configuration of a preset or TOML file, or the defaults around an environment id."""
    from distrl.core.config_input import presets_directory

    known = name.endswith(".toml") or (presets_directory() / f"{name}.toml").exists()
    data = (
        read_toml(name)
        if known or ("/" not in name and ":" not in name and "-v" not in name)
        else {"env": {"id": name}}
    )
    for override in overrides:
        apply_override(data, override)
    return RunConfig.validated(data)


@app.command()
def envs() -> None:
    """List the environments with their fidelities and what a step costs."""
    from distrl.envs.resolve import list_envs

    table = Table(
        Column("id", no_wrap=True), Column("fidelity ≈ s a step", no_wrap=True), "what it is", show_lines=True
    )
    for entry in list_envs():
        costs = [f"{name} {seconds:.3g}" if seconds else name for name, seconds in entry.fidelities.items()]
        table.add_row(entry.id, "\n".join(costs), entry.problem or entry.description)
    console.print(table)
    console.print(
        "Any Gymnasium id, PettingZoo module and package.module:Class can be trained as well: distrl train sac --set "
        "env.id=…"
    )


@app.command()
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


if __name__ == "__main__":
    main()
