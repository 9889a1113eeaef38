"""distrl: distributed actor-learner reinforcement learning on Ray, for expensive and multi-agent environments.

    import distrl
    result = distrl.train(distrl.RunConfig.load("fin-ray", ["run.steps=20000"]))
    policy = distrl.load_policy(result.directory)
    action = policy.act(observation)

Names are loaded when they are first used: an environment process imports this package and must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distrl.api import RunResult, SweepResult, load_policy, train, tune
    from distrl.core.config import RunConfig
    from distrl.core.errors import DistrlError
    from distrl.core.sweep import SweepConfig

__version__ = "0.1.0"

_HOME = {
    "train": "distrl.api",
    "tune": "distrl.api",
    "load_policy": "distrl.api",
    "RunResult": "distrl.api",
    "SweepResult": "distrl.api",
    "SweepConfig": "distrl.core.sweep",
    "RunConfig": "distrl.core.config",
    "DistrlError": "distrl.core.errors",
}

__all__ = ["DistrlError", "RunConfig", "RunResult", "SweepConfig", "SweepResult", "load_policy", "train", "tune"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'distrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
