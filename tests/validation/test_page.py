"""docs/validation.md is what the recorded results give, and every validation test has one."""

import ast
from pathlib import Path

from tests.validation import report
from tests.validation.conftest import RESULTS


def test_the_page_is_what_the_results_give() -> None:
    assert report.PAGE.read_text() == report.page(report.load()), "run: python -m tests.validation.report"


def test_every_validation_test_has_a_result() -> None:
    tests = {
        node.name.removeprefix("test_")
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and any(argument.arg == "confirm" for argument in node.args.args)
    }
    assert tests == {path.stem.split("[")[0] for path in RESULTS.glob("*.json")}, "run: make validate"
