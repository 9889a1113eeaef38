"""A run directory in, its statuses as they come out, until the run has ended: what ``distrl watch`` shows."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil

from distrl.core.run_directory import RunDirectory
from distrl.monitor.session import NOTE
from distrl.monitor.tail import Tail

_POLL_S = 0.5
_SILENT_S = 60.0  # without a record, after which the display says so: the driver may be on another machine


def follow(run: RunDirectory, poll_s: float = _POLL_S) -> Iterator[list[dict[str, Any]]]:
    """The statuses of the run so far, then those that have come since; the very last one has ``ended``: a sentence."""
    tail, heard_s, newest = Tail(run.path, None), time.monotonic(), dict[str, Any]()
    while True:
        over = how_it_ended(run)  # before the last reading: nothing is written after it
        while records := tail.read():
            if statuses := [record for record in records if record["kind"] == "status"]:
                heard_s, newest = time.monotonic(), statuses[-1]
                yield statuses
        if over is not None:
            yield [{**newest, "ended": over}]
            return
        if newest and (silent_s := time.monotonic() - heard_s) > _SILENT_S:
            heard_s = time.monotonic()
            yield [{**newest, "phase": f"nothing new for {silent_s:.0f} s (evaluating, waiting, or gone)"}]
        time.sleep(poll_s)


def how_it_ended(run: RunDirectory) -> str | None:
    """A sentence, or None while it goes on."""
    try:
        note = json.loads((run.path / NOTE).read_text())
    except FileNotFoundError:
        return None  # it is just beginning
    if note["ended"] is None:
        return "its driver was killed" if _is_gone(note) else None
    if note["ended"] == "interrupted":
        return f"it was interrupted, with a checkpoint; continue with: distrl train --resume {run.path}"
    return f"it {note['ended']}"


def _is_gone(note: dict[str, Any]) -> bool:
    """Whether the driver is known not to live: of another machine's nothing is."""
    if note["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(note["pid"]).create_time() != note["process_began_s"]
    except psutil.NoSuchProcess:
        return True
