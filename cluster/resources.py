"""A configuration in, what its run asks of Ray out."""

from __future__ import annotations

from distrl.core.config import RunConfig


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """A run as a placement group: first driver and learner, then each env worker."""
    actors = config.actors
    gpu = {"GPU": 1.0} if config.learner.device.startswith("cuda") else {}
    worker = {"CPU": actors.envs_per_worker * config.env.cores}
    return [{"CPU": float(config.learner.threads), **gpu}, *[worker] * actors.env_workers]
