"""``distrl tune``: a sweep on the command line in, many runs out, and which of them was best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from distrl.cli.console import console, say, stop_on_signals
from distrl.core.sweep import METRICS, SweepConfig

_METRICS = "; ".join(f"{name}: {meaning}" for name, meaning in METRICS.items())


def tune(
    sweep: Annotated[
        str | None, typer.Argument(help="A shipped sweep (ks, cartpole …) or a TOML file.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="Override any key of the sweep, such as samples=8 or set.run.steps=20000; repeatable.",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="samples: trials.")] = None,
    core_hours: Annotated[float | None, typer.Option(help="core_hours: of all trials together.")] = None,
    metric: Annotated[str | None, typer.Option(help=f"metric: what is best. {_METRICS}.")] = None,
    out: Annotated[Path | None, typer.Option(help="out: the sweep's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster; without it Ray runs on this machine.")] = None,
) -> None:
    """Search a space of configurations with Ray Tune; leaves a table, pictures and the best one as TOML."""
    from distrl import api

    if resume is not None:
        if sweep is not None or set_ or samples or core_hours or metric or out:
            raise typer.BadParameter("--resume goes on with the sweep as it was: leave out the sweep and its options")
        config = api.read_sweep(resume)
    elif sweep is None:
        raise typer.BadParameter("name a sweep or a TOML file, or go on with one by --resume DIR")
    else:
        options = {"samples": samples, "core_hours": core_hours, "metric": metric, "out": str(out) if out else None}
        given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
        config = SweepConfig.load(sweep, [*(set_ or []), *given])
    stop = stop_on_signals("stopping, each trial with a checkpoint; once more to stop at once")

    def show(trial: str, values: dict[str, Any], result: dict[str, Any]) -> None:
        if "failure" in result:
            return say(f"{trial}  failed: {result['failure']}")
        drawn = " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())
        say(
            f"{trial}  {result['env_steps']} env steps  {result['core_hours']:.3f} core-hours  "
            f"{config.metric} {_short(result.get(config.metric))}  {drawn}"
        )

    result = api.tune(config, resume=resume, address=address, show=show, stop=stop)
    table = Table(
        "trial", config.metric, "env steps", "core-hours", *(key.rpartition(".")[2] for key in config.space), ""
    )
    for row in result.rows[:10]:
        numbers = [_short(row.result.get(name)) for name in (config.metric, "env_steps", "core_hours")]
        table.add_row(row.trial, *numbers, *(_short(row.values.get(key)) for key in config.space), row.status)
    console.print(table)
    if stop.is_set():
        say(f"stopped; continue with: distrl tune --resume {result.directory}")
    say(f"{len(result.rows)} trials in {result.directory}: trials.csv, parallel_coordinates.png, learning_curves.png")
    if result.best is not None:
        say(f"the best one: distrl train {result.directory}/best.toml")


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
