"""Logs in, a run that learned from them alone out: one process, no env workers, environments for evaluations only.

data → replays → learner.update … → publish → evaluation
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distrl.cluster import components
from distrl.cluster.local import refuse_prometheus
from distrl.cluster.local_evaluation import LocalEvaluation
from distrl.cluster.policies import plan_policies
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.episodes import EpisodeReturns
from distrl.core.errors import ConfigError
from distrl.core.experience_log import segments
from distrl.core.fragments import some_rows
from distrl.core.learning_sections import ReplaySection
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec, Fragment
from distrl.core.warm_start import check_warm_start, warm_fragments
from distrl.parameter_server import ParameterServer

if TYPE_CHECKING:
    from distrl.learners.replay import Replay

KEY = "offline.data"


@dataclass(frozen=True)
class OfflineData:
    """What the logs of ``offline.data`` hold for the policies of a run.

    Attributes:
        sources: run directories. fragments: taken from each, so that a resume takes the same.
        policies: by ``agent_index``, who acts for the agent in this run. Who acted when the log was written is not
            looked at.
        transitions: of each policy that learns.
        returns: of the episodes that are whole, each the sum over all agents.
        damaged: a sentence for each place that could not be read.
    """

    sources: list[str]
    fragments: list[int]
    policies: list[str]
    transitions: Counter[str]
    returns: list[float]
    damaged: list[str]

    def fill(self, stores: Mapping[str, Replay]) -> None:
        """Put every transition into the replay of its policy, in the order of the logs."""
        found = warm_fragments(self.sources, self.fragments, damaged=[], key=KEY)
        for policy, rows in _by_policy((fragment for _, fragment in found), self.policies):
            if policy in stores:
                stores[policy].add(rows)

    def sized(self, config: RunConfig) -> RunConfig:
        """The configuration with replays that hold all of the data, and updates that wait for nothing."""
        replay = ReplaySection.model_validate(
            {"capacity": max(self.transitions.values()), "min_size": 1, "samples_per_insert": "unlimited"}
        )
        return config.model_copy(update={"replay": replay})


def check_offline(config: RunConfig) -> None:
    """Refuse sections that mean nothing without env workers.

    Raises:
        ConfigError: naming the key.
    """
    refuse_prometheus(config)
    if config.league is not None:
        raise ConfigError(f"nobody plays in a run that learns from {KEY} alone, but [league] came: leave it out")
    plain = ReplaySection()
    for key in ReplaySection.model_fields:
        if getattr(config.replay, key) != getattr(plain, key):
            raise ConfigError(
                f"an offline run draws from all of {KEY} from its first update on, but replay.{key} = "
                f"{getattr(config.replay, key)!r} came: leave it out"
            )


def read_data(config: RunConfig, spec: EnvSpec, run: RunDirectory | None) -> OfflineData:
    """What the logs hold, after reading all of them once.

    Args:
        run: that is resumed, or None.

    Raises:
        ConfigError: a source is no run or does not fit, a policy would have nothing to learn from, or it is more than
            this machine has memory for. StorageError: a log that cannot be read, or holds less than when the run began.
    """
    import psutil

    sources = config.offline.data
    check_warm_start(sources, components.log_facts(config, spec, run.id if run else ""), KEY)
    size = sum(path.stat().st_size for source in sources for path in segments(Path(source) / "log"))
    if size > (free := psutil.virtual_memory().available):
        raise ConfigError(
            f"{KEY} needs about as much memory as its logs are long, {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are "
            "free here: name fewer runs, or take some of their episodes with distrl log mix"
        )
    plans = plan_policies(config, spec)
    policies = [""] * max(len(spec.agents), 1)
    for plan in plans:
        for agent in plan.agents:
            policies[agent] = plan.policy_id
    counts, transitions = [0] * len(sources), Counter[str]()
    episodes, damaged = EpisodeReturns(), list[str]()
    limits = run.facts.get("offline_fragments") if run else None

    def counted() -> Iterator[Fragment]:
        for index, fragment in warm_fragments(sources, limits, damaged=damaged, key=KEY):
            counts[index] += 1
            episodes.add(fragment)
            yield fragment

    learning = {plan.policy_id: plan for plan in plans if plan.frozen is None}
    for policy, rows in _by_policy(counted(), policies):
        if policy in learning:
            transitions[policy] += rows.num_transitions
    for plan in learning.values():
        if not transitions[plan.policy_id]:
            raise ConfigError(
                f"{KEY} needs transitions for every policy that learns, but holds none of what {plan.policy_id!r} acts "
                f"for{_named(spec, plan.agents)}: was a run frozen there, or did it keep no log (run.experience_log)?"
            )
    return OfflineData(sources, counts, policies, transitions, list(episodes.whole().values()), damaged)


def _named(spec: EnvSpec, agents: Sequence[int]) -> str:
    return f" ({', '.join(spec.agents[agent].name for agent in agents[:10])})" if spec.agents else ""


def _by_policy(fragments: Iterator[Fragment], policies: Sequence[str]) -> Iterator[tuple[str, Fragment]]:
    """(policy, rows) of every fragment, neighbouring rows of one policy together."""
    for fragment in fragments:
        owners = [policies[agent] for agent in fragment.columns["agent_index"].tolist()]
        start = 0
        for stop in range(1, len(owners) + 1):
            if stop == len(owners) or owners[stop] != owners[start]:
                yield owners[start], some_rows(fragment, start, stop)
                start = stop


def run_offline(
    config: RunConfig,
    run: RunDirectory,
    spec: EnvSpec,
    data: OfflineData,
    show: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Update each policy ``offline.updates`` times (or until ``run.wall_limit_s`` or ``stop``); returns the summary. On
    a CPU, the same data and seed give the same run."""
    run.note(offline_fragments=data.fragments)
    server = ParameterServer()
    learner = components.build_learner(data.sized(config), spec, run.path, server.publish, data.fill)
    num_policies = len(learner.trainers)
    period, total = config.evaluation.period * num_policies, config.offline.updates * num_policies
    chunk = max(period // 10, 1)
    recorder = Recorder(run.path, chunk, by_updates=True)
    recorder.updates_in_all = total
    recorder.began(learner.report(), {}, {})
    evaluation = LocalEvaluation(config, run, spec, server, recorder)
    started, started_cpu, shown = time.monotonic(), time.process_time(), 0.0

    def collect() -> None:
        now = {"cpu_s": time.process_time() - started_cpu, "training_s": learner.update_s}
        recorder.learner_reported(learner.report() | now)

    try:
        for note in (*data.damaged, *learner.notes):
            recorder.event("note", text=note)
        learner.publish()
        done = learner.num_updates
        limit_s, budget = config.run.wall_limit_s or math.inf, config.run.core_hours or math.inf
        while done < total and recorder.total_wall_s < limit_s and recorder.core_hours < budget and not stop():
            until = min(done // chunk * chunk + chunk, done // period * period + period, total)
            while learner.num_updates < until and learner.update():
                pass
            done = learner.num_updates
            collect()
            if done % period == 0 and done < total:
                learner.publish()
                evaluation.evaluate()
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                show(recorder.status())
                recorder.tick()
        learner.publish()
        if not stop():
            evaluation.evaluate()
        collect()
        learner.checkpoint()
        show(recorder.status())
        found = {
            "data_transitions": sum(data.transitions.values()),
            "data_episodes": len(data.returns),
            "data_return_mean": float(np.mean(data.returns)) if data.returns else None,
            "data_return_std": float(np.std(data.returns)) if data.returns else None,
        }
        return recorder.summary() | found | {"session_s": time.monotonic() - started}
    finally:
        recorder.close()
        learner.close()
        evaluation.close()
