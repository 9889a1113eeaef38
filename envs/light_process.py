"""How a light interpreter of ours is started, and how everything that it has started is found again and ended.

The fork server and ``describe`` both run environments in such a process: with our module search path, one thread per
numerical library, and none of the variables by which a launcher's children recognise their job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time

TREE = "DISTRL_TREE"  # environment variable that names a process tree: all that is started below inherits it

#: Variables of schedulers and launchers: an MPI solver that finds them believes that it is a rank of *our* job.
_FOREIGN = (
    *("RAY_", "SLURM_", "PBS_", "LSB_", "LS_", "JSM_", "SGE_", "FLUX_", "ALPS_", "PALS_", "PE_HOSTFILE"),
    *("PMI_", "PMIX_", "PMI2_", "OMPI_", "PRTE_", "PRRTE_", "MPI_", "I_MPI_", "MPICH_", "HYDRA_", "MV2_"),
)
#: … of those, what says where an MPI is installed or that it may run, and nothing of a job.
_KEPT = ("MPI_HOME", "MPI_ROOT", "I_MPI_ROOT", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_PR_SET_PDEATHSIG = 1
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
# pyarrow's allocator starts a thread when it is imported, RLlib imports it, and what has threads cannot be forked.
_ARROW = ("JE_ARROW_MALLOC_CONF", "background_thread:false")

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from distrl.core.types import import_path; import_path(sys.argv[2])(*sys.argv[3:])"
)


def light_environment(extra: dict[str, str] | None = None, threads: int = 1) -> dict[str, str]:
    """The variables of a light interpreter: ours without a scheduler's, Ray's or MPI's, so many threads per library."""
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(_FOREIGN)}
    kept.update(dict.fromkeys(_THREADS, str(threads)))
    kept.setdefault(*_ARROW)
    kept.update(extra or {})
    return kept


def light_command(target: str, *arguments: str) -> list[str]:
    """The command line that calls ``"module:function"`` with strings, with this process's module search path.

    Ray puts a job's working directory on ``sys.path`` only, so a plain ``-m`` would not find the user's modules there.
    """
    path = [entry or os.getcwd() for entry in sys.path]
    return [sys.executable, "-c", _START, json.dumps(path), target, *arguments]


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when the thread that started it ends; at once if ``parent`` has gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def kill_tree(tree: str) -> int:
    """SIGKILL every living process that inherited ``DISTRL_TREE=tree``; how many there were. Scans /proc."""
    marker = f"{TREE}={tree}".encode()
    killed = 0
    for _ in range(10):  # until a scan finds none: a process may have forked during the last one
        found = tree_pids(marker)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.01)
    return killed


def tree_pids(marker: bytes) -> list[int]:
    """Living processes (zombies have no environment) whose initial environment holds ``NAME=value``."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if marker in file.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                continue
    return found


def describe_exit(status: int | str) -> str:
    """An exit status (negative: signal) in words."""
    if isinstance(status, str):
        return status
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
