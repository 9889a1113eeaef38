"""A short run on the fin ray leaves what `make train` promises: curve, film, and a table against the best sinusoid."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest

import distrl
from distrl import baseline
from distrl.core.config import RunConfig
from distrl.envs.fluids import sinusoid


def config(out, *overrides):
    return RunConfig.load(
        "fin-ray",
        [
            f"run.out={out}",
            "run.steps=300",
            "env.fidelity=smoke",
            "env.kwargs={episode_steps=60}",
            "actors.envs_per_worker=2",
            "algorithm.hidden=[16]",
            "algorithm.batch_size=32",
            "replay.min_size=100",
            "replay.samples_per_insert=4",
            "evaluation.period=150",
            "evaluation.episodes=1",
            "evaluation.final_episodes=2",
            *overrides,
        ],
    )


@pytest.fixture
def small_grid(monkeypatch):
    chosen = [{"amplitude": 0.0, "phase": 0.0}, {"amplitude": 3.0, "phase": 1.57}, {"amplitude": 3.0, "phase": 4.7}]
    monkeypatch.setattr(sinusoid, "baseline_candidates", lambda env_kwargs: chosen)


def test_a_run_is_compared_with_the_best_sinusoid_and_with_doing_nothing(tmp_path, small_grid, monkeypatch):
    settings = config(tmp_path / "run")
    settings.run.wall_limit_s = None  # a clock must not decide in one process
    document = baseline.search(settings, episodes=1, show=lambda number, total, entry: None)
    assert document["table"][0]["params"] == {"amplitude": 3.0, "phase": 1.57}
    baseline.store(document, tmp_path / "table.json")
    monkeypatch.setattr(baseline, "table_path", lambda config: tmp_path / "table.json")
    result = distrl.train(settings, local=True)
    rows = {row["who"]: row for row in result.summary["comparison"]}
    assert list(rows) == ["policy", "best of 3 sinusoids", "doing nothing", "random actions"]
    assert rows["random actions"]["return_mean"] == result.summary["random_return"]
    assert result.summary["baseline_return"] > result.summary["nothing_return"]
    assert rows["best of 3 sinusoids"]["episode_C_T"] > rows["doing nothing"]["episode_C_T"]
    assert json.loads((result.directory / "summary.json").read_text())["comparison"] == result.summary["comparison"]
    assert (result.directory / "learning_curve.png").exists()
    frames = imageio.imread(result.directory / "media" / "film.mp4")
    assert len(frames) == 61
    assert np.ptp(frames[0]) > 100  # not an empty picture
    assert not np.array_equal(frames[5], frames[40])


def test_the_shipped_table_is_found_by_the_settings_it_was_made_with():
    found = baseline.find_table(RunConfig.load("fin-ray"))
    assert found is not None
    assert found["num_candidates"] > 50
    other = RunConfig.load("fin-ray", ["env.kwargs={episode_steps=60}"])
    assert baseline.find_table(other) is None
