"""A run's metrics, timing and event files in, what is new in them out: a cursor that outlives the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distrl.core.metrics import write_json

FILES = ("metrics", "timing", "events")
_MOST_BYTES = 4 << 20  # of a file at a time: a sink that begins late reads hours of a run


class Tail:
    """Follows the files of a run while they grow.

        while records := tail.read(): …; tail.commit()

    Attributes:
        state: facts that the reader wants to keep with the cursor: plain data, written by ``commit``.
    """

    def __init__(self, run: Path, name: str | None):
        """
        Args:
            run: the run directory.
            name: whose cursor: kept in ``monitor/NAME.json`` of the run, and continued from there. None: nobody's, from
                the beginning.
        """
        self._run, self._path = run, None if name is None else run / "monitor" / f"{name}.json"
        self._offsets = dict.fromkeys(FILES, 0)
        self.state: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            kept = json.loads(self._path.read_text())
            self._offsets |= kept["offsets"]
            self.state = kept["state"]

    def read(self) -> list[dict[str, Any]]:
        """The next records, in the order in which the run came to them: by env steps across files; none where nothing
        is new."""
        found: list[tuple[float, dict[str, Any]]] = []
        for name in FILES:
            env_steps = -1.0  # a record without them belongs to the one before
            for record in self._next(name):
                env_steps = record.get("env_steps", env_steps)
                found.append((env_steps, record))
        return [record for _, record in sorted(found, key=lambda item: item[0])]

    def _next(self, name: str) -> list[dict[str, Any]]:
        path, offset = self._run / f"{name}.jsonl", self._offsets[name]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        self._offsets[name] = offset + len(whole)
        records = []
        for line in whole.splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:  # torn by a kill
                continue
        return records

    def commit(self) -> None:
        """What has been read is taken care of: nobody reads it again."""
        if self._path is not None:
            self._path.parent.mkdir(exist_ok=True)
            write_json(self._path, {"offsets": self._offsets, "state": self.state})
