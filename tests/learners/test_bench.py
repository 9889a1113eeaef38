"""The benchmark prints what others read from it."""

import json

from distrl.learners import bench_images
from distrl.learners.bench import measure, multiplications
from distrl.learners.sac_config import Config


def test_one_line_with_the_figures():
    found = measure("cpu", threads=1, seconds=0.2, observation_size=3, num_actions=1, networks=["mlp"])
    figures = json.loads(json.dumps(found))
    assert figures["sac_updates_per_s"] > 0
    assert figures["plain_torch_updates_per_s"] > 0
    assert 0 < figures["sample_share_of_update"] < 1
    assert figures["share_of_floor"] > 0
    assert figures["machine"]


def test_the_floor_counts_the_products_of_an_update():
    config = Config(hidden=(256, 256), batch_size=256)
    square = 16 * 256**3  # of the layers between the hidden ones, which are most of it
    others = 256 * (3 * 20 * 256 + 4 * 256 * 8 + 8 * 24 * 256 + 12 * 256 + 2 * 256 * 4)
    assert multiplications(config, 20, 4) == square + others


def test_one_line_of_what_images_cost():
    figures = bench_images.measure(threads=1, seconds=0.1, minibatch_size=16, convolutions="small")
    assert figures["us_per_transition_and_epoch"] > figures["us_per_transition_before_the_epochs"] > 0
    assert set(figures["policy_step_us_per_row"]) == {"1", "16", "64"}
    # 16 filters of 8 × 8 × 4 at 20 × 20 places, 32 of 4 × 4 × 16 at 9 × 9, and 2592 × 256
    layers = (16 * 256 * 400, 32 * 256 * 81, 2592 * 256)
    assert bench_images.multiplications("small") == 2 * layers[0] + 3 * layers[1] + 3 * layers[2]
