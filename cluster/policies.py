"""A run's configuration and its environment's agents in; who acts for whom, and how each policy is trained, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from distrl.core.checkpoint import load_best
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.joint import equal_spaces
from distrl.core.learning_sections import AlgorithmSection
from distrl.core.policy_file import policies_in, read_parts
from distrl.core.run_directory import RunDirectory
from distrl.core.spaces import action_leaf, empty_observation, leaves
from distrl.core.types import DEFAULT_POLICY, AgentSpec, EnvSpec, PolicySpec, Weights, import_path

Sides = tuple[list[list[int]], dict[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class PolicyPlan:
    """One policy of a run.

    Attributes:
        policy_id: its name. agents: whom it acts for, by index; in a league, whom it can act for.
        evaluated: the same in evaluations: there each agent has the first policy that names it.
        spec: of one of them, as if it were alone. config: the run's, with this policy's algorithm.
        frozen: (run directory, policy's name there or None) of one that does not learn; else None.
    """

    policy_id: str
    agents: tuple[int, ...]
    evaluated: tuple[int, ...]
    spec: EnvSpec
    config: RunConfig
    frozen: tuple[Path, str | None] | None = None


def plan_policies(config: RunConfig, spec: EnvSpec) -> list[PolicyPlan]:
    """The policies, in the order of the configuration.

    Raises:
        ConfigError: an agent without a policy, a policy without an agent, agents of different spaces under one policy;
            policies for an environment of one agent.
    """
    if not spec.agents:
        if config.policies:
            what = "is one row as a team (env.agents.team)" if config.env.agents.team else "has one"
            raise ConfigError(
                f"[policies.{next(iter(config.policies))}] needs an environment of several agents, but {config.env.id} "
                f"{what}: leave out all [policies.…], [algorithm] is its policy's"
            )
        if config.league is not None:
            raise ConfigError(f"[league] needs an environment of several agents, who meet each other: {config.env.id}")
        return [PolicyPlan(DEFAULT_POLICY, (0,), (0,), spec, config)]
    names = list(config.policies) or [DEFAULT_POLICY]
    found: dict[str, list[int]] = {name: [] for name in names}
    first: dict[str, list[int]] = {name: [] for name in names}
    policies_of = _mapping(config)
    for index, agent in enumerate(spec.agents):
        its = policies_of(agent.name)
        if not its or its[0] not in found:
            raise ConfigError(
                f"every agent needs a policy, but {_where(config)} gives agent {agent.name!r} "
                f"{repr(its[0]) if its else 'none'}: the policies are {', '.join(names)}"
            )
        first[its[0]].append(index)
        for name in its if config.league is not None else its[:1]:
            found[name].append(index)
    return [_plan(config, spec, name, found[name], first[name]) for name in names]


def plan_sides(config: RunConfig, spec: EnvSpec, plans: Sequence[PolicyPlan], sides: Sequence[Sequence[str]]) -> Sides:
    """A league's sides, each the indices of its agents, and policy → those that can sit opposite.

    Args:
        sides: patterns of agents' names of each; none: each agent is one.

    Raises:
        ConfigError: an agent on no side or on two, one side alone, a policy that can act for a part of a side only, a
            policy that does not learn.
    """
    frozen = next((plan.policy_id for plan in plans if plan.frozen is not None), None)
    if frozen is not None:
        raise ConfigError(
            f"the policies of a league learn, its opponents that do not are their snapshots; but policies.{frozen} is "
            "frozen: leave it out, or leave out [league]"
        )
    found: list[list[int]] = [[] for _ in sides or spec.agents]
    for index, agent in enumerate(spec.agents):
        its = [side for side, patterns in enumerate(sides) if any(fnmatchcase(agent.name, one) for one in patterns)]
        if sides and len(its) != 1:
            raise ConfigError(
                f"every agent needs one side, but league.sides has {len(its)} that name agent {agent.name!r}"
            )
        found[its[0] if sides else index].append(index)
    if len(found) < 2 or not all(found):
        raise ConfigError(
            f"a league needs two sides or more, each with an agent, but league.sides = {[list(one) for one in sides]} "
            f"came: the agents are {', '.join(agent.name for agent in spec.agents)}"
        )
    can_sit: dict[str, list[int]] = {}
    for plan in plans:
        mine = [[index in plan.agents for index in side] for side in found]
        torn = next((side for side, its in enumerate(mine) if any(its) and not all(its)), None)
        if torn is not None:
            left_out = spec.agents[found[torn][mine[torn].index(False)]].name
            raise ConfigError(
                f"one policy acts for all agents of a side, but {plan.policy_id!r} acts for others of "
                f"{left_out!r}'s side and not for {left_out!r}: see league.sides and policies.{plan.policy_id}.agents"
            )
        can_sit[plan.policy_id] = [side for side, its in enumerate(mine) if any(its)]
    rivals = {
        one: [other for other, theirs in can_sit.items() if any(a != b for a in mine for b in theirs)]
        for one, mine in can_sit.items()
    }
    return found, rivals


def _where(config: RunConfig) -> str:
    mapping = config.env.agents.policy_mapping
    return f"env.agents.policy_mapping = {mapping!r}" if mapping else "no policies.….agents"


def _mapping(config: RunConfig) -> Callable[[str], list[str]]:
    """agent's name → those of the policies that name it."""
    path = config.env.agents.policy_mapping
    if path is not None:
        try:
            function: Callable[[str], str] = import_path(path)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"env.agents.policy_mapping must name a function of an agent's name as package.module:function, but "
                f"{path!r} came: {error}"
            ) from error
        return lambda agent: [function(agent)]
    if not config.policies:
        return lambda agent: [DEFAULT_POLICY]

    def naming(agent: str) -> list[str]:
        return [
            name
            for name, policy in config.policies.items()
            if any(fnmatchcase(agent, pattern) for pattern in policy.agents)
        ]

    return naming


def _plan(config: RunConfig, spec: EnvSpec, name: str, agents: list[int], evaluated: list[int]) -> PolicyPlan:
    known = ", ".join(agent.name for agent in spec.agents[:10])
    if not agents:
        raise ConfigError(f"policy {name!r} acts for no agent of {config.env.id}, whose agents are {known}")
    first: AgentSpec = spec.agents[agents[0]]
    other = next((spec.agents[index] for index in agents if not equal_spaces(first, spec.agents[index])), None)
    if other is not None:
        raise ConfigError(
            f"agents of one policy need equal spaces, but under {name!r} {first.name!r} has "
            f"{first.observation_space} → {first.action_space} and {other.name!r} has {other.observation_space} → "
            f"{other.action_space}: give each its own, [policies.NAME] agents = [{other.name!r}]"
        )
    alone = dataclasses.replace(
        spec, observation_space=first.observation_space, action_space=first.action_space, agents=()
    )
    options = config.policies[name].algorithm if name in config.policies else {}
    same = options.get("name", config.algorithm.name) == config.algorithm.name
    merged = AlgorithmSection.model_validate((config.algorithm.model_dump() if same else {}) | options)
    path = config.policies[name].frozen if name in config.policies else None
    its_config = config.model_copy(update={"algorithm": merged})
    return PolicyPlan(name, tuple(agents), tuple(evaluated), alone, its_config, _where_frozen(path))


def _where_frozen(path: str | None) -> tuple[Path, str | None] | None:
    if path is None:
        return None
    directory, colon, name = path.rpartition(":")
    return (Path(directory), name) if colon and not Path(path).exists() else (Path(path), None)


def read_frozen(plan: PolicyPlan) -> tuple[PolicySpec, Weights]:
    """The recipe and the weights of a policy that does not learn.

    Raises:
        ConfigError: its run has no such policy, or one for other spaces. StorageError: it cannot be read.
    """
    assert plan.frozen is not None
    directory, name = plan.frozen
    files = load_best(RunDirectory.open(directory).path)
    names = policies_in(files)
    if name is None and len(names) > 1:
        raise ConfigError(
            f"policies.{plan.policy_id}.frozen must name one of the policies {', '.join(names)} of {directory}, as "
            f"{directory}:{names[0]}"
        )
    recipe, weights = read_parts(files, name or names[0])
    policy = recipe.build(seed=0)
    policy.load(weights)
    seen = empty_observation(leaves(plan.spec.observation_space), 1)
    for array in seen.values():
        array[...] = 0
    try:
        action = policy.env_action(policy.step(seen, policy.initial_state(1), np.ones(1, bool))[0])
    except (ValueError, KeyError, IndexError) as error:  # what numpy says of arrays that do not fit
        action, why = None, f": {error}"
    else:
        why = f": it acts with {action.dtype} {action.shape[1:]}"
    if action is None or action.shape[1:] != action_leaf(plan.spec.action_space).shape:
        raise ConfigError(
            f"policies.{plan.policy_id}.frozen = {directory} needs its agents' spaces, {plan.spec.observation_space} → "
            f"{plan.spec.action_space}, but it was trained for others{why}"
        )
    return recipe, weights
