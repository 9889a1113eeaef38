"""The benchmark prints what others read from it."""

import json

from distrl.learners.bench import measure


def test_one_line_with_the_figures():
    figures = json.loads(json.dumps(measure("cpu", threads=1, seconds=0.2, observation_size=3, num_actions=1)))
    assert figures["sac_updates_per_s"] > 0
    assert figures["plain_torch_updates_per_s"] > 0
    assert 0 < figures["sample_share_of_update"] < 1
    assert figures["machine"]
