"""Rows' packets in and out: a socket to each environment process, and one poll over all and the fork server's."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

_PACKET = 65536


class RowSockets:
    """The owner's ends. A row has at most one socket; a packet of a process that has died is none."""

    def __init__(self, num_rows: int):
        self._sockets: list[socket.socket | None] = [None] * num_rows
        self._row_of_fd: dict[int, int] = {}
        self._server: socket.socket | None = None
        self._epoll = select.epoll()

    def watch(self, server: socket.socket | None) -> None:
        """Poll this fork server's socket too, in place of another; None: no longer."""
        if self._server is not None:
            self._epoll.unregister(self._server)
        self._server = server
        if server is not None:
            self._epoll.register(server, select.EPOLLIN)

    def open(self, row: int) -> socket.socket:
        """A socket for a row's new process; returns the process's end, which the caller closes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sockets[row] = ours
        self._row_of_fd[ours.fileno()] = row
        self._epoll.register(ours, select.EPOLLIN)
        return theirs

    def is_open(self, row: int) -> bool:
        """Whether the row's process has not closed its end, as far as has been read."""
        return self._sockets[row] is not None

    def poll(self, wait_s: float) -> Iterator[int | None]:
        """Rows with packets, once there are any, and None for the fork server."""
        for fd, _ in self._epoll.poll(wait_s):
            if fd in self._row_of_fd:
                yield self._row_of_fd[fd]
            elif self._server is not None and fd == self._server.fileno():
                yield None

    def send(self, row: int, packet: bytes) -> None:
        """Lost where there is no process: the fork server reports its death."""
        channel = self._sockets[row]
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.send(packet)

    def receive(self, row: int) -> bytes | None:
        """The next packet, empty at the end of the socket (which is then closed); None: there is nothing now."""
        channel = self._sockets[row]
        if channel is None:
            return None
        try:
            packet = channel.recv(_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            self.drop(row)
        return packet

    def drop(self, row: int) -> None:
        """Close the row's socket; harmless when repeated."""
        channel, self._sockets[row] = self._sockets[row], None
        if channel is not None:
            self._row_of_fd.pop(channel.fileno(), None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(channel)
            channel.close()

    def close(self) -> None:
        """Close all of them."""
        for row in range(len(self._sockets)):
            self.drop(row)
        self._epoll.close()
