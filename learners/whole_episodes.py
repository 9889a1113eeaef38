"""Fragments flow in, in any order; whole episodes flow out, each with its return and with who has acted in it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from distrl.core.types import FINAL, OBSERVATION, STATE, Columns, Fragment
from distrl.learners.inputs import Layout, flat_inputs
from distrl.learners.lineage_policy import INDIVIDUAL

Key = tuple[int, int]  # (episode_uid, agent_index)


@dataclass(frozen=True)
class Episode:
    """One that has begun.

    Attributes:
        row: (env worker, environment, agent) that it is in.
        parent, seed: who acts, see ``INDIVIDUAL``; None: several, or it is not known who.
        num_steps: that have come. length: of the whole; None: its end has not come.
        episode_return: of the steps that have come.
        seen: float64 [D]: the sum of the observations that have come, or the final one; [1], 0: nothing yet.
    """

    row: tuple[int, int, int]
    parent: int | None
    seed: int | None
    num_steps: int
    length: int | None
    episode_return: float
    seen: np.ndarray


class Episodes:
    """Adds up what has come of each episode.

    Args:
        inputs: the layout of the observations. behaviour: ``final`` or ``mean``, what is kept of them; None: nothing.
        running: those that have begun.
    """

    def __init__(self, inputs: Layout, behaviour: str | None, running: dict[Key, Episode]):
        self._inputs, self._behaviour = inputs, behaviour
        self.running = dict(running)

    def add(self, fragment: Fragment) -> list[Episode]:
        """Those that are whole now, in the order in which their last steps came; ``seen`` is then the behaviour, also
        of ``mean``."""
        uids = fragment.columns["episode_uid"]
        whole = []
        cuts = [[0, *(np.flatnonzero(np.diff(uids[:, b])) + 1).tolist(), len(uids)] for b in range(fragment.num_rows)]
        stretches = [(end, b, begin) for b, its in enumerate(cuts) for begin, end in itertools.pairwise(its)]
        for end, b, begin in sorted(stretches):
            found = self._joined(fragment, b, begin, end)
            key = (int(uids[begin, b]), found.row[2])
            if found.num_steps != found.length:
                self.running[key] = found
                continue
            # what is left of others in its row has lost its end, or its beginning
            gone = [other for other, its in self.running.items() if its.row == found.row]
            for other in gone:
                del self.running[other]
            whole.append(replace(found, seen=found.seen / found.length) if self._behaviour == "mean" else found)
        return whole

    def _joined(self, fragment: Fragment, b: int, begin: int, end: int) -> Episode:
        """An episode with the steps [begin, end) of row b of a fragment."""
        columns = fragment.columns
        agent = int(columns["agent_index"][b])
        row = (fragment.worker, int(columns["env_index"][b]), agent)
        steps, last = columns["step"][begin:end, b], end - 1
        parent, seed = _who(columns[STATE + INDIVIDUAL][begin:end, b], int(steps[0]))
        ended = bool(columns["terminated"][last, b] | columns["truncated"][last, b])
        length = int(steps[-1]) + 1 if ended else None
        total = float(columns["reward"][begin:end, b].sum(dtype=np.float64))
        seen = self._seen(columns, b, begin, end, ended)
        known = self.running.get((int(columns["episode_uid"][begin, b]), agent))
        if known is None:
            return Episode(row, parent, seed, end - begin, length, total, seen)
        if (known.parent, known.seed) != (parent, seed):
            parent = seed = None
        return Episode(
            row,
            parent,
            seed,
            known.num_steps + end - begin,
            known.length if length is None else length,
            known.episode_return + total,
            known.seen + seen,
        )

    def _seen(self, columns: Columns, b: int, begin: int, end: int, ended: bool) -> np.ndarray:
        """What a stretch adds to ``Episode.seen``."""
        if self._behaviour is None or (self._behaviour == "final" and not ended):
            return np.zeros(1)
        paths = [name.removeprefix(OBSERVATION) for name in columns if name.startswith(OBSERVATION)]
        if self._behaviour == "mean":
            part = {path: columns[OBSERVATION + path][begin:end, b] for path in paths}
        else:
            final = np.flatnonzero((columns["final_index"] == (end - 1, b)).all(axis=1))
            part = {
                path: columns[FINAL + path][final] if len(final) else columns[OBSERVATION + path][[end], b]
                for path in paths
            }
        return flat_inputs(part, self._inputs).sum(axis=0, dtype=np.float64)


def _who(individual: np.ndarray, first_step: int) -> tuple[int | None, int | None]:
    """Parent and seed of the one individual of a stretch [n, 2]; None where there is none such.

    The first step of an episode may not say it: an inference server tells the env worker only with its answer.
    """
    if first_step == 0 and individual[0, 1] == 0 and len(individual) > 1:
        individual = individual[1:]
    parent, seed = individual[0].tolist()
    if seed == 0 or (individual != individual[0]).any():
        return None, None
    return parent, seed
