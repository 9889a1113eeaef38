"""A run's files in, gauges at the metrics port of Ray's nodes out, where Prometheus scrapes them: a thread in the
supervisor's process, which tails the files as every sink does.
"""

from __future__ import annotations

import threading
import traceback
from pathlib import Path

from ray.util.metrics import Gauge

from distrl.monitor.readings import Readings
from distrl.monitor.tail import Tail

_POLL_S = 2.0


class PrometheusSink:
    """Gauges ``ray_distrl_…``, labelled with the run's id: scalars under their own names, busy fractions by env worker,
    outcomes of environments by kind.

    A gauge shows what is now, so that what an earlier session has shown is read and not repeated.
    """

    def __init__(self, run: Path, run_id: str):
        self._labels = {"run": run_id}
        self._gauges: dict[str, Gauge] = {}
        self._tail = Tail(run, None)
        self._readings = Readings({})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="prometheus", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            self.poll()
            while not self._stop.wait(_POLL_S):
                self.poll()
        except Exception:  # noqa: BLE001  whatever is wrong with the metrics, the run goes on
            traceback.print_exc()

    def poll(self) -> None:
        """Show what is new."""
        newest: dict[str, float] = {}
        while records := self._tail.read():
            for reading in self._readings.take(records):
                newest |= reading.scalars | reading.axes
        for name, value in newest.items():
            group, _, label = name.partition("/worker ")
            if label:
                self._set(f"{group}_of_env_worker", value, worker=label)
            else:
                self._set(name.removeprefix("run/"), value)
        for outcome, count in self._readings.outcomes.items():
            self._set("outcomes", count, outcome=outcome)

    def _set(self, name: str, value: float, **labels: str) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            plain = "".join(letter if letter.isalnum() else "_" for letter in f"distrl_{name}")
            gauge = self._gauges[name] = Gauge(plain, description=name, tag_keys=("run", *labels))
        gauge.set(value, tags=self._labels | labels)

    def close(self) -> None:
        """The gauges go with the process."""
        self._stop.set()
        self._thread.join(_POLL_S)
