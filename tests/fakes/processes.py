"""Which processes are alive: what tests of kills count."""

from __future__ import annotations

import time

import psutil


def alive(pids: set[int]) -> set[int]:
    """Those of the process ids that run (a zombie does not)."""
    found = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
        except psutil.NoSuchProcess:
            pass
    return found


def descendants(pid: int) -> set[int]:
    """Every process under ``pid``, itself included."""
    try:
        process = psutil.Process(pid)
        return {pid, *(child.pid for child in process.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()


def wait_until(condition, timeout_s: float = 30.0, period_s: float = 0.1) -> bool:
    """Whether ``condition()`` became true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(period_s)
    return bool(condition())
