"""JSON lines can be followed while they grow and survive a torn tail; staleness fits in a histogram."""

import numpy as np

from distrl.core.metrics import JsonLines, read_json_lines
from distrl.core.staleness import StalenessHistogram


def test_numpy_and_infinite_values_become_plain_json(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write({"a": np.float32(0.5), "b": float("nan"), "c": np.arange(2), "d": {"e": np.int64(3)}})
    assert read_json_lines(tmp_path / "m.jsonl") == [{"a": 0.5, "b": None, "c": [0, 1], "d": {"e": 3}}]


def test_a_torn_line_costs_only_itself(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n{"n": ')
    lines = JsonLines(path)
    lines.write({"n": 3})
    assert [record["n"] for record in read_json_lines(path)] == [1, 2, 3]


def test_mean_is_exact_and_quantiles_are_upper_bin_edges():
    histogram = StalenessHistogram()
    values = np.random.default_rng(0).integers(0, 1000, 5000)
    histogram.add(1000, 1000 - values)
    assert histogram.mean == values.mean()
    assert sum(count for _, count in histogram.summary()["staleness_counts"]) == 5000
    exact = np.quantile(values, 0.95)
    assert exact <= histogram.quantile(0.95) <= 1.19 * exact + 1


def test_little_staleness_is_counted_exactly():
    """As it is of on-policy runs: 0 to 5 updates have bins of their own."""
    histogram = StalenessHistogram()
    histogram.add(7, np.repeat([7, 6, 4, 2], [60, 35, 4, 1]))
    summary = histogram.summary()
    assert summary["staleness_counts"] == [[0, 60], [1, 35], [3, 4], [5, 1]]
    found = [summary[f"staleness_{name}"] for name in ("p50", "p90", "p95", "p99", "max")]
    assert found == [0, 1, 1, 3, 5]
