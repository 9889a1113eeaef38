"""The file that W&B's client writes offline in, its records out: protobuf messages in LevelDB's log format (blocks of
32 KiB; each piece of a record behind a checksum, its length and its kind), behind a header of 7 bytes.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK = 7, 32 << 10
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(recording: Path) -> Iterator[Any]:
    """Of a recording's folder."""
    (path,) = recording.glob("*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, parts = _HEADER, b""
    while place + 7 <= len(content):
        if _BLOCK - place % _BLOCK < 7:  # too short for a piece: padding
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if kind == 0:
            return
        piece = content[place + 7 : place + 7 + length]
        parts = piece if kind in (_FULL, _FIRST) else parts + piece
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
        place += 7 + length


def history(recording: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [_row(record.history) for record in records(recording) if record.HasField("history")]


def _row(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:
        *parents, last = item.nested_key or [item.key]
        table = row
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = json.loads(item.value_json)
    return row


def config(recording: Path) -> dict[str, Any]:
    """Of the run."""
    return {
        item.key: json.loads(item.value_json)
        for record in records(recording)
        if record.HasField("run")
        for item in record.run.config.update
    }
