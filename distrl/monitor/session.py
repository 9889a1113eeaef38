"""Whoever drives a run in; beside it the process that feeds TensorBoard and W&B, and a note of how the session ended
out.

with monitored(run, config): …train…
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from distrl.core.config import RunConfig
from distrl.core.metrics import write_json
from distrl.core.run_directory import RunDirectory
from distrl.monitor.sidecar import needed

_MARGIN_S = 15.0  # beyond monitor.drain_s: to begin and to end
NOTE = Path("monitor") / "session.json"


@contextlib.contextmanager
def monitored(run: RunDirectory, config: RunConfig) -> Iterator[None]:
    """A session of a run: from its beginning, or a resume, to the film at its end.

    The process of the sinks begins and ends with the block, with its driver's death too; the block waits for it at its
    end, no longer than ``monitor.drain_s`` and a few seconds.
    """
    (run.path / NOTE).parent.mkdir(exist_ok=True)
    note = {
        "pid": os.getpid(),
        "process_began_s": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "began_s": time.time(),
        "ended": None,
    }
    write_json(run.path / NOTE, note)
    sidecar = _start(run, config) if needed(config) else None
    how = "ended"
    try:
        yield
        if _interrupted(run, note["began_s"]):
            how = "interrupted"
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    except BaseException as error:
        how = f"failed: {error}"
        raise
    finally:
        write_json(run.path / NOTE, note | {"ended": how})
        if sidecar is not None:
            _end(sidecar, how, config.monitor.drain_s + _MARGIN_S)


def _interrupted(run: RunDirectory, began_s: Any) -> bool:
    summary = run.path / "summary.json"
    if not summary.exists() or summary.stat().st_mtime < began_s:
        return False
    return bool(json.loads(summary.read_text()).get("interrupted"))


def _start(run: RunDirectory, config: RunConfig) -> subprocess.Popen[str]:
    with (run.path / "monitor" / "sidecar.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "distrl.monitor.sidecar", str(run.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is the driver's to hear
        )
    _tell(process, {"config": config.model_dump(), "driver": os.getpid()})
    threading.Thread(target=_show, args=(process,), daemon=True).start()
    return process


def _tell(process: subprocess.Popen[str], what: Any) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has died; its log says why
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()


def _show(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(line.rstrip("\n"), file=sys.stderr)


def _end(process: subprocess.Popen[str], how: str, timeout_s: float) -> None:
    _tell(process, how)
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print("the process of TensorBoard and W&B did not end in time: it is stopped", file=sys.stderr)
        os.killpg(process.pid, signal.SIGKILL)  # with those that record and upload for W&B
        process.wait()
