"""Fragments flow in, generations of parents flow out: a genetic algorithm whose fitness is the return, how new what was
done is, or both.

Such et al. 2017, "Deep Neuroevolution", arXiv 1712.06567: no crossover, only mutations by noise; truncation selection;
an individual is the list of its seeds (``distrl.learners.lineages``). There, a generation is evaluated whole before the
next one begins. Here no environment waits for another: whoever begins an episode draws a parent of those that it knows
(``distrl.learners.lineage_policy``), and a generation is over when enough episodes have ended, whoever acted in them.
So slow episodes count as much as fast ones, only for a later generation.

A generation's parents are the best of the individuals that have ended an episode in it and of the parents before:

    fitness = (1 − w) · rank of the mean return + w · rank of the novelty          ranks from 0, the worst, to 1
    novelty = mean distance of the behaviour to its k nearest in the archive       Lehman & Stanley 2011; with returns:
                                                                                   Conti et al. 2018, arXiv 1712.06560

The behaviour is the final or the mean observation of the newest episode; distances are in units of the archive's
standard deviations. Parents also act themselves, which measures them again. The elite has the greatest

    (n · its mean return over its n episodes + d · the generation's mean return) / (n + d)

with d the doubt in a single episode, and is always a parent, whatever novelty counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from distrl.core.types import EnvSpec, Fragment, PolicySpec, Weights
from distrl.learners.ga_config import Config
from distrl.learners.lineage_policy import SEEDS
from distrl.learners.lineages import ROOT, child_id
from distrl.learners.whole_episodes import Episode, Episodes, Key


@dataclass(frozen=True)
class Individual:
    """Attributes: parent, seed: the id of whom it comes from, and its last seed. evaluations: episodes. mean_return: of
    these. behaviour: of the newest, float64 [D]."""

    parent: int
    seed: int
    evaluations: int
    mean_return: float
    behaviour: np.ndarray

    def again(self, episode_return: float, behaviour: np.ndarray) -> Individual:
        """With one more episode."""
        evaluations = self.evaluations + 1
        mean = self.mean_return + (episode_return - self.mean_return) / evaluations
        return replace(self, evaluations=evaluations, mean_return=mean, behaviour=behaviour)


@dataclass(frozen=True)
class Generation:
    """All that training changes.

    Attributes:
        number: of generations before. parents: by id, the elite first; none: the root is the one parent.
        births: id → (parent, seed) of all parents that there have been: of theirs, children may still act.
        archive: float64 [n, D], behaviours, the newest last. running: episodes that have begun.
    """

    number: int
    parents: dict[int, Individual]
    births: dict[int, tuple[int, int]]
    archive: np.ndarray
    running: dict[Key, Episode]


class GA:
    """Implements ``distrl.core.contracts.Algorithm``, with a generation as the gradient; it needs no chance, no GPU and
    no network.

    Args:
        config: hyperparameters.
        env_spec: with numbers to observe; see ``Config.policy_spec``.

    Attributes:
        generation: the newest.
    """

    def __init__(self, config: Config, env_spec: EnvSpec):
        self.config = config
        self._policy_spec = config.policy_spec(env_spec)
        self._inputs = self._policy_spec.kwargs["inputs"]
        self._behaviour = config.behaviour if config.novelty_weight else None
        self.generation = Generation(0, {}, {}, np.zeros((0, 1)), {})

    def gradients(self, batch: Sequence[Fragment], rng: Any = None) -> tuple[Generation, dict[str, float]]:
        """The next generation, and metrics of this one.

        Args:
            batch: in the order of arrival. rng: nothing is drawn.
        """
        config, before = self.config, self.generation
        episodes = Episodes(self._inputs, self._behaviour, before.running)
        whole = [episode for fragment in batch for episode in episodes.add(fragment)]
        found = dict(before.parents)
        returns, archive = [], before.archive
        for episode in whole:
            parent, seed = episode.parent, episode.seed
            if parent is None or seed is None or not (parent == ROOT or parent in before.births):
                continue
            number, value = child_id(parent, seed), episode.episode_return
            known = found.get(number)
            found[number] = (
                Individual(parent, seed, 1, value, episode.seen) if known is None else known.again(value, episode.seen)
            )
            returns.append(value)
            if self._behaviour is not None:
                archive = np.concatenate([archive.reshape(-1, len(episode.seen)), episode.seen[None]])
        archive = archive[-config.archive_size :]
        metrics = {
            "generation": float(before.number),
            "episodes": float(len(returns)),
            "episodes_not_counted": float(len(whole) - len(returns)),
            "return_mean": float(np.mean(returns)) if returns else 0.0,
            "return_max": max(returns, default=0.0),
        }
        individuals = list(found.values())
        novelty = np.zeros(len(individuals))
        if self._behaviour is not None and individuals:
            novelty = novelties(np.array([its.behaviour for its in individuals]), archive, config.neighbours)
            metrics["novelty_mean"] = float(novelty.mean())
        parents = dict(self._selected(list(found.items()), novelty, metrics["return_mean"]))
        elite = next(iter(parents.values()), None)
        metrics["elite_return"] = 0.0 if elite is None else elite.mean_return
        births = before.births | {number: (its.parent, its.seed) for number, its in parents.items()}
        return Generation(before.number + 1, parents, births, archive, episodes.running), metrics

    def apply(self, gradients: Generation) -> None:
        """It is the newest now."""
        self.generation = gradients

    def _selected(
        self, found: list[tuple[int, Individual]], novelty: np.ndarray, usual: float
    ) -> list[tuple[int, Individual]]:
        """The elite, then the fittest; of equals the newest, so that where nothing is gained, parents still change."""
        if not found:
            return []
        config = self.config
        means = np.array([its.mean_return for _, its in found])
        fitness = (1.0 - config.novelty_weight) * ranks(means) + config.novelty_weight * ranks(novelty)
        newest_first = range(len(found) - 1, -1, -1)
        evaluations = np.array([its.evaluations for _, its in found])
        believed = (evaluations * means + config.doubt * usual) / (evaluations + config.doubt)
        elite = max(newest_first, key=lambda n: believed[n])
        others = [n for n in sorted(newest_first, key=lambda n: -fitness[n]) if n != elite]
        return [found[n] for n in [elite, *others][: config.parents]]

    def policy_spec(self) -> PolicySpec:
        """See ``Config.policy_spec``."""
        return self._policy_spec

    def policy_weights(self) -> Weights:
        """The parents' seeds, as ``distrl.learners.lineage_policy`` loads them."""
        lists = [self._seeds(number) for number in self.generation.parents] or [[]]
        seeds = np.zeros((len(lists), max(1, *map(len, lists))), np.int64)
        for row, its in zip(seeds, lists, strict=True):
            row[: len(its)] = its
        return {SEEDS: seeds}

    def _seeds(self, number: int) -> list[int]:
        """Of the individual with this id."""
        seeds: list[int] = []
        while number != ROOT:
            number, seed = self.generation.births[number]
            seeds.insert(0, seed)
        return seeds

    def state(self) -> dict[str, Any]:
        """All that an update reads or writes, and what seeds mean: plain data and tensors."""
        now = self.generation
        return {
            "meaning": self._meaning(),
            "number": now.number,
            "parents": [
                [its.parent, its.seed, its.evaluations, its.mean_return, its.behaviour.tolist()]
                for its in now.parents.values()
            ],
            "births": torch.tensor([[number, *birth] for number, birth in now.births.items()], dtype=torch.int64),
            "archive": torch.tensor(now.archive),
            "running": [
                [*key, its.row, its.parent, its.seed, its.num_steps, its.length, its.episode_return, its.seen.tolist()]
                for key, its in now.running.items()
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: seeds meant other networks there.
        """
        if state.get("meaning") != self._meaning():
            raise ValueError(
                f"the state's seeds stand for layers and mutations of {state.get('meaning')}, and those of now are "
                f"{self._meaning()}: keep algorithm.hidden and algorithm.sigma as they were"
            )
        self.generation = Generation(
            state["number"],
            {
                child_id(parent, seed): Individual(parent, seed, evaluations, mean, np.array(behaviour))
                for parent, seed, evaluations, mean, behaviour in state["parents"]
            },
            {number: (parent, seed) for number, parent, seed in state["births"].tolist()},
            state["archive"].numpy(force=True).copy(),
            {
                (uid, agent): Episode(tuple(row), parent, seed, num_steps, length, total, np.array(seen))
                for uid, agent, row, parent, seed, num_steps, length, total, seen in state["running"]
            },
        )

    def _meaning(self) -> list[Any]:
        kwargs = self._policy_spec.kwargs
        return [list(kwargs["sizes"]), kwargs["sigma"]]


def ranks(values: np.ndarray) -> np.ndarray:
    """float64 [n] → the share of the others that is less, [n], from 0 to 1; equal values have equal ranks."""
    return np.searchsorted(np.sort(values), values) / max(1, len(values) - 1)


def novelties(behaviours: np.ndarray, archive: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean distance of behaviours [n, D] to their nearest in the archive [m, D], float64 [n].

    A behaviour that is in the archive itself is one of its own nearest, at the distance 0; so one more is taken.
    """
    std = archive.std(axis=0)
    unit = np.where(std > 0.0, std, 1.0)
    distances = np.linalg.norm((behaviours[:, None] - archive) / unit, axis=2)
    number = min(neighbours + 1, len(archive))
    nearest = np.partition(distances, number - 1, axis=1)[:, :number]
    return nearest.sum(axis=1) / max(1, number - 1)
