"""The reports of a run's learners flow in, one report of them all flows out; numbers only, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from distrl.core.histogram import LogHistogram
from distrl.core.staleness import StalenessHistogram

_SUMS = ("sampled", "unsampled", "evicted", "replay_size", "inserted", "warm", "duplicates", "update_s", "cpu_s")


def together(reports: Sequence[dict[str, Any]], mode: str) -> dict[str, Any]:
    """What the learners have done together; where nothing else makes sense, what the first one says.

    Args:
        reports: of ``LearnerActor.report``, by rank.
        mode: of learner.mode. all_reduce: an update is everybody's; parameter_server: each has its own.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    staleness, step_s = StalenessHistogram(), Counter[float]()
    for report in reports:
        staleness.include(LogHistogram.of(report["staleness_counts"], report["staleness_mean"]))
        step_s.update(dict(report["step_s_counts"]))
    updates = [report["updates"] for report in reports]
    waits = [report["waits_for"] for report in reports]
    return first | {
        **{name: sum(report[name] for report in reports) for name in _SUMS},
        "updates": sum(updates) if mode == "parameter_server" else min(updates),
        "version": max(report["version"] for report in reports),
        "secured": dict(sum((Counter(report["secured"]) for report in reports), Counter[int]())),
        "rejected": dict(sum((Counter(report["rejected"]) for report in reports), Counter[str]())),
        **staleness.summary(),
        "step_s_counts": [[most, count] for most, count in sorted(step_s.items())],
        "waits_for": None if None in waits else "; ".join(f"learner {rank}: {what}" for rank, what in enumerate(waits)),
        "training_s": max(report["training_s"] for report in reports),
        "running": any(report["running"] for report in reports),
    }
