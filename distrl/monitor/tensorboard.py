"""Readings of a run in, TensorBoard's event files out: ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distrl.monitor.readings import Reading, Readings
from distrl.monitor.tail import Tail


class TensorBoardSink:
    """Draws over env steps; over updates where the run learns from logs alone.

    The next session of a run adds a file to those that are there.
    """

    name = "tensorboard"

    def __init__(self, run: Path, axis: str):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._tail = Tail(run, self.name)
        self._readings = Readings(self._tail.state)
        self._axis = axis
        self._writer = EventFileWriter(str(run / "tensorboard"))

    def poll(self) -> bool:
        """Write what is new; returns whether there may be more."""
        records = self._tail.read()
        self._write(self._readings.take(records))
        if records:
            self._writer.flush()
            self._tail.commit()
        return bool(records)

    def _write(self, readings: Iterable[Reading]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for reading in readings:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in reading.scalars.items()]
            values += [Summary.Value(tag=name, histo=_histogram(bins)) for name, bins in reading.histograms.items()]
            event = Event(wall_time=time.time(), step=int(reading.axes[self._axis]), summary=Summary(value=values))
            self._writer.add_event(event)

    def close(self, how: str, until_s: float) -> None:
        """After the last ``poll``."""
        self._writer.close()


def _histogram(bins: list[list[float]]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    most, counts = zip(*bins, strict=True)
    total = sum(limit * count for limit, count in bins)
    squares = sum(limit**2 * count for limit, count in bins)
    return HistogramProto(
        min=most[0], max=most[-1], num=sum(counts), sum=total, sum_squares=squares, bucket_limit=most, bucket=counts
    )
