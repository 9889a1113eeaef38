"""What the logs say of environments in, their timelines and the histograms of times and staleness as HTML out."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.report.charts import bar_chart, histogram
from distrl.report.experience import RECOVERY, RESET, STATES, STEP, WAIT, Timeline
from distrl.report.facts import Missing, RunFacts
from distrl.report.learning import Group
from distrl.report.parts import key_of, none, run_name
from distrl.report.words import duration, escaped, number, share, table

_STATE_NAMES = ("step", "waiting for its action", "reset", "failed, recovering")
_HELP = "Drag to zoom in, double-click for all; Ctrl and the wheel zoom too, as do + − ← → 0. ▴ marks a fault."
_MAX_MARKS = 2000


def environments(run: RunFacts, several: bool) -> str:
    if isinstance(run.experience, Missing):
        return run_name(run, several) + none(run.experience.reason)
    timeline, logged = run.experience.timeline, run.experience
    mean = timeline.shares.reshape(-1, len(STATES)).mean(0) / 255 if timeline.shares.size else np.zeros(len(STATES))
    lived = float(mean.sum()) or 1.0
    sentence = (
        f"{len(timeline.names)} environments over {duration(timeline.span_s)}: "
        f"{share(mean[STEP] / lived)} of their time in steps, {share(mean[WAIT] / lived)} waiting for an action, "
        f"{share(mean[RESET] / lived)} in resets, {share(mean[RECOVERY] / lived)} failed or recovering. "
        f"One bin is {duration(timeline.bin_s)}; where a pixel holds more, its column is divided in shares."
    )
    if timeline.omitted:
        sentence += f" Of {timeline.omitted + len(timeline.names)} environments these are shown, evenly chosen."
    if timeline.pauses:
        sentence += (
            f" A dark line: the run was interrupted there ({', '.join(duration(s) for _, s in timeline.pauses[:6])})."
        )
    rows = []
    for index, name in enumerate(timeline.names):
        shares = timeline.shares[index].mean(0) / 255
        total = float(shares.sum()) or 1.0
        count = sum(fault.environment == index for fault in timeline.faults)
        rows.append([name, *(share(float(part) / total) for part in shares), str(count)])
    told = table(["environment (worker.number)", *_STATE_NAMES, "faults"], rows)
    damage = "".join(none(sentence) for sentence in logged.damaged[:3])
    states = [(f"var(--{name})", text) for name, text in zip(STATES, _STATE_NAMES, strict=True)]
    states.append(("var(--gone)", "not there"))
    content = f"""<p class="muted">{escaped(sentence)}</p>{damage}
<div class="timeline"><div class="tools">{key_of(states)}<output></output>
<button data-act="left" aria-label="earlier">←</button><button data-act="right" aria-label="later">→</button>
<button data-act="out" aria-label="zoom out">−</button><button data-act="in" aria-label="zoom in">+</button>
<button data-act="all">all</button></div>
<canvas class="overview" role="img" aria-label="What all environments did; click to move the view"></canvas>
<canvas class="lanes" tabindex="0" role="img" aria-label="{escaped(sentence)}"></canvas>
<script type="application/json">{_packed(timeline)}</script></div>
<p class="muted">{_HELP}</p>
<details><summary>Each environment in numbers</summary>{told}</details>"""
    return f"<details><summary>{escaped(run.name)}</summary>{content}</details>" if several else content


def _packed(timeline: Timeline) -> str:
    """What the page's script draws: the shares as deflated bytes."""
    marks = [[fault.environment, round(fault.at_s, 3), fault.kind] for fault in timeline.faults[:_MAX_MARKS]]
    return json.dumps(
        {
            "names": timeline.names,
            "states": _STATE_NAMES,
            "span": timeline.span_s,
            "bin": timeline.bin_s,
            "bins": timeline.shares.shape[1],
            "pauses": timeline.pauses,
            "faults": marks,
            "shares": base64.b64encode(zlib.compress(timeline.shares.tobytes(), 6)).decode(),
        }
    ).replace("<", "\\u003c")


def times(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    charts = [_staleness(groups), _step_times(groups), _waits(groups)]
    several = len(runs) > 1
    reasons = [
        f"{run.name}: {run.staleness.reason}" if several else run.staleness.reason
        for run in runs
        if isinstance(run.staleness, Missing)
    ]
    unlogged = [run.name for run in runs if isinstance(run.experience, Missing)]
    if unlogged:
        of = f" of {', '.join(unlogged)}" if several else ""
        reasons.append(f"The times of steps and waits{of} are in no experience log, for the reason above.")
    shown = f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""
    key = key_of([(f"var(--c{group.colour})", group.label) for group in groups]) if several else ""
    return key + shown + "".join(none(reason) for reason in dict.fromkeys(reasons))


def _staleness(groups: Sequence[Group]) -> str:
    found = []  # (label, colour, counts): of each group, or of each policy of a run that is alone
    for group in groups:
        counts: dict[int, int] = {}
        for run in group.runs:
            for most, count in run.staleness if isinstance(run.staleness, list) else ():
                counts[most] = counts.get(most, 0) + count
        if counts:
            found.append((group.label, group.colour, counts))
    if not found:
        return ""
    policies: dict[str, Any] = {}
    if len(groups) == len(groups[0].runs) == 1:
        policies = groups[0].runs[0].summary.get("staleness_by_policy", {})
        by_policy = enumerate(policies.items())
        found = [(name, colour, dict(its["staleness_counts"])) for colour, (name, its) in by_policy] or found
    bins = sorted({most for _, _, counts in found for most in counts})
    shares = [
        (label, colour, np.array([counts.get(most, 0) for most in bins], np.float64)) for label, colour, counts in found
    ]
    told = []
    for label, _, values in shares:
        up_to = np.cumsum(values) / max(values.sum(), 1)
        half, most = (bins[min(int(np.searchsorted(up_to, q)), len(bins) - 1)] for q in (0.5, 0.99))
        told.append(f"{label}: half at most {half}, 99 % at most {most}")
    chart = bar_chart(
        [number(most) for most in bins],
        shares if len(shares) > 1 else [("share of transitions", 0, shares[0][2])],
        title="Staleness of what was trained on",
        says=f"Histogram of staleness in updates. {'; '.join(told)}.",
        x_label="updates since the policy that acted, at most",
    )
    return key_of([(f"var(--c{colour})", name) for name, colour, _ in shares]) + chart if policies else chart


def _step_times(groups: Sequence[Group]) -> str:
    found: list[tuple[str, int, np.ndarray]] = []
    for group in groups:
        logged = [run.experience for run in group.runs if not isinstance(run.experience, Missing)]
        levels = list(dict.fromkeys(level for experience in logged for level in experience.step_s))
        if len(groups) == 1 and len(levels) > 1:
            for index, level in enumerate(levels):
                times = [experience.step_s[level] for experience in logged if level in experience.step_s]
                found.append((level, (0, 1, 3, 4, 5, 6)[index % 6], np.concatenate(times)))
        elif levels:
            times = [times for experience in logged for times in experience.step_s.values()]
            found.append((group.label if len(groups) > 1 else "share of steps", group.colour, np.concatenate(times)))
    return _logarithmic(found, "Step times", "time of a step")


def _waits(groups: Sequence[Group]) -> str:
    found = []
    for group in groups:
        waits = [run.experience.wait_s for run in group.runs if not isinstance(run.experience, Missing)]
        if waits and sum(map(len, waits)):
            found.append((group.label if len(groups) > 1 else "share of waits", group.colour, np.concatenate(waits)))
    return _logarithmic(found, "Waits for an action", "from the end of a step to the next one's beginning")


def _logarithmic(samples: Sequence[tuple[str, int, np.ndarray]], title: str, x_label: str) -> str:
    times = [(label, colour, np.maximum(values, 1e-6)) for label, colour, values in samples if len(values)]
    if not times:
        return ""
    low, high = min(float(values.min()) for *_, values in times), max(float(values.max()) for *_, values in times)
    edges = np.geomspace(low / 1.2, max(high, low * 1.5) * 1.2, 41)
    told = [
        f"{label}: half at most {duration(float(np.median(values)))}, 99 % at most "
        f"{duration(float(np.quantile(values, 0.99)))}, the longest {duration(float(values.max()))}"
        for label, _, values in times
    ]
    counts = [(label, colour, np.histogram(values, edges)[0]) for label, colour, values in times]
    chart = histogram(
        edges, counts, title=title, says=f"{title}. {'; '.join(told)}.", x_label=x_label, x_format=duration
    )
    note = "<br>".join(
        escaped(text.removeprefix("share of steps: ").removeprefix("share of waits: ")) for text in told[:6]
    )
    return chart.replace("</figure>", f'<p class="muted" style="font-size:12.5px">{note}</p></figure>')
