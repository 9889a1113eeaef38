"""Algorithms × small problems in, the return that each run has to reach out, with where that number comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distrl.api import RunResult, train
from distrl.core.config import RunConfig

_KNOWN = "the best return is {} by construction"


@dataclass(frozen=True)
class Case:
    """Attributes: algorithm: its name, and a word on its options. problem: what a reader calls it. env: id and
    constructor arguments. goal: return, of deterministic episodes of the best policy, that each seed has to reach;
    where ``unsolvable``, that none may reach. source: of the goal. options: of the algorithm. sections: other sections
    of the configuration. local: in one process, where the same seed gives the same return; else on Ray. quick: whether
    its first seed is part of ``make test``.
    """

    algorithm: str
    problem: str
    env: Mapping[str, Any]
    goal: float
    source: str
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)
    unsolvable: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    local: bool = True
    quick: bool = False

    @property
    def name(self) -> str:
        """Unique; also the test's id."""
        return f"{self.algorithm}-{self.problem}{'' if self.local else '-on-Ray'}".replace(" ", "-").replace(",", "")

    def run(self, seed: int, out: Path) -> RunResult:
        """One whole run through the public interface."""
        actors = {"envs_per_worker": 16, "fragment_steps": 32}
        sections = {"actors": actors} | dict(self.sections)
        config = RunConfig.model_validate(
            {
                "run": {"steps": self.steps, "seed": seed, "out": str(out)},
                "env": dict(self.env),
                "algorithm": {"name": self.algorithm.split(",")[0], **self.options},
                "learner": {"device": "cpu"},
                "evaluation": {"period": self.steps // 5, "episodes": 10, "final_episodes": 20},
                **sections,
            }
        )
        return train(config, local=self.local)


def _problem(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": f"tests.fakes.problems:{name}", "kwargs": kwargs}


_CARTPOLE = {
    "problem": "CartPole",
    "env": {"id": "CartPole-v1"},
    "goal": 475.0,
    "source": "Gymnasium's reward_threshold",
    "steps": 120_000,
}
_PENDULUM: dict[str, Any] = {
    "problem": "Pendulum",
    "env": {"id": "Pendulum-v1"},
    "goal": -200.0,
    "source": "own runs; RL Zoo's SAC has −176 ± 102 after 20,000 steps (recalled)",
    "steps": 5_000,
    "sections": {"actors": {"envs_per_worker": 2}, "replay": {"min_size": 500, "samples_per_insert": 128.0}},
}
_BY_ERROR = {"replay": _PENDULUM["sections"]["replay"] | {"priority_exponent": 0.6, "priority_full_at": 5_000}}
_SAC = {"batch_size": 128, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "hidden": [64, 64]}
_FAST = {"actors": {"envs_per_worker": 32, "fragment_steps": 32}}
_APPO = {"batch_size": 1024, "epochs": 4, "minibatches": 4, "learning_rate": 2e-3}
_GA = {"hidden": [16], "population": 32, "parents": 6, "sigma": 0.3}
_IMPALA = {"batch_size": 1024, "minibatches": 8, "gae_lambda": 0.95, "learning_rate": 1e-3, "anneal_steps": "run"}
_TAPERED = {"surrogate": "tapered"}
_OFTEN = _FAST | {"evaluation": {"period": 20_000, "episodes": 10, "final_episodes": 20}}
_DQN = {
    "batch_size": 128,
    "hidden": [128, 128],
    "learning_rate": 1e-3,
    "epsilon_steps": 10_000,
    "value_min": -10.0,
    "value_max": 110.0,
}
_REPLAY = {
    "actors": {"envs_per_worker": 8, "fragment_steps": 8},
    "replay": {"min_size": 1000, "samples_per_insert": 64.0},
}
_SEA: dict[str, Any] = {
    "problem": "hidden treasure",
    "env": _problem("DeepSea", size=8),
    "goal": 0.98,
    "source": _KNOWN.format(0.99) + "; chance finds it in one of 256 episodes",
    "steps": 2_000,
    "sections": {
        "actors": {"envs_per_worker": 2, "fragment_steps": 4},
        "replay": {"min_size": 64, "samples_per_insert": 128.0},
    },
}
_DIVER = {
    "batch_size": 64,
    "hidden": [64],
    "learning_rate": 3e-3,
    "tau": 0.1,
    "initial_epsilon": 0.2,
    "final_epsilon": 0.2,
    "value_min": -2.0,
    "value_max": 8.0,
}
_NEW = {"weight": 0.3, "hidden": [64], "learning_rate": 1e-3}
_DEEPER_SEA = _SEA | {
    "problem": "deeper treasure",
    "env": _problem("DeepSea", size=12),
    "source": _KNOWN.format(0.99) + "; chance finds it in one of 4,096 episodes",
    "steps": 120_000,
    "sections": {"actors": {"envs_per_worker": 32, "fragment_steps": 16}},
}
_DIVERS = {
    "batch_size": 512,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 1e-3,
    "hidden": [64],
    "entropy_cost": 0.05,
}
_SEEN = _NEW | {"learning_rate": 3e-4}
_RECALL = {
    "env": _problem("Recall", num_cues=4, delay=8),
    "steps": 40_000,
    "sections": {"actors": {"envs_per_worker": 64, "fragment_steps": 16}},
}
_TWO_STEPS: dict[str, Any] = {
    "problem": "two-step game",
    "env": {"id": "tests.fakes.teams:TwoSteps", "agents": {"team": True, "state": "env"}},
    "steps": 1_200,
    "options": {"batch_size": 64, "hidden": [32], "learning_rate": 5e-3, "tau": 0.05, "final_epsilon": 1.0},
    "sections": {
        "actors": {"envs_per_worker": 4, "fragment_steps": 8},
        "replay": {"min_size": 100, "samples_per_insert": 32.0},
    },
}
_MEMORY = {"batch_size": 1024, "epochs": 3, "minibatches": 4, "learning_rate": 3e-3, "hidden": [32]}
_ONE_CUE_IN_FOUR = "1/4 is the most without memory: the last observation says nothing of the cue"

_LOCAL = [
    Case("sac", **_PENDULUM, options=_SAC),
    Case("sac, prioritised", **_PENDULUM | {"sections": _PENDULUM["sections"] | _BY_ERROR}, options=_SAC),
    Case(
        "sac",
        "Dict of Boxes",
        _problem("Reach"),
        -2.5,
        _KNOWN.format("−1.7"),
        4_000,
        {
            "batch_size": 128,
            "gamma": 0.9,
            "initial_temperature": 0.1,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "hidden": [64, 64],
        },
        {"actors": {"envs_per_worker": 2}, "replay": {"min_size": 500, "samples_per_insert": 128.0}},
    ),
    Case("td3", **_PENDULUM | {"steps": 10_000}, options=_SAC),
    Case(
        "sac, HL-Gauss",
        **_PENDULUM,
        options=_SAC | {"value_loss": "hl_gauss", "value_min": -1000.0, "value_max": 100.0},
    ),
    Case(
        "td3, HL-Gauss",
        **_PENDULUM | {"steps": 10_000},
        options=_SAC | {"value_loss": "hl_gauss", "value_min": -1000.0, "value_max": 100.0},
    ),
    Case("dsact", **_PENDULUM | {"steps": 10_000}, options=_SAC),
    Case(
        "sequence-sac, 4 steps",
        **_PENDULUM | {"source": "the goal of SAC, which looks at every step"},
        options=_SAC | {"sequence_length": 4, "model_learning_rate": 1e-3},
    ),
    Case("dqn", **_CARTPOLE | {"steps": 50_000}, options=_DQN, sections=_REPLAY),
    Case(
        "dqn, squared",
        **_CARTPOLE | {"steps": 50_000, "goal": 195.0, "source": "own runs; as steady as histograms it is not"},
        options=_DQN | {"value_loss": "squared"},
        sections=_REPLAY,
    ),
    Case("dqn, RND", **_SEA, options=_DIVER | {"bonus": {"kind": "rnd"} | _NEW}),
    Case("dqn, DRND", **_SEA, options=_DIVER | {"bonus": {"kind": "drnd"} | _NEW}),
    Case("ppo, RND", **_DEEPER_SEA, options=_DIVERS | {"bonus": {"kind": "rnd"} | _SEEN}),
    Case("ppo, DRND", **_DEEPER_SEA, options=_DIVERS | {"bonus": {"kind": "drnd"} | _SEEN}),
    Case("ppo, RND in run and episode", **_DEEPER_SEA, options=_DIVERS | {"bonus": {"scope": "both"} | _SEEN}),
    Case("ppo", **_CARTPOLE | {"steps": 200_000}, options=_APPO, sections=_FAST),
    Case("appo", **_CARTPOLE, options=_APPO, sections=_FAST),
    Case("appo, coupled", **_CARTPOLE, options=_APPO | {"decoupled": False}, sections=_FAST),
    Case("impala", **_CARTPOLE | {"steps": 200_000}, options=_IMPALA, sections=_OFTEN),
    Case("impala, tapered", **_CARTPOLE | {"steps": 200_000}, options=_IMPALA | _TAPERED, sections=_OFTEN),
    Case("ga", **_CARTPOLE | {"steps": 80_000}, options=_GA),
    Case(
        "ga, novelty",
        "Cup",
        _problem("Cup"),
        -0.3,
        "what follows the return alone ends at −0.6; the best is 0 by construction",
        40_000,
        {"hidden": [8], "population": 40, "sigma": 0.3, "doubt": 0.0, "reevaluated": 0.0, "novelty_weight": 0.8},
    ),
    Case(
        "ppo",
        "Dict of Boxes",
        _problem("Reach"),
        -2.5,
        _KNOWN.format("−1.7"),
        60_000,
        {"batch_size": 1024, "epochs": 4, "minibatches": 8, "learning_rate": 2e-3, "gamma": 0.9},
    ),
    Case(
        "ppo",
        "MultiDiscrete",
        _problem("Copy"),
        9.5,
        _KNOWN.format(10),
        12_000,
        {"batch_size": 512, "epochs": 4, "minibatches": 4, "learning_rate": 3e-3, "gamma": 0.0},
        quick=True,
    ),
    Case(
        "appo",
        "action masks",
        _problem("FirstAllowed"),
        9.0,
        _KNOWN.format(10),
        10_000,
        {"batch_size": 512, "epochs": 4, "minibatches": 4, "learning_rate": 3e-3, "gamma": 0.0},
        quick=True,
    ),
    Case(
        "appo",
        "image",
        _problem("BrightSpot"),
        7.5,
        _KNOWN.format(8),
        10_000,
        {"batch_size": 512, "epochs": 2, "minibatches": 4, "learning_rate": 1e-3, "gamma": 0.0},
    ),
    Case("appo, GRU", "memory", goal=0.9, source=_KNOWN.format(1), options=_MEMORY | {"memory_size": 32}, **_RECALL),
    Case(
        "appo, LSTM",
        "memory",
        goal=0.9,
        source=_KNOWN.format(1),
        options=_MEMORY | {"memory_size": 32, "memory": "lstm"},
        **_RECALL | {"steps": 80_000},
    ),
    Case("qmix", goal=8.0, source=_KNOWN.format(8) + "; Rashid et al. 2018, section 5", quick=True, **_TWO_STEPS),
    Case("vdn", goal=7.0, source="what a sum of values leads to; 8 by an evaluation's luck", **_TWO_STEPS),
    Case(
        "masac",
        "giving up",
        {"id": "tests.fakes.teams:GiveUp", "agents": {"team": True}},
        -0.2,
        "the best return is −1/9 by construction; −1/3 is what each for itself gets",
        3_000,
        {
            "batch_size": 128,
            "initial_temperature": 0.1,
            "actor_learning_rate": 3e-3,
            "critic_learning_rate": 3e-3,
            "hidden": [32, 32],
        },
        {"actors": {"envs_per_worker": 4}, "replay": {"min_size": 500, "samples_per_insert": 32.0}},
    ),
    Case(
        "ppo, central critic",
        "SimpleSpread",
        {"id": "distrl/SimpleSpread-v0", "kwargs": {"state": True}, "hosting": "vector"},
        -55.0,
        "own runs; random actions get −81",
        240_000,
        {
            "central_critic": True,
            "batch_size": 4800,
            "minibatches": 4,
            "gamma": 0.95,
            "learning_rate": 1e-3,
            "entropy_cost": 3e-3,
        },
        {"actors": {"envs_per_worker": 32, "fragment_steps": 25}},
    ),
    Case(
        "dqn, no bonus",
        **_SEA | {"goal": 0.5, "source": "chance finds it in one of 256 episodes, and all it learns before leads away"},
        options=_DIVER,
        unsolvable=True,
    ),
    Case(
        "ppo, no bonus",
        **_DEEPER_SEA | {"goal": 0.5, "source": "as above, with 10,000 episodes: all it learns leads away"},
        options=_DIVERS,
        unsolvable=True,
    ),
    Case("appo", "memory", goal=0.6, source=_ONE_CUE_IN_FOUR, options=_MEMORY, unsolvable=True, **_RECALL),
]


def _on_ray(case: Case) -> Case:
    """SAC's environment is slowed down: nothing holds up a cheap one until the learner has caught up."""
    delay = {"delay": {"kind": "constant", "median_s": 0.02}} if case.algorithm == "sac" else {}
    return replace(case, env={**case.env, **delay}, local=False, quick=False, seeds=(0,))


_ON_RAY = ("sac-Dict-of-Boxes", "ppo-MultiDiscrete", "appo-CartPole", "impala-CartPole")  # each algorithm once

CASES = [*_LOCAL, *(_on_ray(case) for case in _LOCAL if case.name in _ON_RAY)]
