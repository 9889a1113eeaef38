"""Recipes become environments, and what cannot be made is refused in one sentence that names the cause."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest
from gymnasium import spaces

import distrl.envs
from distrl.core.errors import ConfigError
from distrl.core.types import EnvRecipe
from distrl.envs.resolve import baseline_of, fidelity_index, fidelity_table, list_envs, make, spec_of


class Leveled(gymnasium.Env):
    """Has two levels of detail.

    More text that a list of environments leaves out.
    """

    fidelities = {"coarse": 0.001, "fine": {"seconds_per_step": 0.1}}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, fidelity="fine", mesh=3):
        self.fidelity = fidelity


HERE = f"{__name__}:Leveled"


def test_gymnasium_id_keeps_its_limit_and_drops_the_checker():
    env = make(EnvRecipe("Pendulum-v1", {"g": 9.81}))
    assert env.unwrapped.g == 9.81
    assert "PassiveEnvChecker" not in str(env)
    assert spec_of(env, EnvRecipe("Pendulum-v1")).max_episode_steps == 200
    assert spec_of(make(EnvRecipe("Pendulum-v1", max_episode_steps=5)), EnvRecipe("x")).max_episode_steps == 5


def test_import_path_with_limit_fidelity_and_delay():
    recipe = EnvRecipe(HERE, {"mesh": 4}, fidelity="coarse", delay={"median_s": 0.0}, max_episode_steps=9)
    env = make(recipe)
    spec = spec_of(env, recipe)
    assert (spec.max_episode_steps, spec.fidelities, fidelity_index(env, spec)) == (9, ("coarse", "fine"), 0)
    env = make(EnvRecipe(HERE))
    assert fidelity_index(env, spec_of(env, EnvRecipe(HERE))) == 1
    assert spec_of(env, EnvRecipe(HERE)).max_episode_steps is None
    assert fidelity_table(Leveled) == {"coarse": 0.001, "fine": 0.1}


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (EnvRecipe("Pendulm-v1"), "Nearest known id: Pendulum-v1"),
        (EnvRecipe("HalfCheeta-v5"), "Nearest known id: HalfCheetah-v5"),
        (EnvRecipe("distrl/finray"), "Nearest known id: distrl/FinRay-v0"),
        (EnvRecipe("distrl/FinRay-v7"), "no known environment"),
        (EnvRecipe(""), "no known environment"),
        (EnvRecipe("no_such_package.module:Env"), "there is no module 'no_such_package'"),
        (EnvRecipe("distrl.core.typos:Env"), "there is no module 'distrl.core.typos'"),
        (EnvRecipe("gymnasium.envs.classic_control.pendulum:Pendulum"), "nearest there: 'PendulumEnv'"),
        (
            EnvRecipe("tests.fakes.broken_import:Env"),
            "importing tests.fakes.broken_import failed with ZeroDivisionError",
        ),
        (EnvRecipe("math:pi"), "must name a class or function"),
        (EnvRecipe("collections:OrderedDict"), "an RLlib MultiAgentEnv; it made a OrderedDict"),
        (EnvRecipe("mpe2.simple_spred_v3"), "there is no module 'mpe2.simple_spred_v3'"),
        (EnvRecipe("mpe2.all_modules"), "mpe2.all_modules has no 'env'"),
        (EnvRecipe("distrl/PartnerGam-v0"), "Nearest known id: distrl/PartnerGame-v0"),
        (EnvRecipe("Pendulum-v1", {"gravity": 1}), "takes no 'gravity'"),
        (EnvRecipe("Pendulum-v1", fidelity="fine"), "Pendulum-v1 has no fidelities"),
        (EnvRecipe(HERE, {"meshes": 1}), "takes no 'meshes'; nearest: 'mesh'"),
        (EnvRecipe(HERE, fidelity="finest"), "has coarse, fine"),
        (EnvRecipe("Pendulum-v1", delay={"kind": "gamma"}), "env.delay.kind must be one of constant, lognormal"),
    ],
)
def test_refusals(recipe, text):
    with pytest.raises(ConfigError) as caught:
        make(recipe)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exceptions_of_the_constructor_itself_pass_through():
    with pytest.raises(RuntimeError, match="no licence"):
        make(EnvRecipe("tests.fakes.environments:Misbehaving", {"mode": "raise_init"}))


def test_our_ids_are_gymnasium_ids_without_importing_their_modules():
    code = (
        "import distrl.envs, gymnasium, sys; gymnasium.spec('distrl/FinRay-v0');"
        "bad = {'distrl.envs.fluids', 'numba', 'torch', 'ray', 'pydantic'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(distrl.envs.REGISTRY) <= set(gymnasium.registry)


def test_listing():
    listing = {entry.id: entry for entry in list_envs()}
    assert set(listing) == set(distrl.envs.REGISTRY) | set(distrl.envs.MULTI_AGENT)
    for entry in listing.values():
        assert entry.problem is None or "install" in entry.problem  # another solver, which need not be here
        assert entry.description
    assert baseline_of("Pendulum-v1") is None
