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
    exact = np.quantile(values, 0.95)
    assert exact <= histogram.quantile(0.95) <= 1.19 * exact + 1
