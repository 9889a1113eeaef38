"""The kernel's counters of killed processes go in; whether a SIGKILL was for want of memory comes out."""

from __future__ import annotations

from collections.abc import Sequence

_PERIOD_S = 1.0
_WINDOW_S = 3.0


def counter_files() -> list[str]:
    """Files with a line ``oom_kill N`` that count for this process's control group, else for the machine."""
    found = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            entries = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        entries = []
    for _, controllers, path in entries:
        if controllers == "":
            found += [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
        elif "memory" in controllers.split(","):
            found += [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
    existing = [path for path in found if _read(path) is not None]
    return existing[:1] or ["/proc/vmstat"]


class OutOfMemory:
    """Remembers when a counter last rose; ``look`` costs a file's reading once a second at most."""

    def __init__(self, files: Sequence[str] | None = None):
        self._files = counter_files() if files is None else list(files)
        self._seen = self._counts()
        self._rose_at = -float("inf")
        self._next = 0.0

    def look(self, now: float) -> None:
        """Note whether the kernel has killed since. ``now``: time.monotonic()."""
        if now >= self._next:
            self._look(now)

    def killed_lately(self, now: float) -> bool:
        """Whether the kernel has killed a process for want of memory in the last seconds."""
        self._look(now)
        return now - self._rose_at < _WINDOW_S

    def _look(self, now: float) -> None:
        self._next = now + _PERIOD_S
        counts = self._counts()
        if any(count > before for count, before in zip(counts, self._seen, strict=True)):
            self._rose_at = now
        self._seen = counts

    def _counts(self) -> list[int]:
        return [_read(path) or 0 for path in self._files]


def _read(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, count = line.partition(b" ")
        if name == b"oom_kill":
            return int(count)
    return None
