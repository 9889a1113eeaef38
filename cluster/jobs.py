"""A distrl command in, a job on a Ray cluster out: the working tree or a wheel travels there, the log comes back, a
stop leaves time for a checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distrl.cluster.launch import ANSWER_S, NOT_SHIPPED, with_token
from distrl.core.errors import ConfigError, RunFailed

MAX_BYTES = 100_000_000  # of a working tree: it goes through the memory of the cluster's head
_STOPPED = 130  # exit code, as of what Ctrl-C has ended
_WHERE = "the cluster's dashboard, such as http://127.0.0.1:8265"


@dataclass(frozen=True)
class Job:
    """Attributes: id. status: Ray's word. command. start_s, end_s: Unix time or None. exit_code: once it has ended by
    itself."""

    id: str
    status: str
    command: str
    start_s: float | None
    end_s: float | None
    exit_code: int | None


class Jobs:
    """The jobs of the cluster whose dashboard is at an address.

    Raises:
        ConfigError: nobody answers there, it is no Ray, it wants another token, or it is another version of Ray.
    """

    def __init__(self, address: str):
        self.address = address if "://" in address else f"http://{address}"
        _reach(self.address)
        with_token(at_home=True)
        import ray
        import requests
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        try:
            self._client = JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError as error:
            raise _no_token(self.address, str(error)) from None
        except (RuntimeError, ValueError, ConnectionError, requests.RequestException) as error:
            raise ConfigError(
                f"--address needs {_WHERE}, but what answers at {self.address} is not one: {_first_line(error)}"
            ) from None
        there = self._client._server_ray_version or "unknown"
        if there.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ConfigError(
                f"the cluster at {self.address} runs Ray {there}, and this distrl needs Ray {ray.__version__} there: "
                "start the cluster with that version, or submit with a distrl made for the other"
            )

    def submit(self, words: Sequence[str], runtime_env: dict[str, Any]) -> str:
        """Start ``distrl WORDS`` on the cluster; returns the job's id.

        Raises:
            ConfigError: the cluster refuses it.
        """
        # exec: the shell in between would end at the first signal, and the job with it
        command = shlex.join(["python", "-m", "distrl.cli", *words])
        try:
            return self._client.submit_job(entrypoint=f"exec {command}", runtime_env=runtime_env)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the cluster at {self.address} refused the job: {_first_line(error)}") from None

    def list(self) -> list[Job]:
        """Every job that the cluster remembers, oldest first."""
        found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.start_s or 0.0)

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was still running."""
        try:
            return self._client.stop_job(job)
        except RuntimeError as error:
            raise ConfigError(
                f"no job {job!r} at {self.address} can be stopped ({_first_line(error)}); distrl jobs lists them"
            ) from None

    def follow(self, job: str, write: Callable[[str], Any], stopping: Callable[[], Any] = lambda: None) -> int:
        """Show a job's log until it has ended; Ctrl-C stops the job, a second one only leaves it.

        Args:
            write: is given the log, piece by piece. stopping: called once the job has been told to stop.

        Returns:
            The exit code of its command; 130 where it was stopped.

        Raises:
            RunFailed: the connection was lost; the job goes on.
        """
        written = 0

        def show(piece: str) -> None:
            nonlocal written
            written += len(piece)
            write(piece)

        def tail() -> None:
            async def pieces() -> None:
                async for piece in self._client.tail_job_logs(job):
                    show(piece)

            with contextlib.suppress(Exception):  # whoever waits for this thread looks whether the head is there
                asyncio.run(pieces())

        thread = threading.Thread(target=tail, name="log", daemon=True)
        thread.start()
        asked = False
        while True:
            try:
                thread.join(0.2)
                if not thread.is_alive() and (info := self._info(job)).status.is_terminal():
                    break
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                self.stop(job)
                stopping()
        show(self._client.get_job_logs(job)[written:])  # Ray ends the tail as soon as a job is told to stop
        if info.status == "STOPPED":
            return _STOPPED
        if info.status == "SUCCEEDED":
            return 0
        if info.driver_exit_code is None:  # it never began
            write(f"{info.message}\n")
        return info.driver_exit_code or 1

    def _info(self, job: str) -> Any:
        try:
            return self._client.get_job_info(job)
        except Exception as error:  # noqa: BLE001  whatever way the head has gone
            raise RunFailed(
                f"lost the connection to {self.address} ({_first_line(error)}); if the cluster lives, the job {job} "
                "goes on: distrl jobs, distrl stop"
            ) from None


def environment(shipped: Path, names: Sequence[str], stop_grace_s: int) -> dict[str, Any]:
    """The runtime environment of a job: its files, and of this shell's variables only those that are named.

    Raises:
        ConfigError: one is not set; the folder is too large.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"--env forwards variables of this shell, but {', '.join(missing)} is not set here")
    check_size(shipped)
    # Read by the process that ends the job: Ray sends SIGTERM, and SIGKILL so many seconds later (3 by default)
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_grace_s)}
    variables |= {name: os.environ[name] for name in names}
    return {"working_dir": str(shipped), "excludes": NOT_SHIPPED, "env_vars": variables}


def unpacked(wheel: Path, folder: Path) -> Path:
    """A wheel's content in a new folder, where Python finds it: nothing is installed on the cluster.

    Raises:
        ConfigError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if not any(name.split("/")[0].endswith(".dist-info") for name in archive.namelist()):
                raise ConfigError(f"--wheel needs a wheel, but {wheel} holds no .dist-info: python -m build --wheel")
            target = tempfile.mkdtemp(dir=folder)
            archive.extractall(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"--wheel needs a wheel, but {wheel} cannot be read: {_first_line(error)}") from None
    return Path(target)


def check_size(folder: Path) -> None:
    """Refuse a working tree that is too large to travel, as soon as that is known.

    Raises:
        ConfigError: with its largest entries so far.
    """
    from ray._private.runtime_env import packaging

    sizes: Counter[str] = Counter()

    def count(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size
            if sizes.total() > MAX_BYTES:
                raise _TooLarge

    excludes = [packaging._get_excludes(folder, NOT_SHIPPED)]
    quiet = logging.getLogger("distrl.quiet")
    quiet.disabled = True
    try:
        packaging._dir_travel(folder, excludes, count, include_gitignore=True, logger=quiet)
    except _TooLarge:
        largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.most_common(3))
        raise ConfigError(
            f"the working tree {folder} travels with the job and may hold {MAX_BYTES / 1e6:.0f} MB, but has more "
            f"({largest}, and not all was counted): name what is not needed in .gitignore or .rayignore, put data on "
            "storage that the cluster shares, or ship a wheel (--wheel)"
        ) from None


class _TooLarge(Exception):
    pass


def _job(details: Any) -> Job:
    def seconds(stamp: int | None) -> float | None:
        return None if stamp is None else stamp / 1000

    command = details.entrypoint.removeprefix("exec ").replace("python -m distrl.cli", "distrl", 1)
    times = seconds(details.start_time), seconds(details.end_time)
    return Job(details.submission_id, details.status.value, command, *times, details.driver_exit_code)


def _reach(address: str) -> None:
    """Ray itself would wait for ever where nobody answers."""
    parts = urlsplit(address)
    try:
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ConfigError(f"--address needs {_WHERE}, but {address} came") from None
    try:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_S).close()
    except OSError as error:
        raise ConfigError(
            f"--address needs {_WHERE}, but nobody answers at {address} ({error}): is the cluster up, and does its "
            "network, or a tunnel, let this machine in?"
        ) from None


def _no_token(address: str, said: str) -> ConfigError:
    came = "no token came with the request" if "Missing" in said or "cannot be opened" in said else "its token is wrong"
    return ConfigError(
        f"the cluster at {address} lets in only who has its token, and {came}: set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH to a file that holds it (or RAY_AUTH_TOKEN)"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
