"""A run directory in, TensorBoard and W&B out: one light process beside the run's driver, which nothing waits for.

    python -m distrl.monitor.sidecar RUN

Its standard input is the driver: first a line of JSON (configuration, process id), then nothing while the run goes on,
a line with how it ended, and the end of the file, which also comes when the driver is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory

_POLL_S = 2.0


class Sidecar:
    """Polls every sink; one that fails is told of and left out, and the others go on."""

    def __init__(self, run: RunDirectory, config: RunConfig, driver: int, say: Callable[[str], None]):
        self._say = say
        axis = "updates" if config.offline.data else "env_steps"
        makers: dict[str, Callable[[], Any]] = {
            "tensorboard": lambda: _tensorboard(run, axis),
            "wandb": lambda: _wandb(run, config, axis, driver, say),
        }
        self._sinks: dict[str, Any] = {}
        for name in needed(config):
            with self._guard(name):
                self._sinks[name] = makers[name]()

    def poll(self) -> bool:
        """Whether any sink may have more to read."""
        more = False
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                more = sink.poll() or more
        return more

    def close(self, how: str, drain_s: float) -> None:
        """Read what is left and end every sink, within the time."""
        until_s = time.monotonic() + drain_s
        while self.poll():
            pass
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.close(how, until_s)

    @contextlib.contextmanager
    def _guard(self, name: str) -> Any:
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever a sink's library raises, the others and the run go on
            self._sinks.pop(name, None)
            traceback.print_exc()
            self._say(f"{name} is off for this session: {type(error).__name__}: {str(error).partition(chr(10))[0]}")


def needed(config: RunConfig) -> list[str]:
    """The sinks of a configuration that live in this process."""
    sinks = [name for name in ("tensorboard", "wandb") if name in config.monitor.sinks]
    mode = config.wandb.mode or os.environ.get("WANDB_MODE")
    return [name for name in sinks if name != "wandb" or mode != "disabled"]


def _tensorboard(run: RunDirectory, axis: str) -> Any:
    from distrl.monitor.tensorboard import TensorBoardSink

    return TensorBoardSink(run.path, axis)


def _wandb(run: RunDirectory, config: RunConfig, axis: str, driver: int, say: Callable[[str], None]) -> Any:
    from distrl.monitor.wandb_sink import WandbSink

    return WandbSink(run, config, axis, driver, say)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the driver is gone, and nobody listens
        print(text, flush=True)


def main() -> None:
    """See the module."""
    os.nice(10)
    run = RunDirectory.open(Path(sys.argv[1]))
    job = json.loads(sys.stdin.readline())
    config = RunConfig.validated(job["config"])
    last = ["the driver was killed"]
    over = threading.Event()

    def listen() -> None:
        last.extend(json.loads(line) for line in sys.stdin)
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    sidecar = Sidecar(run, config, job["driver"], _say)
    while not over.is_set():
        if not sidecar.poll():
            over.wait(_POLL_S)
    sidecar.close(last[-1], config.monitor.drain_s)


if __name__ == "__main__":
    main()
