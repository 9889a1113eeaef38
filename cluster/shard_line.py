"""A learner's calls flow to a shard of the parameter server over a connection of their own, and the answers back.

Ray starts the shards and tells learners where each listens. What travels at every update goes past Ray, whose calls
take far longer for vectors of a megabyte: from one node to another, such an argument passes through two object stores.

LearnerActor: ShardedOptimizer ──ShardLine──► ShardListener: ParameterShard in a ParameterShardActor
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

Address = tuple[str, int]
_LOOK_S = 0.1  # between two looks for a dead shard's successor
_CONFIRMED_S = 30.0  # within which the other node has what was sent
_STILL_THERE_S = 1.0  # between two looks whether the shard that is to answer has a successor


class ShardListener:
    """Answers learners, each in a thread of its own, since a shard lets them wait.

    Args:
        calls: what can be called, by name.
        host: address of this machine that learners reach it by; it listens at no other.
        key: whoever does not know it is refused; it never travels.

    Attributes:
        address: where it listens.
    """

    def __init__(self, calls: Mapping[str, Callable[..., Any]], host: str, key: bytes):
        self._calls, self._key = calls, key
        self._listener = Listener((host, 0))
        self.address: Address = self._listener.address
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept(),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        # Gone, or never let in: nobody waits for an answer. A learner that was lost calls again.
        with connection, contextlib.suppress(EOFError, OSError, AuthenticationError):
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            _prepare(connection)
            while True:
                method, arguments = _received(connection)
                try:
                    answer = self._calls[method](*arguments)
                except Exception as error:  # noqa: BLE001  whatever it is, the learner has to hear it
                    answer = error
                _send(connection, answer)


class ShardLine:
    """Implements ``distrl.learners.sharded_optimizer.ShardLink``: one call at a time, made again where the shard has
    died, at its successor.

    Args:
        where: the address of the shard that there is now; None while there is none.
        key: see ``ShardListener``.
    """

    def __init__(self, where: Callable[[], Address | None], key: bytes):
        self._where, self._key = where, key
        self._address: Address | None = None
        self._connection: Connection | None = None

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """See ``ShardLink``."""
        self._send((method, arguments))

        def wait() -> Any:
            while (answer := self._received()) is None:
                time.sleep(_LOOK_S)
                self._send((method, arguments))
            (found,) = answer
            if isinstance(found, Exception):
                raise found
            return found

        return wait

    def _send(self, request: tuple[str, tuple[Any, ...]]) -> None:
        """To the shard that there is now; lost where it is away."""
        address = self._where()
        if address != self._address:
            self._hang_up()
        try:
            if self._connection is None and address is not None:
                self._connection, self._address = Client(address, authkey=self._key), address
                _prepare(self._connection)
            if self._connection is not None:
                _send(self._connection, request)
        except (EOFError, OSError):
            self._hang_up()

    def _received(self) -> tuple[Any] | None:
        """The answer, in a tuple; None where none will come."""
        if self._connection is None:
            return None
        try:
            while not self._connection.poll(_STILL_THERE_S):  # a node that is lost does not end its connections
                if self._where() != self._address:
                    self._hang_up()
                    return None
            return (_received(self._connection),)
        except (EOFError, OSError):
            self._hang_up()
            return None

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._address = None


def _prepare(connection: Connection) -> None:
    """Do not wait for more to send, as a header goes ahead of each vector; and what a lost node does not confirm ends
    the connection."""
    with socket.socket(fileno=connection.fileno()) as own:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _CONFIRMED_S))
        own.detach()


def _send(connection: Connection, message: Any) -> None:
    """By the plain pickle: a connection's own ``send`` would leave torch's tensors in the memory of this machine."""
    connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def _received(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())
