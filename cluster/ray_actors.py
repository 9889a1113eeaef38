"""Parameter server and evaluator as Ray actors, and what all actors share: each wraps a plain class, runs its loop in
a thread, and answers the supervisor on its main thread.

LearnerActor ──publish──► ParameterServerActor ◄──pull_if_newer── EnvWorkerActor, EvaluatorActor
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import ray

from distrl.cluster import components
from distrl.cluster.components import PolicySpecs, save_best
from distrl.cluster.ray_links import pull_all
from distrl.cluster.recorder import is_best
from distrl.core.config import RunConfig
from distrl.core.errors import DistrlError
from distrl.core.types import DEFAULT_POLICY, Weights
from distrl.parameter_server import ParameterServer


class ParameterServerActor(ParameterServer):
    """``ParameterServer`` behind Ray, where any number of env workers wait without a thread each; imports no torch."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    async def publish(  # type: ignore[override]
        self, version: int, weights: Weights, policy_id: str = DEFAULT_POLICY
    ) -> int:
        """See ``ParameterServer.publish``."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        return super().publish(version, weights, policy_id)

    async def pull_if_newer(  # type: ignore[override]
        self, version: int, wait_s: float = 0.0, policy_id: str = DEFAULT_POLICY
    ) -> tuple[int, Weights] | None:
        """See ``ParameterServer.pull_if_newer``."""
        deadline = time.monotonic() + wait_s
        while (found := super().pull_if_newer(version, 0.0, policy_id)) is None and (
            left_s := deadline - time.monotonic()
        ) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)
        return found

    def report(self) -> dict[str, Any]:
        """Where it is, once it is up."""
        return whereabouts()


def whereabouts() -> dict[str, Any]:
    """Of the calling actor: process, GPUs, node, CPU seconds."""
    return {
        "pid": os.getpid(),
        "gpu_ids": ray.get_gpu_ids(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "cpu_s": time.process_time(),
    }


class LoopActor:
    """A loop in a daemon thread whose failure is told to the supervisor instead of being lost."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._failure: str | None = None
        self._loop: threading.Thread | None = None

    def _begin(self, body: Any) -> None:
        def run() -> None:
            try:
                body()
            except DistrlError as error:
                self._failure = str(error)
            except Exception as error:  # noqa: BLE001  any other failure ends the run too, with its traceback in the log
                traceback.print_exc()
                self._failure = f"{type(error).__name__}: {error}"

        self._loop = threading.Thread(target=run, name="loop", daemon=True)
        self._loop.start()


class EvaluatorActor:
    """Runs deterministic episodes with the newest weights, at low priority, when asked."""

    def __init__(self, config: dict[str, Any], directory: str, scratch: str, inline: bool):
        os.nice(10)  # never in the way of env workers
        self._config = RunConfig.validated(config)
        self._directory = Path(directory)
        evaluation = self._config.evaluation
        self._num_envs = min(evaluation.envs, evaluation.episodes)
        self._runner = components.evaluation_runner(
            self._config, components.SELECTION_SEEDS, evaluation.episodes, self._num_envs, Path(scratch), inline=inline
        )

    def start(self, policies: PolicySpecs, server: Any, best: float | None) -> int:
        """Get ready; ``best`` is the best mean return so far. Returns the process id."""
        self._specs, self._server, self._best = policies, server, best
        self._policies = {name: policy.build(seed=0, deterministic=True) for name, policy in policies.items()}
        return os.getpid()

    def report(self) -> dict[str, Any]:
        """Where it is, when it does not evaluate."""
        return whereabouts()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._server = server

    def evaluate(self, env_steps: int) -> dict[str, Any] | None:
        """One episode on each seed; keeps the policy if it is the best. None before the first publication."""
        from distrl.actors.evaluator import mean_return

        pulled = pull_all(self._server, self._policies)
        if set(pulled) != set(self._policies):
            return None
        for name, (_, weights) in pulled.items():
            self._policies[name].load(weights)
        act = components.evaluation_act(self._config, self._runner.spec, self._policies, self._num_envs)
        results = self._runner.run(act)
        mean = mean_return(results)
        if math.isfinite(mean) and is_best(mean, self._best, self._config.league is not None):
            self._best = mean
            save_best(self._directory, pulled, self._specs, mean)
        return {
            "env_steps": env_steps,
            "updates": sum(version for version, _ in pulled.values()),
            "seeds": [result.seed for result in results],
            "returns": [result.episode_return for result in results],
            "lengths": [result.length for result in results],
        }

    def stop(self) -> None:
        """End the environments."""
        self._runner.close()
