"""What an environment's class offers beyond Gymnasium's interface: open-loop controllers to compare with, and pictures."""

from __future__ import annotations

import dataclasses

from distrl.core.types import EnvRecipe
from distrl.envs.resolve import constructor_of


def baseline_of(id_: str) -> str | None:
    """The module of controllers that a policy is compared with: the class attribute ``baseline``; None without one.

    Such a module has ``NAME`` (what one is called), ``NOTHING`` (the parameters of doing nothing),
    ``baseline_candidates(env_kwargs) → list of parameters`` and ``baseline_policy(params, env_kwargs) → object with
    reset() and act(observation)``.
    """
    return getattr(constructor_of(id_), "baseline", None)


def renderable(recipe: EnvRecipe) -> EnvRecipe | None:
    """The recipe with ``render_mode="rgb_array"``; None where the class does not render rgb arrays."""
    metadata = getattr(constructor_of(recipe.id), "metadata", None) or {}
    if "rgb_array" not in metadata.get("render_modes", ()):
        return None
    return dataclasses.replace(recipe, kwargs={**recipe.kwargs, "render_mode": "rgb_array"})
