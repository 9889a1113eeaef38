"""A run's log and order of arrival in, its updates once more: bit for bit on a CPU, or where they first differ.

A batch is a function of the run's seed, the update's index and what the replay held then. So what a learner did beside
asynchronous simulators needs nothing but the order in which their fragments came.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrl.core.arrivals import read_arrivals
from distrl.core.checkpoint import LEARNER, list_checkpoints, load_checkpoint, load_initial
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.core.types import DEFAULT_POLICY


@dataclass(frozen=True)
class Reproduction:
    """What ``reproduce`` found.

    Attributes:
        updates: repeated. metrics_compared, checkpoints_compared: what they were held against.
        difference: where the repetition first differs, as a sentence; None where it is the same bit for bit.
    """

    updates: int
    metrics_compared: int
    checkpoints_compared: int
    difference: str | None


def reproduce(run: RunDirectory, show: Callable[[int, int], None] = lambda update, total: None) -> Reproduction:
    """Repeat every update of a run, up to its newest checkpoint, from its experience log.

    Raises:
        ConfigError: the run was trained on a GPU, whose arithmetic is not repeatable. StorageError: it has no
        checkpoint, or its log or order of arrival cannot be read.
    """

    from distrl.cluster import components
    from distrl.cluster.offline import read_data
    from distrl.envs.describe import try_environment
    from distrl.learners.learner import add_warm
    from distrl.learners.randomness import sample_generator
    from distrl.learners.replay import Replay, SampleBatch
    from distrl.learners.trainer import train_on

    config = run.config()
    if config.learner.mode != "single":
        raise ConfigError(
            f"{run.path} was trained with learner.mode = {config.learner.mode}; only updates of a single learner can "
            "be repeated by now"
        )
    if config.policies or config.league is not None:
        raise ConfigError(
            f"{run.path} trained several policies or a league; only updates of runs with one can be repeated by now"
        )
    checkpoints = {int(path.name): path for path in list_checkpoints(run.path / "checkpoints")}
    if not checkpoints:
        raise StorageError(f"{run.path} has no checkpoint yet: there is nothing to hold a repetition against")
    if not run.facts.get("logged", True):
        raise ConfigError(
            f"{run.path} kept no log of its transitions, so its updates cannot be repeated: train with "
            'run.experience_log = "on"'
        )
    if config.learner.device.startswith("cuda"):
        raise ConfigError(f"{run.path} was trained on a GPU; its updates can be repeated bit for bit on a CPU only")
    total = max(checkpoints)
    expected = _recorded_metrics(run.path)
    _, newest = load_checkpoint(checkpoints[total])
    arrivals = iter(read_arrivals(run.path / "log" / "arrivals.bin"))
    fragments = read_log(run.path / "log")
    spec = try_environment(config.env.recipe()).spec
    data = read_data(config, spec, run) if config.offline.data else None
    algorithm, store, options = components.build_algorithm(data.sized(config) if data else config, spec, "cpu")
    if (initial := load_initial(run.path / "checkpoints")) is not None:
        algorithm.load_state(_state_in(initial[0]))
    if data and isinstance(store, Replay):
        data.fill({DEFAULT_POLICY: store})
    elif isinstance(store, Replay):
        add_warm({DEFAULT_POLICY: store}, config.replay.warm_start, newest["warm_fragments"], [])
    inserted, wanted, upcoming = 0, 0, next(arrivals, None)
    metrics_compared = checkpoints_compared = 0
    for update in range(total):
        while upcoming is not None and upcoming[0] <= update:
            wanted, upcoming = upcoming[1], next(arrivals, None)
        inserted += _insert(store, fragments, wanted - inserted)
        drawn = store.sample(options.batch_size, sample_generator(config.run.seed, update))
        metrics = train_on(algorithm, drawn, config.run.seed, update)
        if isinstance(drawn, SampleBatch) and isinstance(store, Replay):
            store.learned(drawn)
        done = update + 1
        for record in expected.get(done, []):
            metrics_compared += 1
            for name, value in record.items():
                if float(metrics[name]) != value:
                    found = f"after update {done}, {name} is {float(metrics[name])!r}, but the run recorded {value!r}"
                    return Reproduction(done, metrics_compared, checkpoints_compared, found)
        if done in checkpoints:
            checkpoints_compared += 1
            differs = _first_difference(algorithm.state(), _stored_state(checkpoints[done]))
            if differs is not None:
                found = f"after update {done}, {differs} differs from checkpoint {checkpoints[done].name}"
                return Reproduction(done, metrics_compared, checkpoints_compared, found)
        if done % 100 == 0:
            show(done, total)
    return Reproduction(total, metrics_compared, checkpoints_compared, None)


def _insert(store: Any, fragments: Iterator[tuple[int, Any]], count: int) -> int:
    for _ in range(count):
        _, fragment = next(fragments)
        store.add(fragment)
    return max(count, 0)


def _recorded_metrics(directory: Path) -> dict[int, list[dict[str, float]]]:
    """update → the records of its metrics, of the updates that led to the newest state.

    What a dead learner did beyond its last checkpoint was undone.
    """
    found: dict[int, list[dict[str, float]]] = {}
    for record in read_json_lines(directory / "metrics.jsonl"):
        if record["kind"] == "learner_began":
            found = {update: records for update, records in found.items() if update <= record["updates"]}
        elif record["kind"] == "learner":
            metrics = {name: value for name, value in record.items() if name not in ("kind", "env_steps", "updates")}
            found.setdefault(record["updates"], []).append(metrics)
    return found


def _stored_state(checkpoint: Path) -> dict[str, Any]:
    return _state_in(load_checkpoint(checkpoint)[0])


def _state_in(files: Mapping[str, bytes]) -> dict[str, Any]:
    import torch

    states = torch.load(io.BytesIO(files[LEARNER]), map_location="cpu", weights_only=False)
    return states[DEFAULT_POLICY]["algorithm"]


def _first_difference(ours: Any, theirs: Any, name: str = "the state") -> str | None:
    """The path of the first leaf in which two nested states differ, or None."""
    import torch

    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return name
        return next((d for key in ours if (d := _first_difference(ours[key], theirs[key], f"{name}.{key}"))), None)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return name
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next((d for k, (a, b) in pairs if (d := _first_difference(a, b, f"{name}[{k}]"))), None)
    if isinstance(ours, torch.Tensor):
        return None if torch.equal(ours, theirs) else name
    return None if ours == theirs else name
