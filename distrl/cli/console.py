"""What all commands share: the console, arguments that several take, and the configuration around a name."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distrl.core.config import RunConfig
from distrl.core.config_input import apply_override, read_toml

console = Console()

RunArgument = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override any key of the configuration; repeatable."),
]


def say(text: str) -> None:
    """One line, never wrapped: it may hold a command to copy."""
    console.print(text, soft_wrap=True, highlight=False)


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


def stop_on_signals(text: str) -> threading.Event:
    """What the first Ctrl-C or SIGTERM sets, so that all ends in order, and says; the second ends at once."""
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.print(text)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop
