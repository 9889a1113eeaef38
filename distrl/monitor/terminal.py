"""Statuses of a run in, a live display on the terminal out (or a line now and then where there is no terminal)."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_BLOCKS = "▁▂▃▄▅▆▇█"
_LINE_PERIOD_S = 15.0
_CURVE = 40  # points of a sparkline


class Progress:
    """A context manager; ``show`` takes each status, as ``cluster/recorder.py`` ``Recorder.status`` makes it."""

    def __init__(self, console: Console, steps: int):
        self._console, self._steps = console, steps
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._evaluations: list[float] = []
        self._returns: list[float] = []  # of training episodes
        self._phase = ""
        self._printed = 0.0
        self._newest: dict[str, Any] = {}  # not printed yet
        self._newest_line = ""

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()
        elif self._newest:
            self._print(self._newest)

    def show(self, status: dict[str, Any]) -> None:
        """Take one status of the run."""
        if status.get("phase", self._phase) != self._phase:
            self._phase = status["phase"]
            where = f" in {status['directory']}" if "directory" in status else ""
            self._console.print(f"{self._phase}{where} …", highlight=False, soft_wrap=True)
        if "env_steps" not in status:
            return
        self.remember(status)
        if self._live:
            self._live.update(self._table(status))
        elif time.monotonic() - self._printed > _LINE_PERIOD_S:
            self._print(status)
        else:
            self._newest = status

    def remember(self, status: dict[str, Any]) -> None:
        """Take one of the past: it is in the curves only."""
        for history, value in ((self._evaluations, status["evaluation"]), (self._returns, status["recent_return"])):
            if value is not None and (not history or history[-1] != value):
                history.append(value)
        self._returns = thinned(self._returns)

    def _print(self, status: dict[str, Any]) -> None:
        self._printed, self._newest = time.monotonic(), {}
        if (line := self._line(status)) != self._newest_line:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._newest_line = line

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
            table.add_row("updates", ProgressBar(total, done, width=_CURVE), f"{done} of {total}")
        else:
            table.add_row(
                "env steps",
                ProgressBar(self._steps, min(status["env_steps"], self._steps), width=_CURVE),
                f"{status['env_steps']} of {self._steps}",
            )
            table.add_row(
                "environments",
                f"{status['num_envs']} busy {status['busy']:.1%}"
                + (f", {status['faults']} faults" if status["faults"] else ""),
                f"{status['env_steps_per_s']:.1f} env steps/s",
            )
            if status.get("workers"):
                table.add_row("env workers", *_workers(status["workers"]))
            table.add_row("learner", f"{status['updates']} updates", f"staleness {_staleness(status)} updates")
        table.add_row(
            "return",
            f"{_number(status['recent_return'])} training",
            f"{_number(status['evaluation'])} held out, best {_number(status['best'])}",
        )
        table.add_row("", sparkline(self._returns[-_CURVE:]), sparkline(self._evaluations[-_CURVE:]))
        table.add_row("cost", f"{status.get('core_hours', 0.0):.3f} core-hours", f"{status['session_s']:.0f} s")
        for who, what in waits(status):
            table.add_row("waits", f"[dim]{who}[/dim]", f"[dim]{what}[/dim]")
        return table


def waits(status: dict[str, Any]) -> list[tuple[str, str]]:
    """(who, for what) of everybody who waits for somebody else."""
    found: dict[str, list[str]] = {}
    for state in status.get("workers", []):
        if state["waits_for"]:
            found.setdefault(state["waits_for"], []).append(str(state["worker"]))
    rows = [(f"env worker {', '.join(workers)}", what) for what, workers in found.items()]
    return rows + ([("learner", status["waits_for"])] if status.get("waits_for") else [])


def _workers(states: list[dict[str, Any]]) -> tuple[str, str]:
    """A block for each, as high as it is busy; who is the least."""
    blocks = "".join(_BLOCKS[round(state["busy"] * (len(_BLOCKS) - 1))] for state in states)
    least = min(states, key=lambda state: state["busy"])
    return blocks, f"least busy: {least['worker']}, {least['busy']:.0%}"


def thinned(values: list[float]) -> list[float]:
    """Every other one once there are twice as many as a sparkline shows: it spans the whole run."""
    return values[::2] if len(values) >= 2 * _CURVE else values


def sparkline(values: list[float]) -> str:
    """One block character a value, from the smallest to the largest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in values)


def _staleness(status: dict[str, Any]) -> str:
    """Half of the transitions, 99 % of them and the most; RLlib does not say."""
    if status["staleness_max"] is None:
        return "–"
    return "/".join(str(status[f"staleness_{name}"]) for name in ("p50", "p99", "max"))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
