"""Readings of a run in, a recording in RUN/wandb out as Weights & Biases' own client writes it offline; its upload is
another process's (distrl/monitor/wandb_upload.py), so that a server that hangs holds up nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distrl import __version__
from distrl.core.checkpoint import list_checkpoints
from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory
from distrl.monitor.readings import AXES, Reading, Readings
from distrl.monitor.tail import Tail
from distrl.monitor.wandb_upload import Upload

_TABLE_PERIOD_S = 600.0  # a table is a file of its own each time
_FLUSH_S = 2.0  # after which at the latest a reading is in the recording
_FILMS = (".mp4", ".gif", ".webm")


class WandbSink:
    """One session of a run as one recording; all of a run have the same W&B id, so that they appear as one run there.

    A server that cannot be reached costs nothing: what it has missed is in the recordings, and is uploaded by this
    session, by the next one, or by ``wandb sync``, each of which may repeat the others.
    """

    name = "wandb"

    def __init__(self, run: RunDirectory, config: RunConfig, axis: str, driver: int, say: Callable[[str], None]):
        """
        Args:
            axis: what curves are drawn over. driver: process whose CPU and memory are shown. say: to the user.
        """
        import wandb

        self._path, self._checkpoints = run.path, config.wandb.checkpoints
        self._tail = Tail(run.path, self.name)
        self._state = self._tail.state
        self._readings = Readings(self._state)
        self._state.setdefault("id", os.environ.get("WANDB_RUN_ID") or run.id)
        # artifacts are copied aside until they are uploaded, and that may be on another day
        os.environ.setdefault("WANDB_DATA_DIR", str(run.path / "wandb" / "data"))
        name = f"offline-run-%Y%m%d_%H%M%S-{self._state['id']}"
        while (run.path / "wandb" / time.strftime(name)).exists():  # two that begin in one second would be one
            time.sleep(0.05)
        self._tail.commit()
        self._began_s = time.time()
        self._run = wandb.init(
            mode="offline",
            id=self._state["id"],
            resume="allow",
            reinit="create_new",
            dir=run.path,
            project=config.wandb.project or os.environ.get("WANDB_PROJECT") or "distrl",
            entity=config.wandb.entity,
            name=config.wandb.name or os.environ.get("WANDB_NAME") or run.path.name,
            group=config.wandb.group,
            tags=config.wandb.tags or None,
            config=config.model_dump() | {"distrl": {"version": __version__, "commit": _commit(), "run": run.id}},
            settings=wandb.Settings(
                console="off",
                silent=True,
                program="distrl",
                x_stats_pid=driver,
                x_transaction_log_flush_interval=_FLUSH_S,
            ),
        )
        for name in AXES:
            self._run.define_metric(name, hidden=True)
        self._run.define_metric("*", step_metric=axis)
        self._table_s = time.monotonic()
        self._upload: Upload | None = None
        if (config.wandb.mode or os.environ.get("WANDB_MODE") or "online") == "online":
            self._upload = Upload(run.path, Path(self._run.dir).parent, say)

    def poll(self) -> bool:
        """Record what is new; returns whether there may be more."""
        records = self._tail.read()
        for reading in self._readings.take(records):
            self._log(reading)
        if self._checkpoints == "all":
            self._keep_checkpoints()
        if time.monotonic() - self._table_s > _TABLE_PERIOD_S:
            self._show_outcomes()
        if records:
            self._tail.commit()
        if self._upload is not None:
            self._upload.poll()
        return bool(records)

    def _log(self, reading: Reading) -> None:
        import wandb

        row: dict[str, Any] = dict(reading.scalars)
        for name, bins in reading.histograms.items():
            most, counts = zip(*bins, strict=True)
            row[name] = wandb.Histogram(np_histogram=(np.array(counts), np.array([0.0, *most])))
        if row:
            self._run.log(row | reading.axes)

    def _axes(self) -> Mapping[str, float]:
        return self._state["axes"]

    def _show_outcomes(self) -> None:
        import wandb

        self._table_s = time.monotonic()
        rows = [list(item) for item in sorted(self._readings.outcomes.items())]
        if rows:
            self._run.log({"outcomes": wandb.Table(columns=["outcome", "count"], data=rows), **self._axes()})

    def _keep_checkpoints(self) -> None:
        newest = self._state.get("checkpoint", "")
        for path in list_checkpoints(self._path / "checkpoints"):
            if path.name > newest:
                self._keep(path, "checkpoint")
                self._state["checkpoint"] = path.name

    def _keep(self, folder: Path, kind: str) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._state['id']}", type="model", metadata=dict(self._axes()))
        try:
            artifact.add_dir(str(folder), name=folder.name)
        except (OSError, ValueError):  # the learner has just removed it: a newer one is there
            return
        self._run.log_artifact(artifact)

    def _show_films(self) -> None:
        import wandb

        shown = self._state.setdefault("films", {})
        for path in sorted((self._path / "media").glob("*")):
            changed_s = path.stat().st_mtime
            if path.suffix in _FILMS and changed_s > shown.get(path.name, 0.0):
                shown[path.name] = changed_s
                video = wandb.Video(str(path), format=path.suffix[1:])  # type: ignore[arg-type]
                self._run.log({f"media/{path.stem}": video, **self._axes()})

    def close(self, how: str, until_s: float) -> None:
        """After the last ``poll``: films, outcomes and the summary; then the upload has until ``until_s`` (monotonic
        clock).

        Args:
            how: the session has ended: "ended", "interrupted", or a sentence about a failure.
        """
        self._show_films()
        self._show_outcomes()
        if self._checkpoints == "all":
            self._keep_checkpoints()
        best = self._path / "checkpoints" / "best"
        if self._checkpoints != "none" and best.exists():
            self._keep(best, "best")
        summary = self._path / "summary.json"
        if summary.exists() and summary.stat().st_mtime >= self._began_s:
            numbers = json.loads(summary.read_text())
            self._run.summary.update(
                {f"final/{name}": value for name, value in numbers.items() if isinstance(value, int | float)}
            )
        self._run.summary["how it ended"] = how
        self._tail.commit()
        self._run.finish(exit_code=0 if how in ("ended", "interrupted") else 1)
        if self._upload is not None:
            self._upload.finish(until_s)


def _commit() -> str | None:
    """Of the working folder, where the user's own code is; with a + where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
