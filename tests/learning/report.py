"""What ``make learn`` measured flows in, the table of docs/algorithms.md flows out:  python -m tests.learning.report"""

import json
from pathlib import Path
from typing import Any

from tests.learning.cases import CASES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "learning.json"
PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"

_BEGIN, _END = "<!-- what follows is written by tests/learning/report.py -->\n", "<!-- up to here -->\n"
_HEAD = "| algorithm | problem | env steps | has to reach | because | returns by seed |\n|---|---|---|---|---|---|\n"


def load() -> list[dict[str, Any]]:
    """The newest line of each run."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return list({(line["case"], line["seed"]): line for line in lines}.values())


def table(lines: list[dict[str, Any]]) -> str:
    """One row a case."""
    found = {(line["case"], line["seed"]): line["return"] for line in lines}
    rows = []
    for case in CASES:
        returns = [found.get((case.name, seed)) for seed in case.seeds]
        wanted = f"{'< ' if case.unsolvable else '≥ '}{_number(case.goal)}"
        rows.append(
            f"| {case.algorithm}{'' if case.local else ', on Ray'} | {case.problem} | {case.steps:,} | {wanted} | "
            f"{case.source} | {', '.join('not run' if value is None else _number(value) for value in returns)} |\n"
        )
    machines = " and ".join(sorted({line["machine"] for line in lines}))
    return f"{_HEAD}{''.join(rows)}\nMeasured on {machines}.\n"


def page(text: str, lines: list[dict[str, Any]]) -> str:
    """The page with the table of these lines."""
    before, rest = text.split(_BEGIN)
    return before + _BEGIN + table(lines) + _END + rest.split(_END)[1]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


if __name__ == "__main__":
    kept = sorted(load(), key=lambda line: (line["case"], line["seed"]))
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in kept))
    PAGE.write_text(page(PAGE.read_text(), kept))
    print(f"wrote {PAGE}")
