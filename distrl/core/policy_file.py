"""Weights and the recipe of a policy in, the two files of a checkpoint for ``load_policy`` out; and back again."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.metrics import plain
from distrl.core.types import DEFAULT_POLICY, PolicySpec, Weights

_WEIGHTS, _RECIPE = "policy.npz", "policy.json"


def policy_files(weights: Weights, spec: PolicySpec, policy_id: str = DEFAULT_POLICY) -> dict[str, bytes]:
    """File name → content, without pickled code."""
    buffer = io.BytesIO()
    # members of a zip file must not look like folders
    members: dict[str, Any] = {name.replace("/", "|"): array for name, array in weights.items()}
    np.savez(buffer, **members)
    recipe = {"factory": spec.factory, "kwargs": plain(dict(spec.kwargs))}
    return {_of(policy_id, _WEIGHTS): buffer.getvalue(), _of(policy_id, _RECIPE): json.dumps(recipe).encode()}


def read_parts(files: dict[str, bytes], policy_id: str = DEFAULT_POLICY) -> tuple[PolicySpec, Weights]:
    """The recipe and the weights of a policy in a checkpoint's files.

    Raises:
        ConfigError: they hold no policy of that name.
    """
    if _of(policy_id, _RECIPE) not in files:
        raise ConfigError(
            f"there is no policy {policy_id!r} here, but {', '.join(policies_in(files))}: name one of these"
        )
    recipe = json.loads(files[_of(policy_id, _RECIPE)])
    with np.load(io.BytesIO(files[_of(policy_id, _WEIGHTS)])) as archive:
        weights = {name.replace("|", "/"): archive[name] for name in archive.files}
    return PolicySpec(recipe["factory"], recipe["kwargs"]), weights


def read_policy(
    files: dict[str, bytes], seed: int = 0, deterministic: bool = True, policy_id: str = DEFAULT_POLICY
) -> Any:
    """The policy behind a checkpoint's files, ready to ``step``; see ``read_parts``."""
    recipe, weights = read_parts(files, policy_id)
    policy = recipe.build(seed=seed, deterministic=deterministic)
    policy.load(weights)
    return policy


def policies_in(files: dict[str, bytes]) -> list[str]:
    """Names of the policies in a checkpoint's files."""
    names = [name.removesuffix(_RECIPE).removesuffix(".") for name in files if name.endswith(_RECIPE)]
    return sorted(name or DEFAULT_POLICY for name in names)


def _of(policy_id: str, name: str) -> str:
    return name if policy_id == DEFAULT_POLICY else f"{policy_id}.{name}"
