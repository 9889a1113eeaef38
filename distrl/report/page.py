"""Facts of one or more runs in, one HTML page out that needs nothing else: no request leaves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from distrl.report.configuration import differing, groups
from distrl.report.facts import RunFacts
from distrl.report.learning import Group, learned
from distrl.report.sections import sections
from distrl.report.words import core_time, duration, escaped, number, share, table, value, whole

#: Nothing may be loaded, not even by mistake.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
_SEVERAL = {"sac": "SAC", "ppo": "PPO", "appo": "APPO", "impala": "IMPALA", "vdn": "VDN", "qmix": "QMIX"}
_SEVERAL |= {"masac": "MASAC", "bc": "behaviour cloning", "iql": "implicit Q-learning"}


def page(runs: Sequence[RunFacts]) -> str:
    """The document."""
    here = Path(__file__).parent
    found = grouped(runs)
    title = runs[0].env_id if len(runs) == 1 else f"{len(runs)} runs on {_environments(runs)}"
    parts = sections(found)
    links = "".join(f'<a href="#{part.anchor}">{escaped(part.title)}</a>' for part in parts)
    body = "".join(
        f'<section id="{part.anchor}"><h2>{escaped(part.title)}</h2>{part.content}</section>' for part in parts
    )
    folders = escaped(", ".join(str(run.path) for run in runs))
    head = _one(runs[0]) if len(runs) == 1 else _several(found)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escaped(title)} · distrl report</title>
<style>{(here / "page.css").read_text()}</style>
</head>
<body>
<nav class="top" aria-label="Sections"><div>{links}</div></nav>
<main>
<header>
<p class="over">distrl report · {time.strftime("%d %B %Y, %H:%M")}</p>
<h1>{escaped(title)}</h1>
{head}
</header>
{body}
</main>
<footer>Written by distrl report from {folders}. The page is complete in itself and loads nothing.</footer>
<script>{(here / "page.js").read_text()}</script>
</body>
</html>
"""


def grouped(runs: Sequence[RunFacts]) -> list[Group]:
    """Runs of one configuration together, named by what it has of its own."""
    options = [run.options for run in runs]
    members = groups(options)
    keys = differing(options)
    algorithms = [algorithm(runs[indices[0]]) for indices in members]
    found = []
    for place, indices in enumerate(members):
        names = ", ".join(runs[index].name for index in indices)
        label = names
        if 1 < len(members) == len(set(algorithms)):
            label = algorithms[place]
        elif 0 < len(keys) <= 3:
            label = ", ".join(_named(key, options[indices[0]].get(key)) for key in keys)
        if len(indices) > 1:
            label = f"{len(indices)} seeds" if label == names else f"{label} ({len(indices)} seeds)"
        found.append(Group(label, _COLOURS[place % len(_COLOURS)], tuple(runs[index] for index in indices)))
    return found


def _named(key: str, item: object) -> str:
    text = value(item).strip('"')
    return text if key in ("env.id", "algorithm.name") else f"{key.split('.')[-1]} {text}"


_COLOURS = (0, 1, 3, 4, 5, 6, 2, 7)


def _environments(runs: Sequence[RunFacts]) -> str:
    return ", ".join(dict.fromkeys(run.env_id for run in runs))


def _one(run: RunFacts) -> str:
    state = f'<span class="state {run.ending.kind.split()[0]}">{escaped(run.ending.kind)}</span>'
    policies = f" · {len(run.policies)} policies" if len(run.policies) > 1 else ""
    identity = f"{escaped(algorithm(run))}{policies} · run <b>{escaped(run.name)}</b> · seed {run.seed}"
    return f"""<p>{identity} &nbsp; {state}</p>
<p class="lede">{_lede(run)}</p>
{"" if run.ending.kind == "finished" else f'<p class="muted">{escaped(run.ending.sentence)}</p>'}
<dl class="figures">{"".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in _figures(run))}</dl>
{_comparison(run)}"""


def algorithm(run: RunFacts) -> str:
    """As people write it."""
    return _SEVERAL.get(run.algorithm, run.algorithm)


def _lede(run: RunFacts) -> str:
    rows = run.summary.get("comparison") or []
    if not rows:
        points = learned(run)
        if not len(points):
            return "No episode has ended and no evaluation was made yet."
        what = "held-out evaluations" if points is run.evaluations else "training episodes"
        return (
            f"The newest of its {len(points)} {what} returned <b>{number(points.value[-1], 4)}</b>, the best "
            f"<b>{number(points.value.max(), 4)}</b>. There is no final evaluation to compare it by."
        )
    policy, *others = rows
    text = (
        f"The policy returns <b>{number(policy['return_mean'], 4)}</b> ± {number(policy['return_std'], 2)} over "
        f"{policy['episodes']} episodes on held-out seeds"
    )
    told = [
        f"{escaped(row['who'])} {number(row['return_mean'], 4)}" for row in others if row["return_mean"] is not None
    ]
    data = run.summary.get("data_return_mean")
    if data is not None:
        told.append(f"the data it learned from {number(data, 4)}")
    return f"{text}; {', '.join(told)}." if told else f"{text}."


def _figures(run: RunFacts) -> list[tuple[str, str]]:
    found = [("updates", whole(run.updates)), ("wall time", _split(duration(run.wall_s)))]
    if not run.offline:
        found.insert(0, ("env steps", whole(run.env_steps)))
    found.append(("CPU time", _split(core_time(run.core_hours))))
    if run.busy is not None:
        found.append(("environments busy", _split(share(run.busy))))
    if isinstance(run.staleness, list):
        found.append(("staleness, median", f"{run.summary['staleness_p50']} <small>updates</small>"))
    if run.summary.get("updates_per_s"):
        found.append(("updates a second", number(run.summary["updates_per_s"])))
    return found


def _split(text: str) -> str:
    first, _, unit = text.partition(" ")
    return f"{first} <small>{unit}</small>"


def _comparison(run: RunFacts) -> str:
    """Everybody who played on the test seeds, on one scale."""
    rows = [row for row in run.summary.get("comparison") or [] if row["return_mean"] is not None]
    if len(rows) < 2:
        return ""
    ends = [(row["return_mean"] - row["return_std"], row["return_mean"] + row["return_std"]) for row in rows]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    span = high - low or 1.0
    fixed = {"who", "return_mean", "return_std", "episodes", "diverged"}
    extra = [name for name in rows[0] if name not in fixed]

    def place(at: float) -> str:
        return f"{2 + 96 * (at - low) / span:.1f}%"

    cells = []
    for index, (row, end) in enumerate(zip(rows, ends, strict=True)):
        colour = "c0" if index == 0 else "c1" if row["who"].startswith("best of") else "c7"
        mark = (
            f'<span class="range" style="color:var(--{colour})" aria-hidden="true">'
            f'<i style="left:{place(end[0])};width:{96 * (end[1] - end[0]) / span:.1f}%"></i>'
            f'<b style="left:{place(row["return_mean"])}"></b></span>'
        )
        who = f"<b>{escaped(row['who'])}</b>" if index == 0 else escaped(row["who"])
        cells.append(
            [who, number(row["return_mean"], 4), f"± {number(row['return_std'], 2)}", mark]
            + [number(row.get(name)) for name in extra]
            + [str(row["diverged"])]
        )
    names = [escaped(name.removeprefix("episode_").replace("_", " ")) for name in extra]
    head = ["", "return", "std", f"{number(low)} to {number(high)}", *names, "diverged"]
    return table(head, cells)


def _several(found: Sequence[Group]) -> str:
    rows = []
    for group in found:
        for run in group.runs:
            final, base = run.summary.get("final_return_mean"), run.summary.get("baseline_return")
            dot = f'<span class="key" style="display:inline"><i style="background:var(--c{group.colour})"></i></span>'
            rows.append(
                [
                    f"{dot}{escaped(run.name)}",
                    escaped(algorithm(run)),
                    str(run.seed),
                    f'<span class="state {run.ending.kind.split()[0]}">{escaped(run.ending.kind)}</span>',
                    f"<b>{number(final, 4)}</b>" if final is not None else "–",
                    number(base, 4),
                    number(run.summary.get("best_return_mean"), 4),
                    whole(run.env_steps),
                    whole(run.updates),
                    duration(run.wall_s),
                    core_time(run.core_hours),
                    share(run.busy),
                ]
            )
    head = ["run", "algorithm", "seed", "", "final return", "baseline", "best evaluation", "env steps", "updates"]
    return f'<p class="lede">{_best(found)}</p>' + table([*head, "wall time", "CPU time", "busy"], rows)


def _best(found: Sequence[Group]) -> str:
    """Who is ahead, by the mean of its runs' returns; only on one environment do they compare."""
    runs = [run for group in found for run in group.runs]
    if len({run.env_id for run in runs}) > 1:
        return "They are on different environments, so their returns do not compare."
    final = any(run.summary.get("final_return_mean") is not None for run in runs)
    key, what = ("final_return_mean", "Final return") if final else ("best_return_mean", "Best evaluation")
    means = []
    for group in found:
        returns = [one for run in group.runs if (one := run.summary.get(key)) is not None]
        if returns:
            means.append((sum(returns) / len(returns), min(returns), max(returns), len(returns), group.label))
    if not means:
        return "None of them has an evaluation on held-out seeds yet."
    means.sort(reverse=True)
    told = [
        f"<b>{escaped(label)}</b>: {number(mean, 4)}"
        + (f" ({number(low, 4)} to {number(high, 4)})" if many > 1 else "")
        for mean, low, high, many, label in means[:4]
    ]
    more = f", and {len(means) - 4} more below" if len(means) > 4 else ""
    return f"{what} on held-out seeds, best first: {'; '.join(told)}{more}."
