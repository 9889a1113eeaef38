"""Observations flow in, actions flow out, in numpy alone: each episode has an individual of its own, which the policy
draws when it begins.

The weights are the parents' seeds (``SEEDS``, int64 [number, longest], 0 behind the end of each list, the elite first):
a few numbers, however large the networks. Who acts travels as the policy's state, ``INDIVIDUAL`` int64 [N, 2]: the id
of the one it comes from, and its last seed; (0, 0) where it is not known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.actor_policies import Choices
from distrl.learners.inputs import Layout, flat_inputs
from distrl.learners.lineages import MAX_SEED, ROOT, Lineages, child_id, lineage_ids

SEEDS = "seeds"  # weights entry
INDIVIDUAL = "individual"  # path of the state
_KEPT = 4  # individuals whose parameters are kept, for each row; at least …
_KEPT_LEAST = 256

_Birth = tuple[int, int]  # (id of whom it comes from, its last seed)


class _Parents(NamedTuple):
    """Attributes: ids, births: of each. parameters: float32 [P] by id. older: those of the weights before."""

    ids: list[int]
    births: list[_Birth | None]
    parameters: dict[int, np.ndarray]
    older: dict[int, np.ndarray]

    def find(self, individual: int) -> np.ndarray | None:
        found = self.parameters.get(individual)
        return self.older.get(individual) if found is None else found


class LineagePolicy:
    """Acts for a whole episode with a child of a parent that it draws, or with a parent itself, whose fitness is so
    measured again. Implements ``distrl.core.contracts.Policy``; the log-probability is 0, as the individual's one
    action is certain.

    Where it does not know the individual (an env worker has been started again, and the episode goes on; a row that
    waited while very many episodes of others went by) the elite acts, and the state says (0, 0): the learner does not
    count such an episode.

    Args:
        seed: of whom it draws.
        deterministic: act with the elite, for evaluation.
        inputs: the layout of the observations (distrl.learners.inputs).
        sizes, sigma: see ``Lineages``.
        reevaluated: share of episodes with a parent itself.
        actions: arguments of ``Choices``, or of ``TanhActions``.
    """

    def __init__(
        self,
        seed: int,
        deterministic: bool,
        inputs: Layout,
        sizes: Sequence[int],
        sigma: float,
        reevaluated: float,
        actions: Mapping[str, Any],
    ):
        self._rng = None if deterministic else np.random.default_rng(seed)
        self._inputs, self._reevaluated = inputs, reevaluated
        self._lineages = Lineages(sizes, sigma)
        self._head = Choices(**actions) if "choices" in actions else TanhActions(**actions)
        self._parents: _Parents | None = None
        self._acting: OrderedDict[_Birth, np.ndarray] = OrderedDict()  # parameters, the one that acted last at the end
        self._num_kept = _KEPT_LEAST
        self._beside = np.empty((0, self._lineages.num_parameters), np.float32)  # of the rows, for one product …
        self._placed: list[np.ndarray] = []  # … and whose they are

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights, which are the root alone."""
        return self._parents is not None

    def load(self, weights: Weights) -> None:
        """``SEEDS``; see above."""
        before = {} if self._parents is None else self._parents.parameters
        ids: list[int] = []
        births: list[_Birth | None] = []
        parameters: dict[int, np.ndarray] = {}
        for row in weights[SEEDS].tolist():
            seeds = [seed for seed in row if seed]
            its = lineage_ids(seeds)
            ids.append(its[-1])
            births.append((its[-2], seeds[-1]) if seeds else None)
            parameters[its[-1]] = self._lineages.decoded(seeds, before | parameters)
        # one assignment: a step in another thread sees the old parents or the new
        self._parents = _Parents(ids, births, parameters, before)

    def initial_state(self, num_rows: int) -> Columns:
        """``individual`` int64 [num_rows, 2] of zeros."""
        self._num_kept = max(self._num_kept, _KEPT * num_rows)
        return {INDIVIDUAL: np.zeros((num_rows, 2), np.int64)}

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, …], log-probabilities float32 [N], and the state, into which it writes whom it draws for rows
        that are ``is_first``: so an episode of one step also says who acted."""
        parents = self._parents
        if parents is None:
            raise RuntimeError("the policy needs weights before its first step: call load")
        inputs = flat_inputs(observation, self._inputs)
        individual = state[INDIVIDUAL]
        elite = parents.parameters[parents.ids[0]]
        if self._rng is None:
            parameters = elite[None]
        else:
            individual = np.require(individual, requirements="W")
            for row in np.flatnonzero(is_first):
                individual[row] = self._drawn(parents, self._rng)
            found = [self._find(parents, (parent, seed)) for parent, seed in individual.tolist()]
            individual[[its is None for its in found]] = 0
            parameters = self._side_by_side([elite if its is None else its for its in found])
        outputs = self._lineages.outputs(parameters, inputs)
        action, _ = self._head.act(None, outputs, observation, None)
        return action, np.zeros(len(action), np.float32), {INDIVIDUAL: individual}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself, which is in the space."""
        return action

    def _drawn(self, parents: _Parents, rng: np.random.Generator) -> _Birth:
        """Who acts in a new episode."""
        number = int(rng.integers(len(parents.ids)))
        birth = parents.births[number]
        again, seed = rng.random() < self._reevaluated, int(rng.integers(1, MAX_SEED))
        return birth if again and birth is not None else (parents.ids[number], seed)

    def _find(self, parents: _Parents, birth: _Birth) -> np.ndarray | None:
        """Parameters [P] of an individual; None where it is not known."""
        found = self._acting.get(birth)
        if found is None:
            parent, seed = birth
            if not seed:
                return None
            found = parents.find(child_id(parent, seed))
            if found is None:
                before = self._lineages.root if parent == ROOT else parents.find(parent)
                if before is None:
                    return None
                found = self._lineages.child(parent, before, seed)
            self._acting[birth] = found
            if len(self._acting) > self._num_kept:
                self._acting.popitem(last=False)
        self._acting.move_to_end(birth)
        return found

    def _side_by_side(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """[N, P]; what is there from the last call stays, as most rows go on with whom they had."""
        if len(found) > len(self._beside):
            self._beside = np.empty((len(found), self._lineages.num_parameters), np.float32)
            self._placed = []
        for row, parameters in enumerate(found):
            if row == len(self._placed):
                self._placed.append(parameters)
            elif self._placed[row] is parameters:
                continue
            self._beside[row] = self._placed[row] = parameters
        return self._beside[: len(found)]


class TanhActions:
    """c + h · tanh(x) of a bounded Box, c its centre, h its half widths.

    Args:
        low, high: action bounds, nested lists in the action's shape. dtype: of the actions.
    """

    def __init__(self, low: Sequence[Any], high: Sequence[Any], dtype: str):
        self._low, self._high = np.asarray(low, dtype), np.asarray(high, dtype)
        self._center, self._half = (self._high + self._low) / 2, (self._high - self._low) / 2

    def act(self, prepared: Any, outputs: np.ndarray, observation: Observation, rng: None) -> tuple[np.ndarray, None]:
        """As ``distrl.learners.actor_policies.Head``: actions [N, …] of a network's outputs [N, A]; no chance has a
        part in them."""
        x = np.tanh(outputs).reshape(len(outputs), *self._low.shape)
        action = (self._center + self._half * x).astype(self._low.dtype)
        return np.clip(action, self._low, self._high, out=action), None  # rounding may leave it by one unit
