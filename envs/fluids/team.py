"""A kernel and a number of threads in, the kernel run by all of them together: one environment on several cores.

The kernel is compiled ``nogil``, knows which of the threads it is, and meets the others twice a lattice step, every 20
to 500 µs. Numba's own ``prange`` starts and ends its threads for every loop, which costs more than such steps give them
to do, and starts them where processes are forked from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba as nb
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from distrl.envs import options as check

# Columns of a board, whose row is a thread and, with 8 numbers, a cache line of its own.
TURN, LOOKS, OUTCOME = 0, 1, 2
ABANDONED = -1  # an outcome: a thread will not come, the others must not wait for it
_BOARD_WIDTH = 8
_PATIENCE = 500  # looks at another thread's turn, about 1 µs, before the core is offered to other processes
_SHARE_STEP = 0.02

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _element(context, builder, signature, values):
    array = context.make_array(signature.args[0])(context, builder, values[0])
    return cgutils.get_item_pointer(context, builder, signature.args[0], array, [values[1], values[2]])


@intrinsic
def _load(typing_context, board, row, column):
    def generate(context, builder, signature, values):
        return builder.load_atomic(_element(context, builder, signature, values), "acquire", 8)

    return types.int64(board, types.intp, types.intp), generate


@intrinsic
def _store(typing_context, board, row, column, value):
    def generate(context, builder, signature, values):
        builder.store_atomic(values[3], _element(context, builder, signature, values), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.intp, types.intp, types.int64), generate


@nb.njit(cache=True, nogil=True)
def meet(board, me):  # pragma: no cover
    """Wait until every thread has come here as often as ``me``: what they wrote before is then seen by all. How often
    it looked for the others."""
    turn = board[me, TURN] + 1
    _store(board, me, TURN, turn)  # type: ignore[call-arg]  # numba gives the first argument
    total = 0
    for other in range(board.shape[0]):
        looks = 0
        while _load(board, other, TURN) < turn:
            looks += 1
            if looks > _PATIENCE:
                _sched_yield()
        total += looks
    return total


class Team:
    """Threads that run a kernel together; they start with the first run, never in a process that is forked later.

    ``size`` threads, the caller's included, share ``rows`` of a grid. The first has the bodies to move as well, so its
    share of the rows is adapted, from run to run, until it waits no longer than the others; a cell's result does not
    depend on who computes it.
    """

    def __init__(self, size: int, rows: int) -> None:
        usable = len(os.sched_getaffinity(0))
        self.size = check.count("a scene", "threads", size)
        check.require(
            size <= min(usable, rows // 4),
            f"a scene needs threads between 1 and the cores that this process may use, {usable} (and a quarter of its "
            f"{rows} cells along the stream), got {size!r}: use fewer, or give each environment more cores "
            "(env.cores; actors.pin_cores binds it to them).",
        )
        self._rows = rows
        self._share = 1 / size  # of the rows, the first thread's
        self._others: ThreadPoolExecutor | None = None

    def run(self, kernel: Callable[[np.ndarray, int, np.ndarray], Any]) -> Any:
        """What ``kernel(board, me, strips)`` returns to the caller's thread, 0; ``strips[me]`` to ``strips[me + 1]``
        are the rows of thread ``me``."""
        board = np.zeros((self.size, _BOARD_WIDTH), np.int64)
        if self.size == 1:
            return kernel(board, 0, np.array([0, self._rows]))
        first = self._share * self._rows
        strips = np.concatenate([[0], np.linspace(first, self._rows, self.size).round()]).astype(np.int64)

        def member(me: int) -> Any:
            try:
                return kernel(board, me, strips)
            except BaseException:  # an interrupt, say: the others would wait for this thread for ever
                board[0, OUTCOME] = ABANDONED
                board[me, TURN] = np.iinfo(np.int64).max
                raise

        self._others = self._others or ThreadPoolExecutor(self.size - 1, "distrl-fluid")
        others = [self._others.submit(member, me) for me in range(1, self.size)]
        try:
            result = member(0)
        finally:
            for other in others:
                other.result()
        idle = board[0, LOOKS] - board[1:, LOOKS].mean()
        share = self._share + _SHARE_STEP * np.sign(idle) / self.size
        self._share = float(np.clip(share, 0.1 / self.size, 1 / self.size))
        return result
