"""Runs in; who beat whom, films, configurations and identities as HTML out."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

import numpy as np

from distrl.report.charts import point_chart
from distrl.report.configuration import differing
from distrl.report.facts import Missing, RunFacts
from distrl.report.league import Standing, some, version
from distrl.report.parts import none, run_name
from distrl.report.words import escaped, table, value

_MAX_FACED = 24  # players in a table of who beat whom
_MAX_FILMS = 4


def league(run: RunFacts, several: bool) -> str:
    if run.league is None:
        return ""
    if isinstance(run.league, Missing):
        return run_name(run, several) + none(run.league.reason)
    found, shown = run.league, some(len(run.league.names), _MAX_FACED)
    names = [found.names[index] for index in shown]
    rows = []
    for i in shown.tolist():
        cells = ""
        for j in shown.tolist():
            rate = found.rates[i, j]
            if np.isnan(rate):
                cells += '<td style="background:var(--wash)"></td>'
                continue
            colour, strength = ("--c0" if rate >= 0.5 else "--c1"), abs(rate - 0.5) * 150
            tint = f"color-mix(in srgb, var({colour}) {strength:.0f}%, var(--wash))"
            title = f"{found.names[i]} against {found.names[j]}: {found.matches[i, j]:.0f} matches"
            cells += f'<td style="background:{tint}" title="{escaped(title)}">{100 * rate:.0f}</td>'
        rows.append(f'<tr><th scope="row">{escaped(found.names[i])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    omitted = len(found.names) - len(names)
    told = "How often the row beat the column, in per cent, a draw as half."
    told += f" {omitted} more players are not shown." if omitted else ""
    matrix = f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    matrix = f'<div class="scroll">{matrix}</div>'
    return f'{run_name(run, several)}<p class="muted">{told}</p>{matrix}<div class="charts">{_ratings(found)}</div>'


def _ratings(found: Standing) -> str:
    newest = max((version(name) or 0 for name in found.names), default=0)
    policies = list(dict.fromkeys(name.split(":")[0] for name in found.names))
    points = []
    for index, policy in enumerate(policies):
        its = [
            k
            for k, name in enumerate(found.names)
            if name.split(":")[0] == policy and not np.isnan(found.ratings.rating[k])
        ]
        at = np.array(
            [1.06 * newest if version(found.names[k]) is None else version(found.names[k]) for k in its], np.float64
        )
        points.append((policy, (0, 1, 3, 4, 5, 6)[index % 6], at, found.ratings.rating[its], found.ratings.error[its]))
    ordered = np.argsort(np.where(np.isnan(found.ratings.rating), -np.inf, found.ratings.rating))[::-1]
    best = found.ratings.names[int(ordered[0])]
    return point_chart(
        points,
        title=f"Elo above {found.anchor}, ± standard error",
        says=f"Elo of {len(found.names)} players against the updates of their policies; {best} is rated highest.",
        x_label="updates of the policy (rightmost: still learning)",
    )


def films(runs: Sequence[RunFacts]) -> str:
    content, shown = "", 0
    for run in runs:
        content += run_name(run, len(runs) > 1)
        if isinstance(run.film, Missing):
            content += none(run.film.reason)
        elif shown == _MAX_FILMS:
            content += none(
                f"Left out, to keep this page small: {run.film.path}. At most {_MAX_FILMS} films are embedded."
            )
        else:
            shown += 1
            content += _film(run)
    return content


def _film(run: RunFacts) -> str:
    assert not isinstance(run.film, Missing)
    path = run.film.path
    data = base64.b64encode(path.read_bytes()).decode()
    label = f"One episode of the best policy of {run.name}"
    if path.suffix == ".gif":
        return f'<img class="film" alt="{escaped(label)}" src="data:image/gif;base64,{data}">'
    still = path.with_suffix(".png")
    poster = ""
    if still.exists() and still.stat().st_size < 500_000:
        poster = f' poster="data:image/png;base64,{base64.b64encode(still.read_bytes()).decode()}"'
    source = f'src="data:video/mp4;base64,{data}"'
    options = "controls loop muted playsinline preload=metadata"
    return f'<video {options} aria-label="{escaped(label)}"{poster} {source}></video>'


def configuration(runs: Sequence[RunFacts]) -> str:
    content = ""
    if len(runs) > 1:
        keys = differing([run.options for run in runs])
        if keys:
            names = [f"<code>{escaped(key)}</code>" for key in keys]
            rows = [[escaped(run.name), *(_code(run.options.get(key)) for key in keys)] for run in runs]
            content += "<h3>What differs between the runs</h3>" + table(["run", *names], rows, numbers=False)
        else:
            content += "<p>The runs differ in nothing but seed and folder.</p>"
    first = runs[0]
    changed = {key: pair for key, pair in first.changed.items() if key != "run.out"}
    rows = [[f"<code>{escaped(key)}</code>", _code(new), _code(old)] for key, (new, old) in changed.items()]
    title = "What is not the default" if len(runs) == 1 else f"What is not the default in {escaped(first.name)}"
    content += f"<h3>{title}</h3>{table(['key', 'value', 'default'], rows, numbers=False)}"
    for run in runs[:12]:
        lines = "\n".join(f"{escaped(key)} = {escaped(value(one))}" for key, one in run.options.items())
        of = f" of {escaped(run.name)}" if len(runs) > 1 else ""
        content += f"<details><summary>Everything{of}</summary><pre>{lines}</pre></details>"
    return content


def _code(item: object) -> str:
    return f"<code>{escaped(value(item))}</code>"


def identity(runs: Sequence[RunFacts]) -> str:
    content = ""
    for run in runs:
        rows = [
            ["run", f"<code>{escaped(run.id)}</code>"],
            ["folder", f"<code>{escaped(run.path)}</code>"],
            ["begun", time.strftime("%d %B %Y, %H:%M:%S", time.localtime(run.created_s))],
            ["sessions", f"{run.sessions}" + (" (resumed)" if run.sessions > 1 else "")],
            ["how it ended", escaped(run.ending.sentence)],
        ]
        content += run_name(run, len(runs) > 1) + table(["", ""], rows, numbers=False)
        if run.notes:
            notes = "".join(f"<li>{escaped(note)}</li>" for note in list(dict.fromkeys(run.notes))[-30:])
            content += f"<details><summary>What the run noted ({len(run.notes)})</summary><ul>{notes}</ul></details>"
    return content
