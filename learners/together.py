"""What each of several learners has found flows in, what all have found together flows out: learners in step.

All learners of a group call the same methods in the same order, each in a process (or a thread) of its own.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from distrl.core.errors import DistrlError

TIMEOUT_S = 600.0  # of one exchange: longer than any update, and than a learner's wait for its first transitions


class LearnerLost(DistrlError):
    """Another learner of the group has died or stopped: those that are left cannot go on without it."""


class Together(Protocol):
    """Attributes: rank: which of the learners this is. size: how many there are."""

    rank: int
    size: int

    def mean(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over the learners; every learner gets the same bits."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the learners, elementwise."""

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Everybody's float64 array [D], by rank."""


class Alone:
    """One learner."""

    rank, size = 0, 1

    def mean(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``Together``."""
        return gradients

    def sum(self, values: Tensor) -> Tensor:
        """See ``Together``."""
        return values

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """See ``Together``."""
        return [array]


ALONE = Alone()


class Group:
    """Learners that exchange through torch.distributed: Gloo between CPUs, NCCL between GPUs.

    Args:
        store: where they find each other: see ``meeting``.
        device: of the algorithm's tensors.
        host: address of this machine that the others reach it by.
        timeout_s: of one exchange.

    Raises:
        LearnerLost: the others have not come within ``timeout_s``.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        size: int,
        device: str | torch.device = "cpu",
        timeout_s: float = TIMEOUT_S,
        host: str = "127.0.0.1",
    ):
        self.rank, self.size, self._device = rank, size, torch.device(device)
        gloo: Any = dist.ProcessGroupGloo
        settings = gloo._Options()  # the only way to say at which address it listens
        settings._timeout, settings._devices = timedelta(seconds=timeout_s), [gloo.create_device(hostname=host)]
        try:
            self._hosts: Any = gloo(store, rank, size, settings)  # what is on the CPU anyway
            self._devices: Any = self._hosts
            if self._device.type == "cuda":
                options = dist.ProcessGroupNCCL.Options()
                self._devices = dist.ProcessGroupNCCL(dist.PrefixStore("nccl", store), rank, size, options)
        except RuntimeError as error:
            raise LearnerLost(f"learner {rank} has not found the other {size - 1}: {_first(error)}") from None

    def mean(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``Together``: one exchange of all vectors."""
        joined = self._reduced(self._devices, torch.cat(list(gradients.values())))
        parts = joined.div_(self.size).split([len(gradient) for gradient in gradients.values()])
        return dict(zip(gradients, parts, strict=True))

    def sum(self, values: Tensor) -> Tensor:
        """See ``Together``."""
        return self._reduced(self._devices if values.is_cuda else self._hosts, values.clone())

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """See ``Together``; all have the same length."""
        own = torch.from_numpy(np.ascontiguousarray(array, np.float64))
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(self._hosts.allgather([found], [own]))
        return [part.numpy() for part in found]

    def from_first(self, content: bytes) -> bytes:
        """Rank 0's bytes, for everybody."""
        size = self.sum(torch.tensor([len(content) if self.rank == 0 else 0]))
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == 0:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._wait(self._hosts.broadcast([buffer], dist.BroadcastOptions()))
        return buffer.numpy().tobytes()

    def _reduced(self, group: Any, values: Tensor) -> Tensor:
        self._wait(group.allreduce([values]))
        return values

    def _wait(self, work: Any) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise LearnerLost(
                f"learner {self.rank} has lost one of the other {self.size - 1}: {_first(error)}"
            ) from None


def meeting(host: str, port: int = 0, timeout_s: float = TIMEOUT_S) -> dist.TCPStore:
    """Where the learners of a group find each other: with port 0 rank 0 opens one at an address of its machine
    (``.port``), and the others are told.

    Raises:
        LearnerLost: nobody answers there.
    """
    timeout = timedelta(seconds=timeout_s)
    if port == 0:
        with socket.create_server((host, 0)) as listening:  # torch would listen at every address of the machine
            port = listening.getsockname()[1]
            descriptor = listening.detach()
        return dist.TCPStore(
            host, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=descriptor
        )
    try:
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise LearnerLost(f"no learner answers at {host}:{port}: {_first(error)}") from None


def _first(error: RuntimeError) -> str:
    """Without what Gloo adds for whoever reports defects of it."""
    return str(error).partition(". ")[0]
