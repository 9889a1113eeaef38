"""Groups of runs in, the sections of their page as HTML out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distrl.core.accounting import Accounts
from distrl.report import about, times
from distrl.report.charts import thinned
from distrl.report.facts import Missing, RunFacts
from distrl.report.learning import Group, learning_charts, policy_chart, references
from distrl.report.parts import Part, key_of, none, run_name
from distrl.report.points import Points
from distrl.report.words import core_time, duration, escaped, number, share, table, whole


def sections(groups: Sequence[Group]) -> list[Part]:
    """All that these runs have something to say in."""
    runs = [run for group in groups for run in group.runs]
    found = [
        Part("learning", "Learning", _learning(groups)),
        Part("environments", "Environments", "".join(times.environments(run, len(runs) > 1) for run in runs)),
        Part("times", "Staleness and step times", times.times(groups)),
        Part("cost", "Cost", _cost(runs)),
        Part("outcomes", "Outcomes", _outcomes(runs)),
    ]
    if any(run.league is not None for run in runs):
        found.append(Part("league", "League", "".join(about.league(run, len(runs) > 1) for run in runs)))
    found.append(Part("film", "Film", about.films(runs)))
    found.append(Part("configuration", "Configuration", about.configuration(runs)))
    found.append(Part("identity", "Identity", about.identity(runs)))
    return found


# -- learning ----------------------------------------------------------------------------------------------------------


def _learning(groups: Sequence[Group]) -> str:
    """Returns of two environments do not compare: each has charts of its own."""
    by_env: dict[str, list[Group]] = {}
    for group in groups:
        by_env.setdefault(group.runs[0].env_id, []).append(group)
    if len(by_env) == 1:
        return _curves(groups)
    return "".join(f"<h3>{escaped(env)}</h3>{_curves(its, alone=False)}" for env, its in by_env.items())


def _curves(groups: Sequence[Group], alone: bool = True) -> str:
    runs = [run for group in groups for run in group.runs]
    alone = alone and len(runs) == 1
    charts = learning_charts(groups, alone)
    if not charts:
        return none("There is no curve yet: no episode has ended and no evaluation was made.")
    if alone:
        key = [("var(--c0)", "held-out evaluation (mean of its seeds)")] if len(runs[0].evaluations) else []
        key += [("var(--c2)", "training episodes")] if runs[0].episodes else []
        key += [("var(--c7)", "training at other fidelities")] if len(runs[0].episodes) > 1 else []
    else:
        key = [(f"var(--c{group.colour})", group.label) for group in groups]
    bands = any(len(group.runs) > 1 for group in groups)
    told = " Of several seeds: the median, with the range from the lowest to the highest." if bands else ""
    lacking = [run.name for run in runs if not len(run.evaluations)]
    if lacking and alone:
        told += " No held-out evaluation was made."
    elif lacking:
        told += f" Of {', '.join(lacking)} there is no held-out evaluation; training returns are shown."
    key += [(f"var(--c{colour})", label) for label, _, colour, _ in references(runs)]
    several = "".join(policy_chart(run) for run in runs if run.policy_episodes) if alone else ""
    evaluated = [run for run in runs if len(run.evaluations)]
    numbers = "".join(run_name(run, not alone) + _in_numbers(run.evaluations) for run in evaluated[:12])
    more = f"<details><summary>The evaluations in numbers</summary>{numbers}</details>" if numbers else ""
    drawn = f'<div class="charts">{"".join(charts)}{several}</div>'
    return f'<p class="muted">Episode return.{escaped(told)}</p>{key_of(key)}{drawn}{more}'


def _in_numbers(points: Points) -> str:
    rows = [
        [
            number(points.value[k], 4),
            whole(points.env_steps[k]),
            number(points.updates[k]),
            duration(points.wall_s[k]),
            core_time(points.core_hours[k]),
        ]
        for k in thinned(len(points), 40).tolist()
    ]
    return table(["return", "env steps", "updates", "wall time", "CPU time"], rows)


# -- cost and outcomes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    """Attributes: name: of the run. parts: (name, colour, amount). sentence: what the whole is."""

    name: str
    parts: list[tuple[str, str, float]]
    sentence: str


def _bars(bars: Sequence[_Bar], scaled: bool) -> str:
    """A bar of each run, with one key; ``scaled``: their lengths compare too."""
    most = max((sum(amount for *_, amount in bar.parts) for bar in bars), default=0.0) or 1.0
    several, content, key = len(bars) > 1, "", dict[str, str]()
    for bar in bars:
        total = sum(amount for *_, amount in bar.parts) or 1.0
        told = "; ".join(f"{name} {share(amount / total)}" for name, _, amount in bar.parts if amount)
        pieces = "".join(
            f'<i style="width:{100 * amount / (most if scaled else total):.2f}%;background:{colour}"></i>'
            for _, colour, amount in bar.parts
            if amount
        )
        drawn = f'<div class="stack" role="img" aria-label="{escaped(told)}" title="{escaped(told)}">{pieces}</div>'
        label = f"<span>{escaped(bar.name)}</span>" if several else ""
        content += f'<div class="bar">{label}{drawn}<span class="muted">{escaped(bar.sentence)}</span></div>'
        shares = {name: "" if several else f" {share(amount / total)}" for name, _, amount in bar.parts if amount}
        key |= {name + shares[name]: colour for name, colour, amount in bar.parts if amount}
    return key_of([(colour, name) for name, colour in key.items()]) + f'<div class="bars">{content}</div>'


_WHO = {"environments": "var(--c0)", "env workers": "var(--c5)", "learner": "var(--c1)"}


def _cost(runs: Sequence[RunFacts]) -> str:
    several = len(runs) > 1
    bars = [
        _Bar(run.name, [(who, _WHO[who], hours) for who, hours in run.cost.items()], core_time(run.core_hours))
        for run in runs
        if run.cost
    ]
    content = _bars(bars, scaled=True) if bars else ""
    lacking = [run.name for run in runs if not run.cost]
    if lacking:
        content += none(f"No CPU time is recorded ({', '.join(lacking)}): timing.jsonl has no totals yet.")
    rows = [
        [
            escaped(run.name),
            *(core_time(run.cost.get(who, 0.0)) for who in _WHO),
            core_time(run.core_hours),
            core_time(run.core_hours / run.env_steps * 1000) if run.env_steps else "–",
        ]
        for run in runs
    ]
    totals = table(["run", *_WHO, "in all", "per 1000 env steps"], rows)
    levels = [
        [
            escaped(level.name) + (f" ({escaped(run.name)})" if several else ""),
            whole(level.env_steps),
            core_time(level.core_hours),
            duration(level.core_hours * 3600 / level.env_steps) if level.env_steps else "–",
        ]
        for run in runs
        for level in run.levels
    ]
    fidelities = table(["fidelity", "env steps", "CPU time of environments", "a step"], levels) if levels else ""
    told = "CPU time over all sessions, without a GPU's, and without evaluations in processes of their own."
    if any(run.one_process for run in runs):
        told += " In a run of one process, the learner's is all that was not the environments', evaluations included."
    return f'<p class="muted">{told}</p>{content}{totals}{fidelities}'


def _outcomes(runs: Sequence[RunFacts]) -> str:
    trained = [run for run in runs if not run.offline]
    content = "".join(none(_data(run, len(runs) > 1)) for run in runs if run.offline)
    if not trained:
        return content
    names = [escaped(run.name) if len(runs) > 1 else "times" for run in trained]
    tables = table(["what happened", *names], _happened(trained))
    balanced = [run for run in trained if not isinstance(run.outcomes.accounts, Missing)]
    bars = [
        _balance(run.name, run.outcomes.accounts) for run in balanced if isinstance(run.outcomes.accounts, Accounts)
    ]
    names = [escaped(run.name) if len(runs) > 1 else "" for run in balanced]
    accounts = _bars(bars, scaled=False) + table(["transitions", *names], _states(balanced)) if balanced else ""
    for run in trained:
        if isinstance(run.outcomes.accounts, Missing):
            accounts += none((f"{run.name}: " if len(runs) > 1 else "") + run.outcomes.accounts.reason)
    told = "<h3>Where each transition went</h3>"
    return f'{content}<div class="pair"><div><h3>What happened</h3>{tables}</div><div>{told}{accounts}</div></div>'


def _data(run: RunFacts, several: bool) -> str:
    """What there is instead of outcomes of its own."""
    told = f"{run.name}: no" if several else "No"
    told += " environment trained, so there are no episodes, faults or transitions of its own."
    if "data_transitions" in run.summary:
        transitions, whole_ones = (whole(run.summary[f"data_{name}"]) for name in ("transitions", "episodes"))
        told += f" It learned from {transitions} transitions with {whole_ones} whole episodes."
    return told


def _happened(runs: Sequence[RunFacts]) -> list[list[str]]:
    """Rows: what, and how often in each run."""
    found = [run.outcomes for run in runs]
    rows: list[list[str]] = [["episodes that ended", *(whole(one.episodes) for one in found)]]
    for name, counts in (
        ("terminated", [one.terminated for one in found]),
        ("truncated", [one.truncated for one in found]),
    ):
        if any(count is not None for count in counts):
            rows.append([name, *("–" if count is None else whole(count) for count in counts)])
    rows.append(["diverged, by the environment's own guard", *(whole(one.diverged) for one in found)])
    for what, counters in (("fault", [one.faults for one in found]), ("restart", [one.restarts for one in found])):
        for kind in dict.fromkeys(kind for counter in counters for kind, _ in counter.most_common()):
            text = escaped(kind.replace("_", " "))
            rows.append([f"{what}: {text}", *(whole(counter[kind]) for counter in counters)])
        if not any(counters):
            rows.append([f"{what}s", *("0" for _ in found)])
    rows.append(["steps computed again", *(whole(one.recomputed) for one in found)])
    return rows


_ACCOUNTS = {"trained": "var(--c0)", "queued": "var(--c2)", "evicted": "var(--c5)", "rejected": "var(--bad)"}


def _in_states(found: Accounts) -> dict[str, int]:
    rejected = sum(found.rejected.values())
    return {"trained": found.trained, "queued": found.queued, "evicted": found.evicted, "rejected": rejected}


def _balance(name: str, found: Accounts) -> _Bar:
    """Where each transition of a run went."""
    parts = [(state, _ACCOUNTS[state], float(count)) for state, count in _in_states(found).items()]
    identity = f"produced{' + from other runs' if found.warm else ''} = trained + queued + evicted + rejected"
    told = f"{identity}: {whole(found.produced + found.warm)}, each in one state."
    if found.difference:
        told = f"{identity} does not hold: {whole(found.difference)} transitions are in no state, or in two."
    return _Bar(name, parts, told)


def _states(runs: Sequence[RunFacts]) -> list[list[str]]:
    """Rows: a state, and how many transitions of each run are in it."""
    found = [run.outcomes.accounts for run in runs if not isinstance(run.outcomes.accounts, Missing)]
    rows: list[list[str]] = [["produced", *(whole(one.produced) for one in found)]]
    if any(one.warm for one in found):
        rows.append(["from other runs", *(whole(one.warm) for one in found)])
    rows += [[name, *(whole(_in_states(one)[name]) for one in found)] for name in _ACCOUNTS]
    for reason in dict.fromkeys(reason for one in found for reason in one.rejected):
        text = f"&emsp;because {escaped(reason.replace('_', ' '))}"
        rows.append([text, *(whole(one.rejected.get(reason, 0)) for one in found)])
    rows.append(["came twice, left out", *(whole(run.outcomes.duplicates) for run in runs)])
    rows.append(["committed and lost", *(whole(run.outcomes.lost) for run in runs)])
    return rows
