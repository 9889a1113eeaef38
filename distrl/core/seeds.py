"""Seed, level of detail and unique name of an environment's next episode: pure functions of counters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distrl.core.fidelity import Stage, level_of_episode, stage_in_force


@dataclass(frozen=True)
class TrainingSeeds:
    """Fresh seeds for ever, reproducible from the run's seed.

    Attributes:
        run_seed: ``run.seed``.
        worker: number of the env worker.
        incarnation: number of this worker's life; unique in the run over all workers, restarts and resumes.
        schedule: of the episodes' fidelity; without one all are at the recipe's.
    """

    run_seed: int
    worker: int = 0
    incarnation: int = 0
    schedule: tuple[Stage, ...] = ()

    def seed(self, env_index: int, episode: int) -> int:
        """The seed of the ``episode``-th episode of an environment, in [0, 2³¹)."""
        words = (self.run_seed, self.worker, self.incarnation, env_index, episode)
        return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)

    def episode_uid(self, env_index: int, episode: int) -> int:
        """Unique in a run for < 2²⁰ incarnations, 2¹² environments a worker and 2³² episodes each."""
        return self.incarnation << 44 | env_index << 32 | episode

    def fidelity(self, env_index: int, episode: int, env_steps: int) -> str | None:
        """The level of an episode that begins after ``env_steps`` of the run; None: the recipe's."""
        if not self.schedule:
            return None
        return level_of_episode(stage_in_force(self.schedule, env_steps).mix, self.incarnation, env_index, episode)


@dataclass(frozen=True)
class FixedSeeds:
    """The same seeds again and again: environment i runs ``seeds[i::num_envs]``, then starts over. For evaluation."""

    seeds: tuple[int, ...]
    num_envs: int

    def seed(self, env_index: int, episode: int) -> int:
        own = self.seeds[env_index :: self.num_envs]
        return own[episode % len(own)]

    def episode_uid(self, env_index: int, episode: int) -> int:
        return env_index << 32 | episode

    def fidelity(self, env_index: int, episode: int, env_steps: int) -> str | None:
        return None


EpisodeSeeds = TrainingSeeds | FixedSeeds
