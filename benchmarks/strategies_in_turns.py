"""Strategies of training in which environments and learner take turns, in one process, of the same parts as
``distrl train``: for benchmarks/strategies.py.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sleeps import Sleeps


class Lockstep:
    """A pool whose rows all come at once, when the slowest has come."""

    def __init__(self, pool: Any):
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def recv(self, timeout_s: float) -> Any:
        outcomes, requests, faults = self._pool.recv(timeout_s)
        while len(requests.rows) < self._pool.num_envs:
            more, asked, failed = self._pool.recv(1.0)
            outcomes, requests, faults = _both(outcomes, more), _both(requests, asked), faults + failed
        return outcomes, requests, faults


def _both(first: Any, second: Any) -> Any:
    """Two dataclasses of arrays, one behind the other."""
    found = {}
    for field in dataclasses.fields(first):
        mine, its = getattr(first, field.name), getattr(second, field.name)
        if field.name == "ended":
            found[field.name] = np.concatenate([mine, its + len(first.rows)])
        elif isinstance(mine, dict):
            found[field.name] = {key: np.concatenate([mine[key], its[key]]) for key in mine}
        elif isinstance(mine, list):
            found[field.name] = mine + its
        else:
            found[field.name] = np.concatenate([mine, its])
    return type(first)(**found)


def in_turns(settings: Any, strategy: str, laws: dict[str, Any]) -> dict[str, list[tuple[float, int, int]]]:
    """Train by ``serial``, ``lockstep`` or ``turns``: what was when, by cell: wall seconds, env steps, updates.

    Args:
        laws: cell → env.delay, whose sleeps are added up; without any, environments sleep as the settings say, and the
            one cell's name is "".
    """
    from distrl.cluster import checks, components
    from distrl.cluster.local import _DirectSink
    from distrl.core.run_directory import RunDirectory
    from distrl.parameter_server import ParameterServer, PolicySource

    serial = strategy == "serial"
    if serial:
        actors = settings.actors.model_copy(update={"envs_per_worker": 1})
        env = settings.env.model_copy(update={"hosting": "inline"})
        settings = settings.model_copy(update={"actors": actors, "env": env})
    if laws:
        settings = settings.model_copy(update={"env": settings.env.model_copy(update={"delay": None})})
    spec = checks.try_environment(settings).spec
    run = RunDirectory.create(Path(settings.run.out), settings)
    run.begin_session()
    server = ParameterServer()
    learner = components.build_learner(settings, spec, run.path, server.publish)
    pool: Any = components.build_training_pool(settings, 0, 0, run.scratch(), inline=serial, env_steps=0)
    rows = pool.num_envs
    if strategy == "lockstep":
        pool = Lockstep(pool)
    worker = components.build_worker(
        settings,
        pool,
        checks.policy_specs(settings, spec),
        _DirectSink(learner),
        partial(PolicySource, server),
        worker=0,
        incarnation=0,
        timed=True,
    )
    sleeps = Sleeps(laws, rows, settings.run.seed)
    cells = list(laws) or [""]
    learner.publish()
    (trainer,) = learner.trainers.values()
    marks: dict[str, list[tuple[float, int, int]]] = {cell: [(0.0, 0, 0)] for cell in cells}
    began, steps = time.time(), 0

    def mark() -> None:
        took_s = time.time() - began
        for cell in cells:
            marks[cell].append((took_s + sleeps.added_s.get(cell, 0.0), steps, trainer.num_updates))

    while steps < settings.run.steps:
        worker.pull()
        worker.run_once(0.05)
        finished = worker.report()["produced"]
        for _ in range(finished // rows - steps // rows):
            sleeps.add_round()
        steps = finished
        while learner.update():
            pass
        mark()
    worker.finish()
    worker.close()
    while learner.update():
        pass
    mark()
    learner.checkpoint()
    learner.close()
    shutil.rmtree(run.scratch(), ignore_errors=True)
    return marks
