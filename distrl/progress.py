"""Statuses of a run in, a live display on the terminal out (or a line now and then where there is no terminal)."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_SPARKS = "▁▂▃▄▅▆▇█"
_LINE_PERIOD_S = 15.0


class Progress:
    """A context manager; ``show`` takes each status."""

    def __init__(self, console: Console, steps: int):
        self._console, self._steps = console, steps
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._history: list[float] = []
        self._phase = ""
        self._printed = 0.0

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: dict[str, Any]) -> None:
        """Take one status of the run."""
        if status["phase"] != self._phase if "phase" in status else False:
            self._phase = status["phase"]
            where = f" in {status['directory']}" if "directory" in status else ""
            self._console.print(f"{self._phase}{where} …", highlight=False, soft_wrap=True)
        if "env_steps" not in status:
            return
        value = status["evaluation"]
        if value is not None and (not self._history or self._history[-1] != value):
            self._history.append(value)
        if self._live:
            self._live.update(self._table(status))
        elif time.monotonic() - self._printed > _LINE_PERIOD_S:
            self._printed = time.monotonic()
            self._console.print(self._line(status), highlight=False, soft_wrap=True)

    def _line(self, status: dict[str, Any]) -> str:
        if "updates_in_all" in status:
            return (
                f"{status['session_s']:5.0f} s  {status['updates']}/{status['updates_in_all']} updates  "
                f"evaluation {_number(status['evaluation'])} (best {_number(status['best'])})"
            )
        return (
            f"{status['session_s']:5.0f} s  {status['env_steps']}/{self._steps} env steps "
            f"({status['env_steps_per_s']:.1f}/s)  {status['updates']} updates  "
            f"busy {status['busy']:.0%}  staleness {_staleness(status)}  return "
            f"{_number(status['recent_return'])}  "
            f"evaluation {_number(status['evaluation'])} (best {_number(status['best'])})"
            + (f"  faults {status['faults']}" if status["faults"] else "")
        )

    def _table(self, status: dict[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        if "updates_in_all" in status:  # there are no env workers
            done, total = status["updates"], status["updates_in_all"]
            table.add_row("updates", ProgressBar(total, done, width=40), f"{done} of {total}")
        else:
            table.add_row(
                "env steps",
                ProgressBar(self._steps, min(status["env_steps"], self._steps), width=40),
                f"{status['env_steps']} of {self._steps}",
            )
            table.add_row(
                "environments",
                f"{status['num_envs']} busy {status['busy']:.1%}",
                f"{status['env_steps_per_s']:.1f} env steps/s",
            )
            table.add_row("learner", f"{status['updates']} updates", f"staleness {_staleness(status)} updates")
        table.add_row(
            "return",
            f"{_number(status['recent_return'])} training",
            f"{_number(status['evaluation'])} held out, best {_number(status['best'])}",
        )
        table.add_row("", sparkline(self._history[-40:]), f"{status['session_s']:.0f} s")
        return table


def sparkline(values: list[float]) -> str:
    """One block character a value, from the smallest to the largest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_SPARKS[round((value - low) / span * (len(_SPARKS) - 1))] for value in values)


def _staleness(status: dict[str, Any]) -> str:
    """Half of the transitions, 99 % of them and the most."""
    return "/".join(str(status[f"staleness_{name}"]) for name in ("p50", "p99", "max"))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
