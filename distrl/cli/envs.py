"""Commands about environments: list them, search the controllers that runs compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from distrl.cli.console import SetOption, config_for_env, console, say


def baseline(
    env: Annotated[str, typer.Argument(help="A preset, a TOML file or an environment id.", show_default=False)],
    set_: SetOption = None,
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
