"""Weights and the recipe of a policy in, the two files of a checkpoint for ``load_policy`` out; and back again."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from distrl.core.metrics import plain
from distrl.core.types import PolicySpec, Weights

_WEIGHTS, _RECIPE = "policy.npz", "policy.json"


def policy_files(weights: Weights, spec: PolicySpec) -> dict[str, bytes]:
    """File name → content, without pickled code."""
    buffer = io.BytesIO()
    # members of a zip file must not look like folders
    members: dict[str, Any] = {name.replace("/", "|"): array for name, array in weights.items()}
    np.savez(buffer, **members)
    recipe = {"factory": spec.factory, "kwargs": plain(dict(spec.kwargs))}
    return {_WEIGHTS: buffer.getvalue(), _RECIPE: json.dumps(recipe).encode()}


def read_policy(files: dict[str, bytes], seed: int = 0, deterministic: bool = True) -> Any:
    """The policy behind a checkpoint's files, ready to ``step``."""
    recipe = json.loads(files[_RECIPE])
    with np.load(io.BytesIO(files[_WEIGHTS])) as archive:
        weights = {name.replace("|", "/"): archive[name] for name in archive.files}
    policy = PolicySpec(recipe["factory"], recipe["kwargs"]).build(seed=seed, deterministic=deterministic)
    policy.load(weights)
    return policy
