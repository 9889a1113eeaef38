"""A solver's command line in, its finished run or an EnvironmentFault of the right kind out; with or without MPI.

Nothing here knows a particular code: docs/openfoam.md shows how one is driven step by step, and how to adapt another.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.envs.light_process import describe_exit, die_with_parent, light_environment, tree_pids

_MARK = "DISTRL_SOLVER"  # environment variable by which the processes of one run are found, MPI ranks included
_READ_BYTES = 1 << 16  # of the log's end, where the reason of a failure is looked for
_TAIL_LINES, _TAIL_BYTES = 12, 1500  # of them, in an error's message
_FULL_BYTES = 1 << 20  # with less free space than this, what the solver has written cannot be trusted
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
#: Read by Open MPI (mpirun takes no flags of its own then, so that another launcher works as well). It counts the
#: machine's cores, not those that we may use, so its own check of their number is off and __init__ makes it. Ranks wait
#: without spinning: the machine's other environments need the cores. (Their shared memory is put into the run's folder
#: and goes with that; after a SIGKILL it would stay in /dev/shm.)
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl": "self,vader",
}
_log = logging.getLogger(__name__)


class SolverProcess:
    """A program that is run again and again in one folder, each time from what it had last written there.

        solver = SolverProcess(["pimpleFoam", "-parallel"], case, ranks=2, divergence="Floating point")
        wall_s = solver.run(timeout_s=600.0)

    Whatever becomes of a run, none of its processes is left when ``run`` returns or raises. If the process that called
    it dies, by SIGKILL too, Linux kills the program (so call from a thread that lives as long), and an MPI launcher's
    ranks with it.

    Args:
        argv: the command line. cwd: the folder it runs in. env: variables added to this process's (without those of a
            scheduler or an outer MPI job).
        ranks: more than one: run by ``launcher``, on the cores that this process may use.
        oversubscribe: allow more ranks than those cores.
        divergence: regular expression of what the log says when the solution has diverged.
        retries: times that a run which crashed or hung is begun again; only for a program that then begins from what
            it had last written.
        threads: of each numerical library, in each rank.
        launcher: what comes before ``-np``.

    Attributes:
        log: the output of the last run, in ``cwd``.

    Raises:
        ConfigError: a program is not there, or there are more ranks than cores.
    """

    def __init__(
        self,
        argv: Sequence[str],
        cwd: str | os.PathLike[str],
        *,
        env: Mapping[str, str] | None = None,
        ranks: int = 1,
        oversubscribe: bool = False,
        divergence: str | None = None,
        retries: int = 0,
        threads: int = 1,
        launcher: Sequence[str] = ("mpirun",),
    ) -> None:
        self.cwd, self.name = Path(cwd).absolute(), argv[0]
        self.log = self.cwd / f"log.{Path(self.name).name}"
        self._retries = retries
        self._divergence = None if divergence is None else re.compile(divergence)
        cores = len(os.sched_getaffinity(0))
        if ranks > cores and not oversubscribe:
            raise ConfigError(
                f"{self.name} on {ranks} MPI ranks needs as many cores, but this process may use {cores}: use fewer "
                "ranks, give the environment more (env.cores), or set oversubscribe = true and expect it to be slow."
            )
        if ranks > 1:  # a rank would notice a launcher's SIGKILL only after a second, and a hung one never
            guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            self._argv = [*launcher, "-np", str(ranks), *guard, *argv]
        else:
            self._argv = list(argv)
        here = str(self.cwd)
        variables = {"PWD": here, "TMPDIR": here}  # where an MPI launcher that is killed leaves its session's files
        if ranks > 1:
            variables |= _OPEN_MPI | {"OMPI_MCA_btl_vader_backing_directory": here}
        self._env = light_environment(variables | dict(env or {}), threads)
        for program in {self._argv[0], self.name}:
            if shutil.which(program, path=self._env.get("PATH")) is None:
                raise ConfigError(f"a solver needs the program {program!r}, which is not on the PATH: install it.")

    def run(self, timeout_s: float = 600.0) -> float:
        """Run to the end; the wall seconds that it took, failed attempts included.

        Args:
            timeout_s: wall seconds that an attempt may take.

        Raises:
            EnvironmentFault: of kind "crash" (it could not be started, or ended with another exit code than 0),
                "hang" (longer than that), "divergence" or "disk" (its log or the file system says so).
            StorageError: the log cannot be written.
        """
        begin = time.monotonic()
        for left in range(self._retries, -1, -1):
            try:
                self._run_once(timeout_s)
                break
            except EnvironmentFault as fault:
                if left == 0 or fault.kind not in ("crash", "hang"):
                    raise
                _log.warning("%s It is begun again from what it had last written.", fault)
        return time.monotonic() - begin

    def _run_once(self, timeout_s: float) -> None:
        mark = uuid.uuid4().hex
        process = None
        try:
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    self._argv,
                    cwd=self.cwd,
                    env=self._env | {_MARK: mark},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=functools.partial(die_with_parent, os.getpid()),
                )
            code = _wait(process, timeout_s)
        except OSError as error:
            raise StorageError(f"{self.name} needs a folder that can be written, but {error}.") from error
        finally:
            if process is not None and process.poll() != 0:
                _kill_marked(mark)
                process.wait()
        if code != 0 or shutil.disk_usage(self.cwd).free < _FULL_BYTES:
            raise self._fault(code, timeout_s)

    def _fault(self, code: int | None, timeout_s: float) -> EnvironmentFault:
        end = ""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _READ_BYTES, 0))
            end = file.read().decode(errors="replace")
        tail = "\n".join([line for line in end.splitlines() if line.strip()][-_TAIL_LINES:])[-_TAIL_BYTES:]
        if code is None:
            kind, how = "hang", "was killed"
        else:
            # a launcher and a shell report a rank's signal as 128 + its number
            kind, how = "crash", f"ended with {describe_exit(128 - code if 128 < code < 160 else code)}"
        if _DISK.search(end) or shutil.disk_usage(self.cwd).free < _FULL_BYTES:
            kind, how = "disk", f"{how}, and the file system or quota of {self.cwd} is full"
        elif code is not None and self._divergence is not None and self._divergence.search(end):
            kind, how = "divergence", f"{how}, because the solution had diverged"
        elif code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            how += " (the system kills so where memory runs out)"
        return EnvironmentFault(
            f"{self.name} must end with exit code 0 within {timeout_s:g} s, but {how}; {self.log} ends: {tail!r}.",
            kind,
        )


def _wait(process: subprocess.Popen, timeout_s: float) -> int | None:
    """The exit code, at the moment the process ends (``Popen.wait`` would look every 50 ms); None after the timeout."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return process.wait() if poll.poll(min(timeout_s * 1000, 2**31 - 1)) else None
    finally:
        os.close(descriptor)


def _kill_marked(mark: str) -> None:
    """SIGKILL the processes of a run: a launcher puts its ranks into process groups of their own."""
    marker = f"{_MARK}={mark}".encode()
    while pids := tree_pids(marker):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
