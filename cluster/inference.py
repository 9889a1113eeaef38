"""Inference servers as Ray actors, and what ties env workers to them: rows go one way, actions come back."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import ray

from distrl.actors.inference import Answer
from distrl.actors.inference_server import InferenceServer
from distrl.cluster import components
from distrl.cluster.components import PolicySpecs
from distrl.cluster.ray_actors import LoopActor, whereabouts
from distrl.cluster.ray_links import RaySource
from distrl.core.config import RunConfig
from distrl.core.types import Columns, Observation


class InferenceServerActor(LoopActor):
    """``InferenceServer`` behind Ray: any number of env workers wait without a thread each."""

    def __init__(
        self,
        config: dict[str, Any],
        policies: PolicySpecs,
        number: int,
        life: int,
        server: Any,
        wait_for_weights: bool,
        device: str,
    ):
        super().__init__()
        self._events: asyncio.AbstractEventLoop | None = None  # once somebody waits for news
        self._news = asyncio.Event()
        ((policy_id, policy),) = policies.items()
        self._parameter_server = server
        source = RaySource(lambda: self._parameter_server, policy_id)
        self._server: InferenceServer = components.build_inference_server(
            RunConfig.validated(config), policy, source, number, life, device, self._newer_weights
        )
        self._begin(lambda: self._server.run(self._stop, wait_for_weights))

    async def act(self, observation: Observation, state: Columns, is_first: np.ndarray, at_least: int) -> Answer:
        """See ``InferenceServer.ask``."""
        return await asyncio.wrap_future(self._server.ask(observation, state, is_first, at_least))

    async def newer_version(self, version: int, wait_s: float) -> int | None:
        """See ``distrl.actors.inference.ServerLink``."""
        self._events = asyncio.get_running_loop()
        deadline = time.monotonic() + wait_s
        while self._server.version <= version and (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)
        return self._server.version if self._server.version > version else None

    def _newer_weights(self) -> None:
        if self._events is not None:
            self._events.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._parameter_server = server

    def report(self) -> dict[str, Any]:
        """See ``InferenceServer.report``; ``failure`` where the loop has ended in one."""
        return self._server.report() | {"failure": self._failure, **whereabouts()}


class RayServerLink:
    """An inference server behind Ray, or none yet; implements ``distrl.actors.inference.ServerLink``."""

    def __init__(self, server: Any):
        self._server, self.alive = server, server is not None
        self._done: queue.SimpleQueue[tuple[int, Any, Future]] = queue.SimpleQueue()

    def use(self, server: Any) -> None:
        """Another has taken its place, or it is back (any thread)."""
        self._server, self.alive = server, True

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray, at_least: int) -> None:
        """See ``ServerLink``."""
        server = self._server
        answer: Future = server.act.remote(observation, state, is_first, at_least).future()
        answer.add_done_callback(lambda done: self._done.put((ticket, server, done)))

    def answers(self, timeout_s: float) -> list[tuple[int, Answer | None]]:
        """See ``ServerLink``."""
        found: list[tuple[int, Answer | None]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._read(*self._done.get(timeout=0.0 if found else timeout_s)))
        return found

    def _read(self, ticket: int, server: Any, done: Future) -> tuple[int, Answer | None]:
        try:
            return ticket, done.result()
        except ray.exceptions.RayActorError:
            self._lost(server)
            return ticket, None
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the sentence of whoever refused, without Ray's traceback

    def newer_version(self, version: int, wait_s: float) -> int | None:
        """See ``ServerLink``."""
        server = self._server
        try:
            return ray.get(server.newer_version.remote(version, wait_s), timeout=10 + wait_s)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            self._lost(server)
            return None

    def _lost(self, server: Any) -> None:
        if server is self._server:  # or another has come meanwhile
            self.alive = False
