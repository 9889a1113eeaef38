"""Each algorithm on small problems over three seeds against a stated return: real runs, ``make learn``."""

import json
from pathlib import Path

import pytest

from tests.learning.cases import CASES, Case
from tests.validation.conftest import machine

RUNS = [
    pytest.param(case, seed, id=f"{case.name}-{seed}", marks=[] if case.quick and seed == 0 else pytest.mark.slow)
    for seed in (0, 1, 2)
    for case in CASES
    if seed in case.seeds
]


@pytest.mark.parametrize(("case", "seed"), RUNS)
def test_the_return_is_what_it_should_be(case: Case, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    summary = case.run(seed, tmp_path / "run").summary
    found = summary["final_return_mean"]
    results = request.config.getoption("--results", default=None)
    if results is not None:
        line = {"case": case.name, "seed": seed, "return": found, "env_steps": summary["env_steps"]}
        line["machine"] = machine()
        with Path(results).open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert not summary["faults"]
    if case.unsolvable:
        assert found < case.goal
    else:
        assert found >= case.goal
