"""Records in, JSON lines on disk out: deterministic quantities, measured times and events in a file each."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import StorageError


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numpy scalars become Python's, a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class JsonLines:
    """Appends one JSON object a line; readers may follow the file while it grows."""

    def __init__(self, path: Path):
        """
        Raises:
            StorageError: the file cannot be opened.
        """
        self.path = path
        try:
            if path.exists():  # a record torn by a kill would swallow the next one
                content = path.read_bytes()
                if content and not content.endswith(b"\n"):
                    os.truncate(path, content.rfind(b"\n") + 1)
            self._file = path.open("a", buffering=1)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, record: dict[str, Any]) -> None:
        """
        Raises:
            StorageError: the disk is full, or gone.
        """
        try:
            self._file.write(json.dumps(plain(record)) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Harmless when repeated."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All complete records of a file; none where it does not exist. A torn last line is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Atomically replace a JSON file.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(plain(document), indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
