"""Environments by id: importing this package makes every ``distrl/…`` id known to Gymnasium.

Nothing here imports an environment's own module: the registrations hold import paths, so that listing ids stays cheap.
"""

from __future__ import annotations

import gymnasium

#: Our environments: id → ``"module:Class"``. A new environment adds one line here.
REGISTRY: dict[str, str] = {
    "distrl/FinRay-v0": "distrl.envs.fluids.fin_ray:FinRay",
    "distrl/CylinderJets-v0": "distrl.envs.fluids.cylinder_jets:CylinderJets",
    "distrl/CylinderRotation-v0": "distrl.envs.fluids.cylinder_rotation:CylinderRotation",
    "distrl/Pinball-v0": "distrl.envs.fluids.pinball:Pinball",
    "distrl/TandemFins-v0": "distrl.envs.fluids.tandem_fins:TandemFins",
    "distrl/OpenFOAMCylinder-v0": "distrl.envs.cfd.openfoam:OpenFOAMCylinder",
    "distrl/KuramotoSivashinsky-v0": "distrl.envs.dynamics.kuramoto_sivashinsky:KuramotoSivashinsky",
    "distrl/Lorenz-v0": "distrl.envs.dynamics.lorenz:Lorenz",
    "distrl/Burgers-v0": "distrl.envs.dynamics.burgers:Burgers",
    "distrl/ShkadovFilm-v0": "distrl.envs.dynamics.shkadov_film:ShkadovFilm",
    "distrl/RayleighBenard-v0": "distrl.envs.dynamics.rayleigh_benard:RayleighBenard",
    "distrl/Atari-v0": "distrl.envs.atari:Atari",
}
#: … and those that also compute many rows at once by themselves.
VECTORISED: dict[str, str] = {"distrl/Atari-v0": "distrl.envs.atari:AtariVector"}
#: Those of several agents, which Gymnasium does not know: id → ``"module:Class"``. All are PettingZoo's parallel
#: environments but one, which steps many rows at once.
MULTI_AGENT: dict[str, str] = {
    "distrl/RayleighBenardAgents-v0": "distrl.envs.multi_agent.rayleigh_benard:RayleighBenardAgents",
    "distrl/ShkadovAgents-v0": "distrl.envs.multi_agent.shkadov_film:ShkadovAgents",
    "distrl/TandemFinsAgents-v0": "distrl.envs.multi_agent.tandem_fins:TandemFinsAgents",
    "distrl/PartnerGame-v0": "distrl.envs.multi_agent.partner_game:PartnerGame",
    "distrl/SimpleSpread-v0": "distrl.envs.multi_agent.simple_spread:SimpleSpread",
}

for _id, _entry_point in REGISTRY.items():
    if _id not in gymnasium.registry:
        # Our environments truncate by themselves (a physical horizon, not a count), hence no max_episode_steps.
        gymnasium.register(id=_id, entry_point=_entry_point, vector_entry_point=VECTORISED.get(_id))
