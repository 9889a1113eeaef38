"""Requests to fork arrive on a socket, light processes come out: a small single-threaded interpreter that we own.

Why not multiprocessing's fork server: inside a Ray actor its children import Ray's worker main again, and it survives
its owner. Ours preloads numpy, gymnasium and the environment's module once, so that a child starts in milliseconds
and shares its pages.

Nobody is left behind, whoever is killed:
- owner dies: the server sees the end of its control socket (or another parent), kills all children and what they
  started, exits;
- server dies: the kernel kills the children (PR_SET_PDEATHSIG), and the owner kills what they had started, which it
  finds by the variable ``DISTRL_TREE`` that all of them inherit;
- child dies: the server kills its process group, and also what had left the group: every child is a subreaper, so its
  escaped descendants stay below it while it lives and become the server's (also a subreaper) when it dies.

Protocol (one pickled tuple a packet): owner → server ``("fork", ticket, argument)`` with the child's socket attached,
``("kill", ticket)``; server → owner ``("started", ticket, pid)``, ``("exited", ticket, status)``, status as of
os.waitstatus_to_exitcode or a string where fork itself failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from distrl.core.types import import_path
from distrl.envs.light_process import TREE, describe_exit, die_with_parent, kill_tree, light_command, light_environment

_PACKET = 1 << 17
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36


class ForkServerDied(Exception):
    """The server is gone, and with it all of its children."""


class ForkServer:
    """The owner's side.

        server = ForkServer("module:prepare", "module:child", common)
        server.fork(ticket, argument, child_socket)      # child(argument, socket, common) runs in a new process
        for event in server.events(): ...                # when server.socket is readable

    Args:
        prepare: called once with ``common`` before the first fork, to import what the children share. If it leaves
            threads behind, the server starts anew without it (forking a process with threads can deadlock). What it
            raises is ignored: the child meets the same error and can report it.
        child: called as ``child(argument, socket, common)`` in each process, which ends when it returns.
        common: picklable, the same for all children.
        preload: False leaves ``prepare`` out.
        threads: of each numerical library in the children.
    """

    def __init__(self, prepare: str, child: str, common: Any, *, preload: bool = True, threads: int = 1):
        self.tree = uuid.uuid4().hex
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with tempfile.TemporaryFile() as setup, theirs:
            pickle.dump((prepare, child), setup)
            pickle.dump(common, setup)
            setup.seek(0)
            self._process = subprocess.Popen(
                light_command(
                    "distrl.actors.fork_server:serve", str(theirs.fileno()), str(int(preload)), str(os.getpid())
                ),
                stdin=setup,  # a file, so that it can be read again after a restart without preloading
                stdout=2,  # what an environment prints must not mix with the owner's output
                pass_fds=(theirs.fileno(),),
                env=light_environment({TREE: self.tree}, threads),
                start_new_session=True,  # Ctrl-C is the owner's to handle
            )
        self.pid = self._process.pid

    def fork(self, ticket: int, argument: Any, child_socket: socket.socket) -> None:
        """Ask for a process; its socket's file descriptor is passed on, the caller closes its own copy.

        Raises:
            ForkServerDied.
        """
        packet = pickle.dumps(("fork", ticket, argument))
        try:
            socket.send_fds(self.socket, [packet], [child_socket.fileno()])
        except OSError as error:
            raise ForkServerDied(str(error)) from error

    def kill(self, ticket: int) -> None:
        """SIGKILL a child and all below it; its exit is reported as an event. A child that has ended is left alone."""
        with contextlib.suppress(OSError):  # a dead server has no children; events() tells
            self.socket.send(pickle.dumps(("kill", ticket)))

    def events(self) -> list[tuple[str, int, Any]]:
        """What has been reported, without waiting.

        Raises:
            ForkServerDied: once, after everything that it had reported has been returned.
        """
        found: list[tuple[str, int, Any]] = []
        while True:
            try:
                packet = self.socket.recv(_PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError:
                packet = b""
            if packet:
                found.append(pickle.loads(packet))
            elif found:
                return found  # the end of the socket stays readable: the next call raises
            else:
                raise ForkServerDied(f"the fork server ended ({describe_exit(self._process.wait())})")

    def close(self, grace_s: float = 2.0) -> None:
        """Kill everything; returns when the server has gone."""
        self.socket.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            kill_tree(self.tree)

    def bury(self) -> None:
        """After ForkServerDied: kill what the server's children had started and left behind."""
        self.socket.close()
        self._process.wait()
        kill_tree(self.tree)


def serve(control_fd: str, preload: str, owner: str) -> NoReturn:
    """The server's main function; never returns."""
    control = socket.socket(fileno=int(control_fd))
    control.set_inheritable(False)
    with os.fdopen(os.dup(0), "rb") as setup:
        setup.seek(0)
        prepare, child = pickle.load(setup)
        common_pickled = setup.read()
    target = import_path(child)
    if preload == "1":
        with contextlib.suppress(BaseException):  # a user's module may even exit; the children will meet it and report
            import_path(prepare)(pickle.loads(common_pickled))
        if len(os.listdir("/proc/self/task")) > 1:
            os.set_inheritable(control.fileno(), True)
            command = light_command("distrl.actors.fork_server:serve", control_fd, "0", owner)
            os.execv(command[0], command)
    gc.collect()
    gc.freeze()  # the collector would otherwise write to every object's header and so unshare the pages
    _Server(control, target, common_pickled, int(owner)).run()


class _Server:
    def __init__(self, control: socket.socket, target: Callable, common_pickled: bytes, owner: int):
        self._control = control
        self._target = target
        self._common = common_pickled
        self._owner = owner
        self._pids: dict[int, int] = {}  # ticket → pid
        self._tickets: dict[int, int] = {}
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        os.set_blocking(self._wake_r, False)
        self._stopping = False
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def run(self) -> NoReturn:
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._prctl(_PR_SET_NAME, b"distrl-forks", 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        # The parent is looked at as well: another process may hold a copy of the owner's end of the socket.
        while not self._stopping and os.getppid() == self._owner:
            for fd, _ in poll.poll(500):
                if fd == self._wake_r:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_r, 4096)
                    self._reap()
                elif not self._serve_one():
                    self._stopping = True
        self._kill_all()
        os._exit(0)

    def _on_term(self, *_: Any) -> None:
        self._stopping = True

    def _serve_one(self) -> bool:
        """One request; False at the end of the socket."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, _PACKET, 1)
        except OSError:
            return False
        if not packet:
            return False
        what, ticket, *rest = pickle.loads(packet)
        if what == "fork":
            self._fork(ticket, rest[0], fds[0])
        elif ticket in self._pids:
            self._kill(self._pids[ticket])
        return True

    def _fork(self, ticket: int, argument: Any, fd: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fd)
            self._report(("exited", ticket, f"fork failed: {error.strerror}"))
            return
        if pid == 0:
            self._become_child(server, argument, fd)
        os.close(fd)
        self._pids[ticket] = pid
        self._tickets[pid] = ticket
        self._report(("started", ticket, pid))

    def _become_child(self, server: int, argument: Any, fd: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            die_with_parent(server)
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._control.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            self._prctl(_PR_SET_NAME, b"distrl-child", 0, 0, 0)
            with socket.socket(fileno=fd) as own:
                own.set_inheritable(False)
                self._target(argument, own, pickle.loads(self._common))
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - nothing may unwind into the server's own stack
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _report(self, event: tuple) -> None:
        try:
            self._control.send(pickle.dumps(event))
        except OSError:
            self._stopping = True

    def _reap(self) -> None:
        """Collect everything that has ended, then end what the ended have left to us."""
        exited = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ticket = self._tickets.pop(pid, None)
            if ticket is not None:
                del self._pids[ticket]
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                exited.append((ticket, os.waitstatus_to_exitcode(status)))
        for pid in _children():
            if pid not in self._tickets:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # its own children become ours next, and SIGCHLD brings us back here
        for ticket, code in exited:
            self._report(("exited", ticket, code))

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        self._control.close()
        for pid in list(self._tickets):
            self._kill(pid)
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            self._reap()
            if not self._tickets and not _children():
                return
            time.sleep(0.002)


def _children() -> list[int]:
    """Pids of this (single-threaded) process's children, adopted ones included."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == own:
                        found.append(int(entry))
        return found
