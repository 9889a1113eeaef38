"""The parts of a run, each built from the configuration: the one place that knows which class plays which role. No Ray
here.

EnvPool → EnvWorker → (sink) Learner → (publish) ParameterServer → (pull) EnvWorker, Evaluator
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distrl.cluster.checks import algorithm_model, league_model, pick_device
from distrl.cluster.memory import observation_bytes
from distrl.cluster.policies import plan_policies, plan_sides, read_frozen
from distrl.core.checkpoint import save_checkpoint
from distrl.core.config import RunConfig
from distrl.core.contracts import Algorithm, EnvPool, FragmentSink, Policy, WeightsSource
from distrl.core.errors import ConfigError
from distrl.core.log_facts import LogFacts
from distrl.core.policy_file import policy_files
from distrl.core.run_directory import RunDirectory, learner_directory
from distrl.core.seeds import EpisodeSeeds, FixedSeeds, TrainingSeeds
from distrl.core.spool_files import default_spool_directory
from distrl.core.types import Cursor, EnvRecipe, EnvSpec, PolicySpec, Weights

if TYPE_CHECKING:
    from distrl.actors.env_worker import EnvWorker
    from distrl.actors.evaluator import Act, EpisodeRunner
    from distrl.actors.inference import ServerLink
    from distrl.actors.inference_server import InferenceServer
    from distrl.core.spool import Spool
    from distrl.learners.learner import Learner
    from distrl.learners.queue import Queue
    from distrl.learners.replay import Replay

PolicySpecs = Mapping[str, PolicySpec]  # by policy

SYNC_PERIOD_S = 1.0  # of run.sync = "seconds"
SELECTION_SEEDS = 1_000_000_000  # evaluations while training use the seeds from here on …
_POLICY_SEEDS = 7919  # between the seeds of a run's policies …
_RANK_SEEDS = 104_729  # … and between those of what its learners sample
TEST_SEEDS = 1_500_000_000  # … and the final one these, so that choosing the best policy cannot flatter it


def build_pool(
    config: RunConfig,
    recipe: EnvRecipe,
    num_envs: int,
    seeds: EpisodeSeeds,
    scratch: Path,
    *,
    inline: bool,
    nice: int = 0,
) -> EnvPool:
    """Environments, in processes of their own or in this one."""
    if inline:
        from distrl.actors.inline_pool import InlinePool

        return InlinePool(recipe, num_envs, seeds)
    from distrl.actors.process_pool import ProcessPool

    return ProcessPool(
        recipe, num_envs, seeds, scratch_dir=str(scratch), step_timeout_s=config.actors.step_timeout_s, nice=nice
    )


def build_training_pool(
    config: RunConfig,
    worker: int,
    incarnation: int,
    scratch: Path,
    *,
    inline: bool,
    env_steps: int,
    snapshots: Path | None = None,
    cursors: Mapping[int, Cursor] | None = None,
) -> EnvPool:
    """The pool of one env worker's life.

    Args:
        env_steps: of the run so far.
        snapshots: where environments that can leave their state, and where the episodes at ``cursors`` continue from.
    """
    seeds = TrainingSeeds(config.run.seed, worker, incarnation, config.fidelity.stages())
    actors = config.actors
    if inline:
        from distrl.actors.inline_pool import InlinePool
        from distrl.actors.vector_pool import VectorPool

        if config.env.hosting == "vector":
            return VectorPool(config.env.recipe(), actors.envs_per_worker, seeds)
        return InlinePool(config.env.recipe(), actors.envs_per_worker, seeds, env_steps)
    from distrl.actors.process_pool import ProcessPool
    from distrl.actors.snapshots import SnapshotPlan

    size = math.ceil(config.env.cores)
    first_core = worker * actors.envs_per_worker * size
    plan = SnapshotPlan(str(snapshots), actors.snapshot_cost) if snapshots and actors.snapshot_cost else None
    return ProcessPool(
        config.env.recipe(),
        actors.envs_per_worker,
        seeds,
        scratch_dir=str(scratch / f"worker-{incarnation}"),
        step_timeout_s=actors.step_timeout_s,
        hang_factor=actors.hang_factor,
        cores=config.env.cores,
        pin=[first_core + row * size for row in range(actors.envs_per_worker)] if actors.pin_cores else None,
        snapshots=plan,
        cursors=cursors or {},
        env_steps=env_steps,
    )


def build_worker(
    config: RunConfig,
    pool: EnvPool,
    policies: PolicySpecs,
    sink: FragmentSink,
    source_of: Callable[[str], WeightsSource],
    *,
    worker: int,
    incarnation: int,
    timed: bool,
    spool: Spool | None = None,
    server: ServerLink | None = None,
) -> EnvWorker:
    """The loop over a pool. ``source_of`` gives a policy's weights; ``timed=False`` leaves out everything that a clock
    decides; ``server`` chooses actions."""
    from distrl.actors.env_worker import PolicyPart, build_env_worker
    from distrl.actors.seating import Seating
    from distrl.core.limiter import Admission

    seeds = TrainingSeeds(config.run.seed, worker, incarnation)
    parts, plans = {}, plan_policies(config, pool.spec)
    for number, plan in enumerate(plans):
        policy, source = policies[plan.policy_id].build(seed=seeds.seed(2**20, number)), source_of(plan.policy_id)
        if plan.frozen is not None:
            parts[plan.policy_id] = PolicyPart(policy, source, plan.agents, frozen=True)
            continue
        options, admission = algorithm_model(plan.config), None
        if options.on_policy and not options.episodic:
            workers = config.actors.env_workers // config.learner.count  # of one learner's queue
            admission = Admission(options.batch_size // workers, options.max_staleness)
        parts[plan.policy_id] = PolicyPart(policy, source, plan.agents, admission, server)
    seating, league = None, league_model(config)
    if league is not None:
        numbers = itertools.count(len(plans))  # each opponent has noise of its own
        seating = Seating(
            plan_sides(config, pool.spec, plans, league.sides)[0],
            {plan.policy_id: plan.agents for plan in plans},
            lambda policy_id: policies[policy_id].build(seed=seeds.seed(2**20, next(numbers))),
            source_of,
            pool.num_envs,
            seeds.seed(2**20 + 1, 0),
        )
    return build_env_worker(
        pool,
        parts,
        sink,
        fragment_steps=config.actors.fragment_steps,
        fragment_max_age_s=config.actors.fragment_max_age_s if timed else None,
        worker=worker,
        incarnation=incarnation,
        spool=spool,
        durability=config.run.durability,
        seating=seating,
    )


def build_inference_server(
    config: RunConfig,
    policy: PolicySpec,
    source: WeightsSource,
    number: int,
    life: int,
    device: str,
    on_news: Callable[[], None],
) -> InferenceServer:
    """An inference server. ``life``: how many of its number there have been."""
    from distrl.actors.inference_server import InferenceServer

    seed = TrainingSeeds(config.run.seed, number, life).seed(2**20 + 1, 0)
    actors = config.actors
    built = policy.build(seed=seed)
    if hasattr(built, "to"):  # the others act in numpy
        built.to(device)
    return InferenceServer(built, source, actors.inference_batch, actors.inference_wait_s, on_news)


def build_algorithm(
    config: RunConfig, spec: EnvSpec, device: str, seed: int | None = None
) -> tuple[Algorithm, Replay | Queue, Any]:
    """The algorithm, what it draws from, and its options; ``seed``: in place of the run's."""
    import torch

    from distrl.learners.episode_queue import EpisodeQueue
    from distrl.learners.priorities import PrioritizedReplay, PriorityRule
    from distrl.learners.queue import Queue
    from distrl.learners.replay import Replay
    from distrl.learners.stored_observations import fits

    torch.set_num_threads(config.learner.threads)  # the number of threads decides the order of sums
    torch.set_float32_matmul_precision(config.learner.matmul_precision)
    options = algorithm_model(config)
    algorithm = options.build(spec, device, config.run.seed if seed is None else seed)
    limit = config.learner.duration_weight_limit
    if options.episodic:
        return algorithm, EpisodeQueue(options.batch_size), options
    if options.on_policy:
        return algorithm, Queue(options.batch_size, config.actors.fragment_steps, limit), options
    replay = config.replay
    capacity = -(-replay.capacity // config.learner.count)  # each learner has a part of it
    kept: dict[str, Any] = {"n_step": options.n_step, "gamma": options.gamma, "duration_limit": limit}
    everywhere = max(1, len(config.policies)) * capacity * observation_bytes(spec)
    auto = replay.device == "auto" and options.takes_tensors and fits(everywhere, device)
    if auto or replay.device == "learner":
        kept["device"] = device
    if replay.priority_exponent is None:
        return algorithm, Replay(capacity, **kept), options
    rule = PriorityRule(replay.priority_exponent, replay.priority_correction, replay.priority_full_at)
    return algorithm, PrioritizedReplay(capacity, rule, **kept), options


def build_learner(
    config: RunConfig,
    spec: EnvSpec,
    run_directory: Path,
    publish: Callable[..., Any],
    fill: Callable[[Mapping[str, Replay]], None] | None = None,
    rank: int = 0,
) -> Learner:
    """The learner with what it draws from, restored from the run directory where that holds a checkpoint; ``publish``
    takes (version, weights, policy); ``fill`` puts what others did into the policies' replays; ``rank``: which of the
    run's learners it is.

    Raises:
        ConfigError: there are several learners, and the algorithm cannot be shared.
    """
    from distrl.core.limiter import SamplesPerInsert
    from distrl.learners.league.league import League
    from distrl.learners.learner import Learner, LearnerSettings
    from distrl.learners.queue import Queue
    from distrl.learners.replay import Replay
    from distrl.learners.trainer import FrozenPolicy, PolicyTrainer, TrainerSettings

    device = pick_device(config.learner.device)
    replay = config.replay
    run = RunDirectory.open(run_directory)
    trainers, on_policy, frozen, plans = [], False, {}, plan_policies(config, spec)
    checkpoint_period = 5000
    for number, plan in enumerate(plans):
        if plan.frozen is not None:
            frozen[plan.policy_id] = FrozenPolicy(*read_frozen(plan), partial(publish, policy_id=plan.policy_id))
            continue
        seed = config.run.seed + number * _POLICY_SEEDS
        algorithm, store, options = build_algorithm(plan.config, plan.spec, device, seed)
        on_policy = options.on_policy
        checkpoint_period = 10 if options.episodic else 100 if on_policy else 5000
        if config.learner.mode != "single" and not hasattr(algorithm, "optimizer"):
            raise ConfigError(
                f"learner.mode = {config.learner.mode} needs an algorithm whose parameters are in one optimizer "
                f"(distrl.learners.optimizer), and {plan.config.algorithm.name} with these options has none: use single"
            )
        waits: Queue | SamplesPerInsert
        if isinstance(store, Queue):
            waits = store
        else:
            min_size = -(-replay.min_size // config.learner.count)
            waits = SamplesPerInsert(replay.samples_per_insert, min_size, options.batch_size)
        publish_period = 1 if on_policy else config.learner.publish_period
        settings = TrainerSettings(options.batch_size, publish_period, seed + rank * _RANK_SEEDS)
        its_publish = partial(publish, policy_id=plan.policy_id)
        trainers.append(
            PolicyTrainer(algorithm, store, waits, its_publish, settings, plan.spec, device, plan.policy_id)
        )
    if fill is not None:
        fill({trainer.policy_id: trainer.store for trainer in trainers if isinstance(trainer.store, Replay)})
    learner_settings = LearnerSettings(
        config.checkpoint.period or checkpoint_period,
        config.checkpoint.keep,
        sync_period_s=SYNC_PERIOD_S if config.run.sync == "seconds" else 0.0,
        warm_start=replay.warm_start,
        warm_limits=run.facts.get("warm_limits"),
        logged=run.facts.get("logged", True),
    )
    facts = log_facts(config, spec, run.id)
    league, options = None, league_model(config)
    if options is not None:
        names = [plan.policy_id for plan in plans]
        rivals = plan_sides(config, spec, plans, options.sides)[1]
        league = League(run_directory / "league", options, names, seed=config.run.seed, rivals=rivals, publish=publish)
    directory = learner_directory(run_directory, rank)
    return Learner(trainers, directory, learner_settings, device, facts, frozen, league)


def log_facts(config: RunConfig, spec: EnvSpec, run_id: str) -> LogFacts:
    """What a run's log says about itself; ``run_id`` is empty where the run does not exist yet."""
    return LogFacts.of(run_id, config.env.recipe(), spec, config.fidelity.levels())


def spool_directory(config: RunConfig, run_id: str) -> Path:
    """Where this node's spools of a run lie; each env worker number has a folder in it."""
    return (Path(config.run.spool_dir) if config.run.spool_dir else default_spool_directory()) / run_id


def count_leftovers(run: RunDirectory) -> None:
    """Keep what the environments of a killed session had counted in this node's shared memory, before it goes."""
    from distrl.actors.shared_rows import read_produced

    found = {path.name.partition("-")[2]: read_produced(path) for path in run.scratch().glob("worker-*")}
    known = run.facts["produced"] | {name: count for name, count in found.items() if count is not None}
    run.note(produced=known)


def evaluation_runner(
    config: RunConfig, first_seed: int, episodes: int, num_envs: int, scratch: Path, *, inline: bool, nice: int = 0
) -> EpisodeRunner:
    """Environments for ``episodes`` deterministic episodes on the seeds from ``first_seed`` on."""
    from distrl.actors.evaluator import EpisodeRunner

    num_envs = min(num_envs, episodes)
    seeds = tuple(range(first_seed, first_seed + episodes))
    recipe = dataclasses.replace(config.env.recipe(), delay=None)  # artificial step times are the training's
    pool = build_pool(
        config,
        recipe,
        num_envs,
        FixedSeeds(seeds, num_envs),
        scratch / f"evaluation-{os.getpid()}",
        inline=inline,
        nice=nice,
    )
    return EpisodeRunner(pool, seeds)


def evaluation_act(config: RunConfig, spec: EnvSpec, policies: Mapping[str, Policy], num_envs: int) -> Act:
    """What acts in ``num_envs`` environments, each agent by its policy."""
    from distrl.actors.evaluator import act_together

    agents = {plan.policy_id: plan.evaluated for plan in plan_policies(config, spec) if plan.evaluated}
    return act_together(spec, num_envs, agents, policies)


def save_best(
    directory: Path, pulled: Mapping[str, tuple[int, Weights]], policies: PolicySpecs, return_mean: float | None
) -> None:
    """Keep the best policies so far, (version, weights) of each, as ``checkpoints/best``."""
    files: dict[str, bytes] = {}
    for name, (_, weights) in pulled.items():
        files |= policy_files(weights, policies[name], name)
    meta = {"num_updates": sum(version for version, _ in pulled.values()), "return_mean": return_mean}
    save_checkpoint(directory / "checkpoints", "best", files, meta)
