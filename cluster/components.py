"""The parts of a run, each built from the configuration: the one place that knows which class plays which role. No Ray
here.

EnvPool → EnvWorker → (sink) Learner → (publish) ParameterServer → (pull) EnvWorker, Evaluator
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distrl.core.checkpoint import save_checkpoint
from distrl.core.config import RunConfig, explain
from distrl.core.contracts import EnvPool, FragmentSink, WeightsSource
from distrl.core.errors import ConfigError
from distrl.core.policy_file import policy_files
from distrl.core.seeds import EpisodeSeeds, FixedSeeds, TrainingSeeds
from distrl.core.types import EnvRecipe, EnvSpec, PolicySpec, Weights

if TYPE_CHECKING:
    from distrl.actors.env_worker import EnvWorker
    from distrl.actors.evaluator import EpisodeRunner
    from distrl.learners.learner import Learner, Publish

SELECTION_SEEDS = 1_000_000_000  # evaluations while training use the seeds from here on …
TEST_SEEDS = 1_500_000_000  # … and the final one these, so that choosing the best policy cannot flatter it


def algorithm_model(config: RunConfig) -> Any:
    """The algorithm's validated options.

    Raises:
        ConfigError: unknown algorithm, unknown option or wrong value.
    """
    from distrl.learners.registry import algorithm_config

    model = algorithm_config(config.algorithm.name)
    try:
        return model.model_validate(config.algorithm.options)
    except ValidationError as error:
        raise ConfigError(explain(error, model, "algorithm")) from None


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


def build_training_pool(config: RunConfig, worker: int, incarnation: int, scratch: Path, *, inline: bool) -> EnvPool:
    """The pool of one env worker's life."""
    seeds = TrainingSeeds(config.run.seed, worker, incarnation)
    return build_pool(
        config,
        config.env.recipe(),
        config.actors.envs_per_worker,
        seeds,
        scratch / f"worker-{incarnation}",
        inline=inline,
    )


def build_worker(
    config: RunConfig,
    pool: EnvPool,
    policy: PolicySpec,
    sink: FragmentSink,
    source: WeightsSource,
    *,
    worker: int,
    incarnation: int,
    timed: bool,
) -> EnvWorker:
    """The loop over a pool. ``timed=False`` leaves out everything that a clock decides."""
    from distrl.actors.env_worker import build_env_worker

    seed = TrainingSeeds(config.run.seed, worker, incarnation).seed(2**20, 0)
    return build_env_worker(
        pool,
        policy.build(seed=seed),
        sink,
        source,
        fragment_steps=config.actors.fragment_steps,
        fragment_max_age_s=config.actors.fragment_max_age_s if timed else None,
        worker=worker,
        incarnation=incarnation,
    )


def build_learner(config: RunConfig, spec: EnvSpec, run_directory: Path, publish: Publish) -> Learner:
    """The learner with its algorithm and replay, restored from the run directory where it holds a checkpoint."""
    import torch

    from distrl.core.limiter import SamplesPerInsert
    from distrl.learners.learner import Learner, LearnerSettings
    from distrl.learners.replay import Replay

    torch.set_num_threads(config.learner.threads)
    device = pick_device(config.learner.device)
    options = algorithm_model(config)
    algorithm = options.build(spec, device, config.run.seed)
    replay = Replay(config.replay.capacity, n_step=options.n_step, gamma=options.gamma)
    limiter = SamplesPerInsert(config.replay.samples_per_insert, config.replay.min_size, options.batch_size)
    settings = LearnerSettings(
        options.batch_size,
        config.learner.publish_period,
        config.checkpoint.period,
        config.checkpoint.keep,
        config.run.seed,
    )
    return Learner(algorithm, replay, limiter, run_directory, publish, settings, spec, device)


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


def save_best(directory: Path, version: int, weights: Weights, policy: PolicySpec, return_mean: float | None) -> None:
    """Keep the best policy so far as ``checkpoints/best``."""
    save_checkpoint(
        directory / "checkpoints",
        "best",
        policy_files(weights, policy),
        {"num_updates": version, "return_mean": return_mean},
    )
