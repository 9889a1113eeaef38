"""A configuration in, its validated parts out: what can be refused before anything starts is refused here. No Ray."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distrl.cluster.policies import PolicyPlan, plan_policies, plan_sides, read_frozen
from distrl.core.config import RunConfig
from distrl.core.config_input import explain
from distrl.core.errors import ConfigError
from distrl.core.sweep import SweepConfig
from distrl.core.types import EnvRecipe, EnvSpec, PolicySpec

if TYPE_CHECKING:
    from distrl.envs.describe import Trial
    from distrl.learners.league.config import LeagueConfig

RLLIB = "rllib:"  # begins the names of RLlib's algorithms
_INLINE_BELOW_S = 2e-4  # a step in a process of its own costs about as much in messages


def algorithm_model(config: RunConfig) -> Any:
    """The algorithm's validated options.

    Raises:
        ConfigError: unknown algorithm, unknown option or wrong value.
    """
    from distrl.learners.registry import algorithm_config

    if config.algorithm.name.startswith(RLLIB):
        raise ConfigError(
            f"{config.algorithm.name} is RLlib's and goes with distrl train alone: name an algorithm of distrl's here"
        )
    model = algorithm_config(config.algorithm.name)
    try:
        options = model.model_validate(config.algorithm.options, context={"run_steps": config.run.steps})
    except ValidationError as error:
        raise ConfigError(explain(error, model, "algorithm")) from None
    if options.offline_only and not config.offline.data:
        raise ConfigError(
            f"{config.algorithm.name} repeats what others did: name the runs whose logs it is to learn from, "
            'offline.data = ["runs/…"]'
        )
    _check_learners(config, options)
    if config.replay.priority_exponent is not None and not (options.on_policy or options.tells_errors):
        raise ConfigError(
            f"replay.priority_exponent draws by temporal-difference errors, which {config.algorithm.name} does not "
            "tell: leave it out, or take sac, qmix or another algorithm with critics"
        )
    if config.replay.device == "learner" and not (options.on_policy or options.takes_tensors):
        raise ConfigError(
            'replay.device = "learner" needs an algorithm that takes tensors, but '
            f"{config.algorithm.name} takes arrays: leave it out, or take sac, td3, dsact, sequence-sac or dqn"
        )
    if options.on_policy:
        _check_on_policy(config, options)
        if config.offline.data:
            raise ConfigError(
                f"{config.algorithm.name} learns from what its own newest policy does, and offline.data is what others "
                "did: take bc, iql or another algorithm with a replay"
            )
    elif config.run.experience_log == "off":
        raise ConfigError(
            f'run.experience_log = "off" goes with on-policy algorithms only: {config.algorithm.name} refills its '
            "replay from the log when it resumes"
        )
    return options


def _check_learners(config: RunConfig, options: Any) -> None:
    """Refuse what several learners cannot share."""
    learner, actors = config.learner, config.actors
    if learner.mode == "single":
        return
    if config.offline.data or config.replay.warm_start:
        given = "offline.data" if config.offline.data else "replay.warm_start"
        raise ConfigError(f"{given} is read by one learner, but learner.mode = {learner.mode} came: use single")
    if options.episodic:
        raise ConfigError(
            f"{config.algorithm.name} compares episodes in one place, which takes next to no time, but learner.mode = "
            f"{learner.mode} came: use single"
        )
    if options.on_policy and learner.mode == "parameter_server":
        raise ConfigError(
            f"{config.algorithm.name} divides each rollout into steps that must follow each other, but "
            "learner.mode = parameter_server lets learners' steps cross: use all_reduce"
        )
    if actors.env_workers < learner.count or (options.on_policy and actors.env_workers % learner.count):
        raise ConfigError(
            f"each of the learner.count = {learner.count} learners is fed by env workers of its own"
            f"{', as many as the others' if options.on_policy else ''}, but actors.env_workers = {actors.env_workers}: "
            f"try {-(-actors.env_workers // learner.count) * learner.count}"
        )


def _check_on_policy(config: RunConfig, options: Any) -> None:
    """Refuse what an on-policy algorithm has no use for, and rollouts that cannot be filled."""
    name, actors = config.algorithm.name, config.actors
    replay, publish_period = type(config.replay)(), type(config.learner)().publish_period
    rollout = "; algorithm.batch_size is the size of a rollout, algorithm.max_staleness how far ahead it may be made"
    for key in type(config.replay).model_fields:
        if (given := getattr(config.replay, key)) != getattr(replay, key):
            raise ConfigError(
                f"{name} is on-policy and has no replay, but replay.{key} = {given!r} came: leave it out"
                f"{'' if options.episodic else rollout}"
            )
    if config.learner.publish_period != publish_period:
        raise ConfigError(
            f"{name} is on-policy and publishes after every update, but learner.publish_period = "
            f"{config.learner.publish_period} came: leave it out"
        )
    if options.episodic:
        if config.learner.duration_weight_limit is not None:
            raise ConfigError(
                f"{name} compares whole episodes, in which no transition has a weight, but "
                f"learner.duration_weight_limit = {config.learner.duration_weight_limit} came: leave it out"
            )
        return
    num_envs = actors.env_workers // config.learner.count * actors.envs_per_worker  # of one learner's queue
    least = num_envs * actors.fragment_steps
    if options.batch_size % actors.fragment_steps or options.batch_size < least:
        raise ConfigError(
            f"{name} needs an algorithm.batch_size that is a multiple of actors.fragment_steps "
            f"({actors.fragment_steps}) and at least one fragment of each of the {num_envs} environments, {least}; got "
            f"{options.batch_size}: try {-(-options.batch_size // least) * least}, or fewer environments"
        )
    rows = options.batch_size // actors.fragment_steps
    if getattr(options, "memory_size", None) is not None and options.minibatches > rows:
        raise ConfigError(
            f"{name} with algorithm.memory_size trains on whole rows, of which a rollout has {rows} "
            "(algorithm.batch_size / actors.fragment_steps), but algorithm.minibatches = "
            f"{options.minibatches} came: at most {rows}"
        )


def keeps_log(config: RunConfig) -> bool:
    """Whether a new run keeps its transitions; see ``run.experience_log``. ``env.hosting`` is decided."""
    if config.run.experience_log == "auto":
        return config.env.hosting == "process" or not algorithm_model(config).on_policy
    return config.run.experience_log == "on"


def league_model(config: RunConfig) -> LeagueConfig | None:
    """The league's validated options; None where there is none.

    Raises:
        ConfigError: unknown option or wrong value.
    """
    from distrl.learners.league.config import LeagueConfig

    if config.league is None:
        return None
    try:
        return LeagueConfig.model_validate(config.league.options)
    except ValidationError as error:
        raise ConfigError(explain(error, LeagueConfig, "league")) from None


def try_environment(config: RunConfig) -> Trial:
    """The environment as evaluations run it, after trying it in a process of its own, and at every level of the
    schedule.

    Raises:
        ConfigError: wrong id or arguments; a level that the environment does not have, or with other spaces.
        EnvironmentFault: it is broken.
    """
    from distrl.envs import describe

    recipe = config.env.recipe()
    trial = describe.try_environment(recipe)
    for level in config.fidelity.levels():
        if level not in trial.spec.fidelities:
            raise ConfigError(
                f"fidelity.schedule needs levels that {recipe.id} lists in its attribute fidelities, which are "
                f"{', '.join(trial.spec.fidelities)}, but {level!r} came: name one of these"
            )
    for level in [level for level in config.fidelity.levels() if level != recipe.fidelity]:
        spec = describe.try_environment(dataclasses.replace(recipe, fidelity=level)).spec
        for name in ("observation_space", "action_space"):
            mine, its = getattr(trial.spec, name), getattr(spec, name)
            if mine != its:
                raise ConfigError(
                    f"fidelity.schedule needs the same spaces at every level, but {recipe.id} has the "
                    f"{name.replace('_', ' ')} {its} at {level} and {mine} at {recipe.fidelity}: leave that level out"
                )
    return trial


def with_hosting(config: RunConfig, trial: Trial, local: bool) -> RunConfig:
    """The configuration with ``env.hosting = "auto"`` decided: by what a step was measured to take, and by whether
    Gymnasium has the environment vectorised, with the same spaces."""
    if config.env.hosting != "auto":
        return config
    from distrl.envs.resolve import is_only_vectorised

    hosting = "process"
    cheap = trial.step_s is not None and trial.step_s < _INLINE_BELOW_S
    if local or cheap or is_only_vectorised(config.env.id):  # what steps many rows at once is made for that
        hosting = "vector" if not config.fidelity.schedule and _is_vectorised(config.env.recipe(), trial) else "inline"
    return config.model_copy(update={"env": config.env.model_copy(update={"hosting": hosting})})


def _is_vectorised(recipe: EnvRecipe, trial: Trial) -> bool:
    from distrl.envs.vector_envs import is_vectorised, make_vector_env

    if not is_vectorised(recipe):
        return False
    env = make_vector_env(recipe, 1)
    spec, spaces = trial.spec, (env.single_observation_space, env.single_action_space)
    env.close()
    return spaces == (
        spec.observation_space,
        spec.action_space,
    )  # Atari's has frames stacked, say, where single has not


def policy_specs(config: RunConfig, spec: EnvSpec) -> dict[str, PolicySpec]:
    """Each policy's recipe.

    Raises:
        ConfigError: agents and policies do not fit, or an algorithm cannot handle a policy's spaces or rows.
    """
    from distrl.learners.league.config import roles_of

    plans = plan_policies(config, spec)
    kinds = {plan.policy_id: algorithm_model(plan.config) for plan in plans if plan.frozen is None}
    if not kinds:
        raise ConfigError("a run needs a policy that learns, but all of its policies are frozen")
    on_policy = [name for name, options in kinds.items() if options.on_policy]
    if 0 < len(on_policy) < len(kinds):
        other = next(name for name in kinds if name not in on_policy)
        raise ConfigError(
            f"the policies of a run need algorithms of one kind, but that of {on_policy[0]!r} is on-policy and that of "
            f"{other!r} is not: choose the same for both"
        )
    for plan in plans:
        if plan.frozen is None:
            _check_rows(plan, kinds[plan.policy_id])
    if config.learner.mode != "single" and (len(kinds) > 1 or config.league is not None):
        raise ConfigError(
            f"learner.mode = {config.learner.mode} trains one policy, but the run has "
            f"{'a league' if config.league is not None else ', '.join(kinds)}: use single"
        )
    if (league := league_model(config)) is not None:
        if config.actors.inference == "server":
            raise ConfigError('actors.inference = "server" serves one policy, and a league has many: use local')
        roles_of(league, plan_sides(config, spec, plans, league.sides)[1])
    if len(plans) > 1 and config.actors.inference == "server":
        raise ConfigError(
            'actors.inference = "server" serves one policy, but the run has '
            f"{', '.join(plan.policy_id for plan in plans)}: use local"
        )
    return {
        plan.policy_id: read_frozen(plan)[0] if plan.frozen else kinds[plan.policy_id].policy_spec(plan.spec)
        for plan in plans
    }


def _check_rows(plan: PolicyPlan, options: Any) -> None:
    """A rollout must hold a fragment of each row of a policy that acts for several agents."""
    actors = plan.config.actors
    workers = actors.env_workers // plan.config.learner.count
    least = workers * actors.envs_per_worker * len(plan.agents) * actors.fragment_steps
    if options.on_policy and not options.episodic and options.batch_size < least:
        raise ConfigError(
            f"policy {plan.policy_id!r} acts for {len(plan.agents)} agents of each environment, so its "
            f"algorithm.batch_size must be at least {least}, one fragment (actors.fragment_steps = "
            f"{actors.fragment_steps}) of each; got {options.batch_size}"
        )


def pick_device(requested: str) -> str:
    """``auto`` resolved; a GPU that was asked for must be there.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    import torch

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"learner.device = {requested!r} needs a GPU that PyTorch can use, and this process sees none; use auto "
            "or cpu"
        )
    return requested


def check_sweep(sweep: SweepConfig) -> None:
    """Refuse a space in which some trial could not begin; the environment is tried as most trials have it.

    Raises:
        ConfigError: naming the values, and what an algorithm has against them. EnvironmentFault: see
        ``try_environment``.
    """
    base = sweep.run_config({})
    spec = try_environment(base).spec
    for values in sweep.examples():
        try:
            config = sweep.run_config(values)
            algorithm_model(config)
            if config.env == base.env:
                policy_specs(config, spec)
        except ConfigError as error:
            came = ", ".join(f"{key} = {value!r}" for key, value in values.items())
            raise ConfigError(f"the sweep's space has {came}, and then: {error}" if came else str(error)) from None
