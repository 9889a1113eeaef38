"""docs/algorithms.md says what the recorded runs gave."""

from tests.learning import report


def test_the_table_is_what_the_results_give():
    text = report.PAGE.read_text()
    assert text == report.page(text, report.load()), "run: python -m tests.learning.report"
