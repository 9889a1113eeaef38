"""What was measured goes in; hosting, env workers and environments for each come out, with a reason for each. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distrl.cluster.pool_trials import PAYS, Rung

_MOST_ENVS = 256  # of one env worker with a process for each
_TIE = 0.95  # shares of the best rate that count as reaching it …
_TIE_SAFE = 0.9  # … also for environments in processes of their own, which guard against crashes and hangs
_SAFE_ABOVE_S = 1e-3  # a step, from which on they are worth that


@dataclass(frozen=True)
class Needs:
    """What a layout has to fit.

    Attributes:
        cores, memory_bytes: of this machine. env_cores: ``env.cores``.
        learner_s: wall seconds that the learner takes for one env step; 0 where it has no use for more.
        learner_cores: that it uses meanwhile.
        rollout: fragments in a rollout of an on-policy algorithm, else None.
        in_turn: whether environments wait while the learner trains (``algorithm.max_staleness = 0``).
    """

    cores: float
    memory_bytes: float
    env_cores: float
    learner_s: float
    learner_cores: int
    rollout: int | None
    in_turn: bool

    def allows(self, workers: int, rows: int) -> bool:
        """Whether every rollout is a whole number of fragments of every environment."""
        return self.rollout is None or self.rollout % (workers * rows) == 0


@dataclass(frozen=True)
class Layout:
    """One way to host the environments.

    Attributes:
        hosting, env_workers, envs_per_worker: as in the configuration.
        supply_per_s: env steps that the environments could make if the learner kept up.
        trained_per_s: env steps that are expected to be trained on.
        bound: what does not allow more: ``environments``, ``learner``, ``cores`` or ``turns``.
        memory_bytes: of all environments.
    """

    hosting: str
    env_workers: int
    envs_per_worker: int
    supply_per_s: float
    trained_per_s: float
    bound: str
    memory_bytes: float


@dataclass(frozen=True)
class Choice:
    """Attributes: layout: the best that is allowed. reasons: key of the configuration → one sentence. hints: what would
    have to change for more."""

    layout: Layout
    reasons: dict[str, str]
    hints: list[str]


def lockstep_efficiency(step_s: np.ndarray, rows: int) -> float:
    """Share of the time that ``rows`` environments, side by side, compute where each step waits for the slowest:
    mean / E[max of ``rows``], of independent draws from the measured times [K], ascending."""
    share = np.arange(len(step_s) + 1) / len(step_s)
    return float(step_s.mean() / (step_s @ np.diff(share**rows)))


def choose(rungs: Sequence[Rung], step_s: np.ndarray, needs: Needs) -> Choice:
    """The layout that trains on most; of those that do about as well, processes where steps are long enough to be worth
    protecting, then the fewest env workers, then the fewest environments, or, on-policy in one process, the most.

    Args:
        rungs: at least one. step_s: float64 [K], of single steps, ascending.
    """
    layouts = list(_layouts(rungs, needs))
    allowed = [layout for layout in layouts if needs.allows(layout.env_workers, layout.envs_per_worker)]
    best = _best(allowed, needs, step_s)
    hints = []
    more = _best(layouts, needs, step_s)
    if needs.rollout is not None and more.trained_per_s > (1 + 2 * (PAYS - 1)) * best.trained_per_s:
        envs = more.env_workers * more.envs_per_worker
        fragments = -(-needs.rollout // envs) * envs
        hints.append(
            f"{more.env_workers} × {more.envs_per_worker} environments would train on "
            f"{more.trained_per_s / best.trained_per_s:.1f} times as much, but need rollouts of "
            f"{fragments} fragments: algorithm.batch_size = {fragments} × actors.fragment_steps"
        )
    if needs.rollout is None and best.bound == "learner" and best.supply_per_s > 2 * best.trained_per_s:
        hints.append(
            f"the learner can train on {per_s(best.trained_per_s)} env steps/s at this replay.samples_per_insert, and "
            f"the environments make {per_s(best.supply_per_s)}: lower it to learn from all that they make"
        )
    reasons = {
        "env.hosting": _why_hosting(best, rungs, step_s),
        "actors.env_workers": _why_workers(best, needs),
        "actors.envs_per_worker": _why_rows(best, layouts, needs),
    }
    return Choice(best, reasons, hints)


def _layouts(rungs: Sequence[Rung], needs: Needs) -> Iterator[Layout]:
    most_envs = max(1, int(needs.cores / needs.env_cores)) if needs.env_cores > 1 else math.inf
    for workers in range(1, max(1, math.ceil(needs.cores)) + 1):
        for rung in _between(rungs, needs):
            envs = workers * rung.rows
            memory = envs * rung.memory_bytes
            if envs > 1 and (envs > most_envs or memory > 0.8 * needs.memory_bytes):
                continue
            processes = envs if rung.hosting == "process" else workers
            supply, trained, bound = _rates(workers * rung.env_steps_per_s, rung.cpu_s, processes, needs)
            yield Layout(rung.hosting, workers, rung.rows, supply, trained, bound, memory)


def _between(rungs: Sequence[Rung], needs: Needs) -> Iterator[Rung]:
    """What was measured and what follows from it, hosting by hosting, rows ascending. A round of all rows in one
    process takes a time that is linear between two rungs; processes work side by side until their env worker can serve
    no more."""
    for hosting in dict.fromkeys(rung.hosting for rung in rungs):
        own = sorted((rung for rung in rungs if rung.hosting == hosting), key=lambda rung: rung.rows)
        if hosting == "process":
            single = own[0].env_steps_per_s / own[0].rows
            for rows in range(1, _MOST_ENVS + 1):
                rung = [rung for rung in own if rung.rows <= rows or rung is own[0]][-1]
                rate = min(rows * single, 1 / max(rung.worker_cpu_s, 1e-9))
                yield dataclasses.replace(rung, rows=rows, env_steps_per_s=rate)
            continue
        measured = [rung.rows for rung in own]
        powers = {2**k for k in range(11)}
        divisors = {rows for rows in range(1, (needs.rollout or 0) + 1) if needs.allows(1, rows)}
        for rows in sorted(rows for rows in {*measured, *powers, *divisors} if measured[0] <= rows <= measured[-1]):
            round_s = float(np.interp(rows, measured, [rung.rows / rung.env_steps_per_s for rung in own]))
            cpu_s = float(np.interp(rows, measured, [rung.rows * rung.cpu_s for rung in own]))
            yield dataclasses.replace(own[-1], rows=rows, env_steps_per_s=rows / round_s, cpu_s=cpu_s / rows)


def _rates(undisturbed: float, cpu_s: float, processes: int, needs: Needs) -> tuple[float, float, str]:
    """(env steps/s made, env steps/s trained on, what bounds the latter) where ``processes`` step environments, would
    make ``undisturbed`` a second with a core each, and an env step takes ``cpu_s`` of CPU time."""
    supply = min(undisturbed, needs.cores / max(cpu_s, 1e-9))
    environments = "environments" if supply == undisturbed else "cores"
    if needs.learner_s == 0.0:
        left = max(needs.cores - needs.learner_cores, needs.cores / 2)
        supply = min(supply, left / max(cpu_s, 1e-9))
        return supply, supply, environments
    learner = 1 / needs.learner_s
    learner_cpu_s = needs.learner_s * needs.learner_cores
    if needs.rollout is not None and needs.in_turn:
        return supply, 1 / (1 / supply + needs.learner_s), "turns"
    if needs.rollout is None:  # nobody waits for this learner: it has what is left of the cores, or its share
        left = max(needs.cores - supply * cpu_s, needs.cores / (processes + 1))
        learner = min(learner, left / learner_cpu_s)
        return supply, min(supply, learner), environments if supply <= learner else "learner"
    shared = needs.cores / (cpu_s + learner_cpu_s)
    trained = min(supply, learner, shared)
    return supply, trained, {supply: environments, learner: "learner"}.get(trained, "cores")


def _best(layouts: Sequence[Layout], needs: Needs, step_s: np.ndarray) -> Layout:
    most = max(layout.trained_per_s for layout in layouts)
    guarded = float(step_s.mean()) >= _SAFE_ABOVE_S
    safe = [one for one in layouts if one.hosting == "process" and one.trained_per_s >= _TIE_SAFE * most]
    good = [one for one in layouts if one.trained_per_s >= _TIE * most]
    if guarded and safe:
        good = [one for one in safe if one.trained_per_s >= _TIE * max(one.trained_per_s for one in safe)]

    def rank(one: Layout) -> tuple[float, ...]:
        if needs.rollout is not None and one.hosting != "process":
            return one.env_workers, -one.supply_per_s
        return one.env_workers, one.envs_per_worker, -one.supply_per_s

    return min(good, key=rank)


def _why_hosting(best: Layout, rungs: Sequence[Rung], step_s: np.ndarray) -> str:
    median_s, p99_s = np.quantile(step_s, [0.5, 0.99]).tolist()
    step = f"a step takes {seconds(median_s)} (99th percentile {seconds(p99_s)})"
    process = next((rung for rung in rungs if rung.hosting == "process"), None)
    if best.hosting == "process":
        assert process is not None
        rows = max(2, best.env_workers * best.envs_per_worker)
        return (
            f"{step}; a process for each adds {seconds(process.worker_cpu_s)} of CPU time, and nobody waits for a "
            f"slow, hanging or crashing one: in lockstep {rows} environments would compute "
            f"{lockstep_efficiency(step_s, rows):.0%} of the time"
        )
    words = {"vector": "all at once", "inline": "one after the other"}
    made = [
        f"{per_s(max(rung.env_steps_per_s for rung in rungs if rung.hosting == hosting))} {words[hosting]}"
        for hosting in dict.fromkeys(rung.hosting for rung in rungs)
        if hosting != "process"
    ]
    alone = "" if process is None else f", and in processes of their own with {seconds(process.cpu_s)} of CPU time each"
    return f"{step}; one env worker makes env steps/s: {', '.join(made)}{alone}"


def _why_workers(best: Layout, needs: Needs) -> str:
    workers = "1 env worker" if best.env_workers == 1 else f"{best.env_workers} env workers"
    made = f"{workers} can make {per_s(best.supply_per_s)} env steps/s"
    if needs.learner_s == 0.0:
        return f"{made}; the learner updates as often as it can beside them"
    trains = f"the learner can train on {per_s(1 / needs.learner_s)}"
    return (
        f"{made}, {trains}: "
        + {
            "environments": "the environments are the bound",
            "learner": "the learner is the bound, and more would only wait"
            if needs.rollout
            else "the learner is the bound",
            "cores": f"together they have {needs.cores:g} cores, which are the bound",
            "turns": "with algorithm.max_staleness = 0 they take turns",
        }[best.bound]
    )


def _why_rows(best: Layout, layouts: Sequence[Layout], needs: Needs) -> str:
    same = [one for one in layouts if (one.hosting, one.env_workers) == (best.hosting, best.env_workers)]
    fewer = [one for one in same if one.envs_per_worker < best.envs_per_worker]
    more = [one for one in same if one.envs_per_worker > best.envs_per_worker]
    words = []
    if fewer:
        words.append(f"with {fewer[-1].envs_per_worker} they could make {per_s(fewer[-1].supply_per_s)} env steps/s")
    if more and needs.allows(best.env_workers, more[0].envs_per_worker):
        words.append(f"with {more[0].envs_per_worker} the learner would train on hardly more")
    elif needs.rollout is not None:
        words.append(
            f"env_workers × envs_per_worker must divide the {needs.rollout} fragments of a rollout "
            "(algorithm.batch_size / actors.fragment_steps)"
        )
    elif needs.env_cores > 1:
        words.append(f"each uses {needs.env_cores:g} of {needs.cores:g} cores (env.cores)")
    if best.hosting == "process":
        words.append(f"{best.memory_bytes / 1e6:.0f} MB of memory in all")
    return "; ".join(words) or "one keeps up"


def per_s(rate: float) -> str:
    """A rate in few digits, with thousands apart."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def seconds(value: float) -> str:
    """A time in few digits, in s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
