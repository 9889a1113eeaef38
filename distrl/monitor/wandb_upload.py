"""Recordings in RUN/wandb in, their upload by W&B's own ``sync`` in a process of its own: first what earlier sessions
have left, then this session's while it is still being written.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_AGAIN_S = (2.0, 60.0)  # after an upload that came to nothing: at first, and at most
_POLL_S = 0.1
_TELL_S = 3.0  # of waiting, after which the user hears why
_PR_SET_PDEATHSIG = 1
#: Of the client's settings; without them it gives up after minutes, and marks as uploaded what it has given up.
_PATIENCE = {
    f"WANDB__{what}_RETRY_{bound}": value
    for what in ("FILE_STREAM", "GRAPHQL", "FILE_TRANSFER")
    for bound, value in (("MAX", "100000"), ("WAIT_MIN_SECONDS", "1"), ("WAIT_MAX_SECONDS", "15"))
}
#: Of the session that is recorded, and of the process that records it: an upload that crashes must not take that along.
_NOT_FOR_IT = {
    f"WANDB_{name}" for name in ("SERVICE", "MODE", "RUN_ID", "RESUME", "SWEEP_ID", "SWEEP_PARAM_PATH", "NAME")
}
_GAVE_UP = "Fatal error while uploading"
_NO_KEY = re.compile("Not authenticated|No API key configured")


def recordings(run: Path) -> list[Path]:
    """Those of a run that are not uploaded completely, oldest first."""
    found = sorted((run / "wandb").glob("offline-run-*"))
    return [path for path in found if not any(path.glob("*.wandb.synced"))]


class Upload:
    """``poll`` now and then, ``finish`` at the end; neither waits for the network."""

    def __init__(self, run: Path, live: Path, say: Callable[[str], None]):
        """
        Args:
            live: the recording that is still being written.
        """
        self._run, self._live, self._say = run, live, say
        self._log = run / "monitor" / "wandb_sync.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._under_way: Path | None = None
        self._from = 0  # in the log, where this upload's begins
        self._next_s, self._failed = 0.0, 0  # uploads in a row that came to nothing
        self._has_key, self._told = True, False

    def poll(self) -> bool:
        """Look after the upload under way, or begin the next one; returns whether anything is left that can be
        uploaded."""
        if self._process is not None:
            self._tell_url()
            if self._process.poll() is None:
                return True
            self._ended()
        left = recordings(self._run)
        if not left or not self._has_key:
            return False
        if time.monotonic() >= self._next_s:
            self._begin(left[self._failed % len(left)])  # one that is damaged must not keep back the others
        return True

    def finish(self, until_s: float) -> None:
        """Wait until everything is uploaded, or until then (monotonic clock); what is not is named."""
        tell_s = time.monotonic() + _TELL_S
        while self.poll() and (now := time.monotonic()) < until_s:
            if now > tell_s:
                tell_s = until_s
                self._say(f"W&B: the upload goes on, for {until_s - now:.0f} s at most (monitor.drain_s)")
            time.sleep(_POLL_S)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._ended()
        if left := recordings(self._run):
            why = "" if self._has_key else "there is no key (wandb login, or WANDB_API_KEY), so "
            self._say(
                f"W&B: {why}{len(left)} of this run's recordings are not uploaded. The next session does that, or: "
                f"wandb sync {' '.join(map(str, left))}"
            )

    def _begin(self, recording: Path) -> None:
        command = [sys.executable, "-m", "distrl.monitor.wandb_upload", str(recording)]
        if recording == self._live:
            command.append("--live")  # others may lack their end, and it would wait for that
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
        self._under_way = recording
        with self._log.open("ab") as log:
            self._from = log.tell()
            self._process = subprocess.Popen(
                command,
                env=_PATIENCE | environment | {"WANDB_DIR": str(self._run)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _said(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def _ended(self) -> None:
        said, recording = self._said(), self._under_way
        self._process = self._under_way = None
        assert recording is not None
        self._has_key = _NO_KEY.search(said) is None
        if _GAVE_UP in said:
            for marker in recording.glob("*.wandb.synced"):
                marker.unlink()
        if any(recording.glob("*.wandb.synced")):
            self._failed = 0
        else:
            first_s, most_s = _AGAIN_S
            self._next_s = time.monotonic() + min(first_s * 2**self._failed, most_s)
            self._failed += 1

    def _tell_url(self) -> None:
        if not self._told and (found := re.search(r"View run .* at (http\S+)", self._said())):
            self._told = True
            self._say(f"W&B: {found[1]}")


def main() -> None:
    """Become W&B's sync with this command line, which ends with the process that has started it: a recording whose
    writer was killed has no end, and it would wait for that for ever."""
    with contextlib.suppress(AttributeError):  # Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "wandb", "beta", "sync", *sys.argv[1:]])


if __name__ == "__main__":
    main()
