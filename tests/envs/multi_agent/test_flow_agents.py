"""What each agent of a flow sees and is paid for: recentred segments, jets with windows, fins with bodies."""

import numpy as np
import pytest

from distrl.envs.dynamics.rayleigh_benard import QUANTITIES, SEGMENTS
from distrl.envs.dynamics.shkadov_film import PROBES
from distrl.envs.multi_agent.rayleigh_benard import LOCAL_RATIO, OWN_PLACE, RayleighBenardAgents
from distrl.envs.multi_agent.shkadov_film import ShkadovAgents
from distrl.envs.multi_agent.tandem_fins import TandemFinsAgents


def test_a_layer_shifted_by_a_segment_shifts_the_agents() -> None:
    """So that all can share one policy (Vignon et al.: translational invariance)."""
    env, shifted = RayleighBenardAgents(fidelity="coarse"), RayleighBenardAgents(fidelity="coarse")
    env.reset(seed=0)
    shifted.reset(seed=0)
    layer, other = env.simulation.layer, shifted.simulation.layer
    for name in ("u", "v", "t", "before"):
        axis = 1 if name == "before" else 0
        getattr(other, name)[:] = np.roll(getattr(layer, name), len(layer.u) // SEGMENTS, axis)
    random = np.random.default_rng(0)
    for _ in range(3):
        actions = {agent: random.uniform(-1, 1, 1) for agent in env.agents}
        neighbour = {agent: f"segment_{(index + 1) % SEGMENTS}" for index, agent in enumerate(env.agents)}
        seen, paid, *_, told = env.step(actions)
        seen_shifted, paid_shifted, *_, told_shifted = shifted.step({neighbour[a]: actions[a] for a in actions})
        for agent in env.agents:
            np.testing.assert_allclose(seen_shifted[neighbour[agent]], seen[agent], atol=1e-6)
            assert paid_shifted[neighbour[agent]] == pytest.approx(paid[agent], abs=1e-9)
            assert told_shifted[neighbour[agent]]["nusselt"] == pytest.approx(told[agent]["nusselt"], abs=1e-9)


def test_a_segment_observes_itself_in_the_middle_of_the_layer() -> None:
    env = RayleighBenardAgents(fidelity="coarse")
    env.reset(seed=0)
    observations, rewards, *_, infos = env.step({f"segment_{s}": np.array([s / 10]) for s in range(SEGMENTS)})
    wall = QUANTITIES.index("wall")
    for segment in range(SEGMENTS):
        places = observations[f"segment_{segment}"].reshape(SEGMENTS, len(QUANTITIES))
        assert places[OWN_PLACE, wall] == pytest.approx((segment - 4.5) / 10, abs=1e-6)
        assert places[OWN_PLACE + 1, wall] == pytest.approx(((segment + 1) % SEGMENTS - 4.5) / 10, abs=1e-6)
        local, everywhere = infos[f"segment_{segment}"]["nusselt"], infos["common"]["nusselt"]
        wanted = -(1 - LOCAL_RATIO) * everywhere - LOCAL_RATIO * local
        assert rewards[f"segment_{segment}"] == pytest.approx(wanted, rel=1e-12)
    assert env.observation_names[OWN_PLACE * len(QUANTITIES) + wall] == "wall_at_+0"


def test_a_jet_observes_what_comes_and_is_paid_for_what_goes() -> None:
    env = ShkadovAgents(fidelity="coarse", num_jets=3)
    env.reset(seed=0)
    observations, rewards, *_, infos = env.step(dict.fromkeys(env.agents, np.zeros(1)))
    (h, q), dx = env.simulation.film[:2], 0.5
    for jet in range(3):
        place = 150 + 10 * jet
        upstream = np.round((place + np.arange(-PROBES, 0)) / dx).astype(int)
        np.testing.assert_allclose(observations[f"jet_{jet}"], q[upstream] - 1, atol=1e-6)
        behind = h[round(place / dx) : round((place + 10) / dx)]
        assert rewards[f"jet_{jet}"] == pytest.approx(-np.mean((behind - 1) ** 2), rel=1e-12)
        assert infos[f"jet_{jet}"]["wave_height"] ** 2 == pytest.approx(-rewards[f"jet_{jet}"], rel=1e-12)


def test_a_fin_observes_its_own_body_and_can_swim_for_itself() -> None:
    env = TandemFinsAgents(fidelity="smoke", local_ratio=1.0)
    env.reset(seed=0)
    observations, rewards, *_, infos = env.step({"front": np.array([0.25]), "rear": np.array([-0.25])})
    actuation = env.observation_names.index("actuation")
    assert (observations["front"][actuation], observations["rear"][actuation]) == (0.25, -0.25)
    for fin in ("front", "rear"):
        assert rewards[fin] == infos["common"][f"reward_{fin}"]
        assert rewards[fin] == pytest.approx(infos[fin]["C_T"] - 0.1 * infos[fin]["C_P"])
