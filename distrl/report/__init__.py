"""Run directories in, one self-contained HTML page out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distrl.core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from distrl.report.facts import RunFacts

_CELLS = 400_000  # environments × time bins of all timelines together: a few hundred kilobytes


def write_report(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the page and return its path.

    Args:
        runs: run directories; several are compared.
        out: the file; by default report.html in the run directory, of several runs in the working folder.

    Raises:
        ConfigError: no run was named, one is not a run directory or has nothing in it yet, or one is named twice.
        StorageError: a run cannot be read, or the file cannot be written.
    """
    from distrl.report.facts import gather
    from distrl.report.page import page

    if not runs:
        raise ConfigError("a report needs a run directory, and none came: distrl report RUN")
    facts: list[RunFacts] = []
    paths = [Path(run) for run in runs]
    for path in paths:
        found = gather(path, _CELLS // len(runs))
        same = [other.path for other in facts if other.id == found.id]
        if same:
            raise ConfigError(
                f"a report compares different runs, but {same[0]} and {path} are the same run: name it once"
            )
        facts.append(found)
    file = Path(out) if out is not None else (paths[0] if len(paths) == 1 else Path()) / "report.html"
    document = page(facts)
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(document)
        os.replace(temporary, file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}; choose another with --out") from error
    return file
