"""Calls of a learner to a shard's listener, over a real connection."""

import socket
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest
import torch

from distrl.cluster.shard_line import ShardLine, ShardListener

KEY = b"of this run"


def double(vector):
    return 2 * vector


def test_calls_are_answered_and_errors_raised_where_the_call_was_made():
    listener = ShardListener({"double": double}, "127.0.0.1", KEY)
    line = ShardLine(lambda: listener.address, KEY)
    vector = np.arange(1_000_000, dtype=np.float32)
    first = line.call("double", vector)
    np.testing.assert_array_equal(first(), 2 * vector)
    twice = line.call("double", torch.ones(3))()
    assert twice.tolist() == [2.0, 2.0, 2.0]
    assert not twice.is_shared(), "another machine could not read it"
    with pytest.raises(TypeError, match="unsupported operand"):
        line.call("double", None)()
    assert line.call("double", 4)() == 8  # the connection has outlived the error


def test_a_call_waits_for_the_successor_of_a_shard_that_has_died():
    stuck, listeners = threading.Event(), []
    listeners.append(ShardListener({"name": lambda: stuck.wait(60)}, "127.0.0.1", KEY))
    line = ShardLine(lambda: listeners[-1].address if listeners else None, KEY)
    answer = line.call("name")
    listeners.clear()  # it has died; there is none for a while
    threading.Timer(0.5, lambda: listeners.append(ShardListener({"name": lambda: "b"}, "127.0.0.1", KEY))).start()
    assert answer() == "b"
    stuck.set()


def test_a_stranger_is_refused_and_holds_up_nobody():
    listener = ShardListener({"double": double}, "127.0.0.1", KEY)
    with socket.create_connection(listener.address):  # says nothing
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=b"a guess")
        began = time.monotonic()
        assert ShardLine(lambda: listener.address, KEY).call("double", 4)() == 8
        assert time.monotonic() - began < 5.0
