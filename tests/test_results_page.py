"""docs/results.md says what the committed runs gave."""

from benchmarks import learned


def test_the_page_is_what_the_results_give():
    assert learned.PAGE.read_text() == learned.page(), "run python benchmarks/learned.py --page"
