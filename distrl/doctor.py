"""Looks at this machine; a list of what was checked and what was found comes out."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from distrl.core.errors import StorageError
from distrl.core.spool_files import default_spool_directory, refuse_network_file_system


@dataclass(frozen=True)
class Check:
    """One line: whether it is good enough, what was looked at, what was found (and what to do where it is not good)."""

    good: bool
    what: str
    found: str


def checks() -> Iterator[Check]:
    """Every check, cheap ones first."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        sys.version_info >= (3, 11),
        "Python",
        version if sys.version_info >= (3, 11) else f"{version}; 3.11 or newer is needed",
    )
    for package, wanted in (("ray", "2.60."), ("torch", "2."), ("gymnasium", "1."), ("numba", "0.")):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Check(False, package, "not installed: pip install distrl brings it")
            continue
        yield Check(
            found.startswith(wanted), package, found if found.startswith(wanted) else f"{found}; {wanted}x was tested"
        )
    yield _gpu()
    yield Check(True, "cores", str(os.cpu_count()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Check(
        memory >= 2, "memory", f"{memory:.1f} GiB" + ("" if memory >= 2 else "; Ray and a learner need about 1.5 GiB")
    )
    yield _room("disk here", Path.cwd(), 1.0)
    yield _room("shared memory", Path("/dev/shm"), 0.5)
    yield _spool()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Check(files >= 1024, "open files", f"{files}" + ("" if files >= 1024 else "; raise it with ulimit -n 4096"))
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    writable = os.access(cache if cache.exists() else cache.parent, os.W_OK)
    yield Check(writable, "cache folder", f"{cache}" + ("" if writable else " cannot be written; set XDG_CACHE_HOME"))


def _gpu() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check(False, "GPU", f"torch cannot be imported: {error}")
    if torch.cuda.is_available():
        return Check(True, "GPU", torch.cuda.get_device_name(0))
    return Check(True, "GPU", "none that torch can use: the learner runs on the CPU")


def _spool() -> Check:
    path = default_spool_directory()
    try:
        refuse_network_file_system(path)
    except StorageError as error:
        return Check(False, "spool", str(error))
    return _room("spool", path if path.exists() else path.parent, 1.0)


def _room(what: str, path: Path, needed_gib: float) -> Check:
    if not path.exists():
        return Check(False, what, f"{path} does not exist")
    free = shutil.disk_usage(path).free / 2**30
    good = free >= needed_gib and os.access(path, os.W_OK)
    return Check(
        good,
        what,
        f"{free:.1f} GiB free in {path}" + ("" if good else f"; {needed_gib} GiB and write access are needed"),
    )
