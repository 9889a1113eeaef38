"""A configuration in, what each actor of a run asks of Ray out: cores, memory, GPUs, node labels. What a cluster can
never give is refused here. No Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError

Resources = Mapping[str, float]  # Ray's names: CPU, GPU, memory (bytes)


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all."""

    resources: Resources
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What one actor asks for. Its node must have all of it, and the labels.

    Attributes:
        cpus, gpus: numbers, fractions too. memory: bytes. labels: of its node, in Ray's words.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Of a Ray actor."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory:
            options["memory"] = self.memory
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options

    def bundle(self) -> dict[str, float]:
        """Of a placement group: what is asked for at all."""
        return {name: amount for name, amount in self._amounts.items() if amount}

    @property
    def _amounts(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}

    def fits(self, resources: Resources) -> bool:
        """Whether so much is enough."""
        return all(amount <= resources.get(name, 0.0) for name, amount in self._amounts.items())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is asked for."""
        return all(_matches(wanted, labels.get(name)) for name, wanted in self.labels.items())

    def __str__(self) -> str:
        parts = [_amount(name, amount) for name, amount in self.bundle().items()]
        if self.labels:
            parts.append("a node labelled " + ", ".join(f"{name}={wanted}" for name, wanted in self.labels.items()))
        return " and ".join(parts) or "nothing"


def _matches(wanted: str, came: str | None) -> bool:
    """Ray's selectors: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``."""
    if wanted.startswith("!"):
        return not _matches(wanted[1:], came)
    if wanted.startswith("in("):
        return came in [value.strip() for value in wanted.removeprefix("in(").rstrip(")").split(",")]
    return came == wanted


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 1e9:g} GB of memory"
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"


def env_worker(config: RunConfig) -> Request:
    """All that its environments need; ranks of an environment that runs on MPI are cores of it."""
    env, count = config.env, config.actors.envs_per_worker
    return Request(count * env.cores, count * env.gpus, count * (env.memory_gb or 0.0) * 1e9, env.labels)


def learner(config: RunConfig, gpus: float) -> Request:
    """GPUs alone: its threads run beside env workers', and it must start wherever one of these can."""
    return Request(gpus=gpus, labels=config.learner.labels)


def gpu_shares(config: RunConfig, num_gpus: float) -> tuple[float, float]:
    """GPUs (of each learner, of each inference server) where there are so many: ``learner.gpus`` and one each; where
    there are too few, servers that are asked for share the learner's."""
    share, learners = config.learner.gpus, config.learner.count
    if config.learner.device == "cpu" or num_gpus < share * learners:
        return 0.0, 0.0
    servers = config.actors.inference_servers
    if num_gpus >= share * learners + servers:
        return share, 1.0
    return (share / 2, share / 2 * learners / servers) if config.actors.inference == "server" else (share, 0.0)


def bundles(config: RunConfig, num_gpus: float = 0.0) -> list[dict[str, float]]:
    """A whole run as a placement group: the first bundle is for the driver, whose actors find room beside it (they
    reserve no cores); then, on a cluster with ``num_gpus`` GPUs that it would use, one for the GPUs of the learner and
    the inference servers; then one for each env worker.

    The GPUs have a bundle of their own because Ray Tune gives the first one, whole, to the trainable itself.
    """
    gpus, inference_gpus = gpu_shares(config, num_gpus)
    gpus *= config.learner.count
    if config.actors.inference == "server":
        gpus += inference_gpus * config.actors.inference_servers
    updates = [{"GPU": gpus}] if gpus else []
    workers = [env_worker(config).bundle() for _ in range(config.actors.env_workers)]
    return [{"CPU": float(config.learner.threads)}, *updates, *workers]


def bundle_labels(config: RunConfig, num_gpus: float = 0.0) -> list[dict[str, str]]:
    """The labels that each of ``bundles`` asks for."""
    asked = bundles(config, num_gpus)
    updates = [dict(config.learner.labels)] * (len(asked) - 1 - config.actors.env_workers)
    return [{}, *updates, *[dict(config.env.labels)] * config.actors.env_workers]


def check_shares(config: RunConfig) -> None:
    """Refuse shares of GPUs that Ray cannot give.

    Raises:
        ConfigError: more than one GPU, and not a whole number of them.
    """
    gpus = env_worker(config).gpus
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            "the environments of an env worker share one GPU or have whole ones, but "
            f"{config.actors.envs_per_worker} × env.gpus = {gpus:g} came: choose these so "
            "that their product is at most 1 or a whole number"
        )


def check_cluster(config: RunConfig, nodes: Sequence[Node], *, grows: bool) -> None:
    """Refuse a run of which not even the learner and one env worker can ever be placed. Further env workers may come
    when others leave or nodes join: they hold up nobody.

    Args:
        nodes: those that are alive. grows: the cluster starts nodes when something waits for them: then only it knows
            what it could have.

    Raises:
        ConfigError: what was asked for, and what the cluster has.
    """
    check_shares(config)
    if grows:
        return
    total = _total(nodes)
    learners, threads = config.learner.count, config.learner.threads
    if learners > 1 and learners * threads > total.get("CPU", 0.0):
        raise ConfigError(
            f"learner.count = {learners} learners of learner.threads = {threads} are more than the "
            f"{total.get('CPU', 0.0):g} CPUs of the cluster: lower learner.count, or add nodes"
        )
    gpus, _ = gpu_shares(config, total.get("GPU", 0.0))
    worker, update = env_worker(config), learner(config, gpus)
    _check_somewhere("an env worker", worker, nodes, _WORKER_KEYS)
    _check_somewhere("the learner", update, nodes, "learner.gpus, learner.labels")
    together = Request(gpus=worker.gpus + update.gpus * config.learner.count)
    if not together.fits(total):
        raise ConfigError(
            f"each learner asks Ray for {update} (learner.gpus, learner.count = {config.learner.count}) and each env "
            f"worker for {_amount('GPU', worker.gpus)} (actors.envs_per_worker × env.gpus), but the cluster has "
            f"{_amount('GPU', total.get('GPU', 0.0))}: lower "
            "one of them, or set learner.device=cpu"
        )


_WORKER_KEYS = "actors.envs_per_worker × env.cores, env.memory_gb, env.gpus; env.labels"


def check_group(asked: Sequence[Resources], nodes: Sequence[Node], *, grows: bool) -> None:
    """Refuse a placement group that a cluster can never hold: see ``check_cluster``.

    Raises:
        ConfigError: what was asked for, and what the cluster has.
    """
    if grows:
        return
    for bundle in asked:
        _check_somewhere("a bundle of the placement group", _request(bundle), nodes, _WORKER_KEYS)
    whole, total = _request(_sum(asked)), _total(nodes)
    if not whole.fits(total):
        raise ConfigError(
            f"the placement group asks Ray for {whole}, but the cluster has {_request(total)} in all: lower "
            "actors.env_workers or actors.envs_per_worker"
        )


def _check_somewhere(who: str, asked: Request, nodes: Sequence[Node], keys: str) -> None:
    labelled = [node for node in nodes if asked.matches(node.labels)]
    if any(asked.fits(node.resources) for node in labelled):
        return
    where = "its nodes with these labels have" if asked.labels and labelled else "its nodes have"
    found = "; ".join(sorted({str(_request(node.resources)) for node in labelled or nodes}))
    raise ConfigError(
        f"{who} asks Ray for {asked} on one node ({keys}), and no node of the cluster can ever give it: {where} {found}"
        + (f", and none has the labels: {_labels(nodes)}" if asked.labels and not labelled else "")
    )


def _labels(nodes: Sequence[Node]) -> str:
    found = {f"{name}={value}" for node in nodes for name, value in node.labels.items() if name != "ray.io/node-id"}
    return ", ".join(sorted(found)) or "they have none"


def _request(resources: Resources) -> Request:
    return Request(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0))


def _sum(several: Sequence[Resources]) -> dict[str, float]:
    names = {name for resources in several for name in resources}
    return {name: sum(resources.get(name, 0.0) for resources in several) for name in names}


def _total(nodes: Sequence[Node]) -> dict[str, float]:
    return _sum([node.resources for node in nodes])


def fullest(asked: Request, free: Mapping[str, Node]) -> str | None:
    """The node, by id, that has least left of those that still have what is asked for; None: there is none. Env workers
    placed by it are on as few nodes as possible."""
    fitting = [name for name, node in free.items() if asked.fits(node.resources) and asked.matches(node.labels)]
    return min(fitting, key=lambda name: (free[name].resources.get("CPU", 0.0), name), default=None)
