"""The whole dataflow in one process: deterministic, resumable, and every transition accounted for."""

import json
import threading

import numpy as np
import pytest

import distrl
from distrl import api, plots
from distrl.api import train
from distrl.core.checkpoint import list_checkpoints
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, DistrlError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.envs import resolve
from distrl.reproduce import reproduce


def small(out, *overrides):
    return RunConfig.load(
        "sac",
        [
            f"run.out={out}",
            "run.steps=600",
            "env.max_episode_steps=50",
            "actors.envs_per_worker=2",
            "actors.env_workers=2",
            "actors.fragment_steps=10",
            "algorithm.hidden=[16]",
            "algorithm.batch_size=32",
            "replay.min_size=100",
            "replay.samples_per_insert=16",
            "evaluation.period=200",
            "evaluation.episodes=2",
            "evaluation.final_episodes=2",
            "checkpoint.period=100",
            *overrides,
        ],
    )


def balanced(summary, agents=1):
    rejected = sum(summary["transitions_rejected"].values())
    states = summary["transitions_trained"] + summary["transitions_queued"] + summary["transitions_evicted"] + rejected
    produced = summary["transitions_produced"]
    return produced + summary["transitions_warm"] == states and produced == agents * summary["env_steps"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "first"
    return distrl.train(small(out), local=True)


def test_the_same_seed_gives_the_same_metrics_byte_for_byte(finished, tmp_path):
    again = distrl.train(small(tmp_path / "again"), local=True)
    first = (finished.directory / "metrics.jsonl").read_bytes()
    assert (again.directory / "metrics.jsonl").read_bytes() == first
    assert len(first) > 1000
    other = distrl.train(small(tmp_path / "other", "run.seed=1"), local=True)
    assert (other.directory / "metrics.jsonl").read_bytes() != first


def test_a_run_leaves_what_a_person_looks_at(finished):
    summary = json.loads((finished.directory / "summary.json").read_text())
    wanted = "env_steps updates wall_s env_busy_fraction env_cpu_share updates_per_s staleness_mean staleness_p95 "
    "transitions_produced"
    wanted += " transitions_trained transitions_queued transitions_evicted transitions_rejected final_return_mean "
    "baseline_return core_hours"
    assert set(wanted.split()) <= set(summary)
    assert summary["env_steps"] == 600
    assert summary["updates"] == 251  # (600 − 100) · 16 / 32, and the one that is due with min_size
    assert balanced(summary)
    assert (finished.directory / "learning_curve.png").stat().st_size > 10_000
    kinds = {record["kind"] for record in read_json_lines(finished.directory / "metrics.jsonl")}
    assert kinds == {"episode", "learner_began", "learner", "evaluation"}


def test_every_produced_transition_is_in_the_log_once(finished):
    keys = [
        (int(uid), int(step))
        for _, fragment in read_log(finished.directory / "log")
        for uid, step in zip(fragment.columns["episode_uid"].ravel(), fragment.columns["step"].ravel(), strict=True)
    ]
    assert len(keys) == len(set(keys)) == 600


def test_a_loaded_policy_acts(finished):
    policy = distrl.load_policy(finished.directory)
    action = policy.act(np.array([1.0, 0.0, 0.1], np.float32))
    assert action.shape == (1,)
    assert action == policy.act(np.array([1.0, 0.0, 0.1], np.float32))


def test_what_was_evicted_unsampled_is_counted(tmp_path):
    result = distrl.train(small(tmp_path / "run", "replay.capacity=150", "replay.samples_per_insert=1"), local=True)
    assert result.summary["transitions_evicted"] > 0
    assert balanced(result.summary)


def interrupted(out, at_step):
    stop = threading.Event()

    def show(status):
        if status.get("env_steps", 0) >= at_step:
            stop.set()

    return distrl.train(small(out, "run.steps=100000"), local=True, show=show, stop=stop)


def test_an_interrupted_run_continues_where_it_was(tmp_path):
    out = tmp_path / "run"
    first = interrupted(out, 300)
    assert first.summary["interrupted"]
    assert balanced(first.summary)
    steps = first.summary["env_steps"] + 400
    second = distrl.train(small(out, f"run.steps={steps}"), local=True, resume=out)
    assert second.summary["env_steps"] == steps
    assert second.summary["updates"] > first.summary["updates"]
    assert balanced(second.summary)
    versions = [record["updates"] for record in read_json_lines(out / "metrics.jsonl") if record["kind"] == "learner"]
    assert versions == sorted(versions)
    assert len({int(f.incarnation) for _, f in read_log(out / "log")}) == 4  # two workers, two lives each


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    out = tmp_path / "run"
    interrupted(out, 400)
    checkpoints = list_checkpoints(out / "checkpoints")
    assert len(checkpoints) >= 2
    (checkpoints[-1] / "learner.pt").write_bytes(b"damaged")
    distrl.train(small(out, "run.steps=800"), local=True, resume=out)
    notes = [event["text"] for event in read_json_lines(out / "events.jsonl") if event["kind"] == "note"]
    assert any(checkpoints[-1].name in note and "checksum of learner.pt" in note for note in notes)


def test_a_resume_refuses_what_does_not_fit(tmp_path):
    out = tmp_path / "run"
    interrupted(out, 300)
    with pytest.raises(
        ConfigError, match="was trained on Pendulum-v1, but the configuration names MountainCarContinuous-v0"
    ):
        distrl.train(small(out, "env.id=MountainCarContinuous-v0"), local=True, resume=out)
    with pytest.raises(DistrlError, match="does not fit the configuration: the state needs 'actor'"):
        distrl.train(small(out, "algorithm.hidden=[8]"), local=True, resume=out)
    for path in list_checkpoints(out / "checkpoints"):
        (path / "learner.pt").write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"no checkpoint .* can be read"):
        distrl.train(small(out), local=True, resume=out)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("replay.samples_per_insert=unlimited", "replay.samples_per_insert"),
        ("run.wall_limit_s=5", "run.wall_limit_s"),
        ("env.hosting=process", "env.hosting"),
        ("actors.fragment_max_age_s=1", "actors.fragment_max_age_s"),
    ],
)
def test_what_a_clock_would_decide_is_refused(tmp_path, override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        distrl.train(small(tmp_path / "run", override), local=True)
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(finished):
    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        distrl.train(small(finished.directory), local=True)


def test_an_unwritable_directory_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        distrl.train(small(tmp_path / "file" / "run"), local=True)


def test_a_broken_environment_is_refused_before_anything_starts(tmp_path):
    config = small(tmp_path / "run", "env.id=tests.fakes.environments:Misbehaving", 'env.kwargs={mode="raise_reset"}')
    with pytest.raises(DistrlError, match="the restart file is empty"):
        distrl.train(config, local=True)
    assert not (tmp_path / "run").exists()


def test_load_policy_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        api.load_policy(tmp_path)


def test_nothing_is_left_in_shared_memory(finished):
    assert not RunDirectory.open(finished.directory).scratch().exists()


def test_a_warm_start_learns_from_another_runs_log_first(tmp_path):
    first = train(small(tmp_path / "first", "run.steps=400"), local=True)
    warm = f"replay.warm_start=['{first.directory}']"
    second = train(small(tmp_path / "second", warm, "run.steps=300", "replay.min_size=200"), local=True)
    assert second.summary["transitions_warm"] == 400
    assert second.summary["updates"] == 300 * 16 / 32 + 1  # none is owed for the warm ones, and none waits for 200
    assert balanced(second.summary)
    again = train(small(tmp_path / "second", warm, "run.steps=400"), local=True, resume=second.directory)
    assert again.summary["transitions_warm"] == 400
    assert balanced(again.summary)
    assert reproduce(RunDirectory.open(second.directory)).difference is None


def test_a_warm_start_that_does_not_fit_is_refused_before_anything_starts(tmp_path):
    first = train(small(tmp_path / "first", "run.steps=150"), local=True)
    config = small(tmp_path / "second", f"replay.warm_start=['{first.directory}']", "env.kwargs={g=5.0}")
    with pytest.raises(ConfigError, match=r"reward.*g"):
        train(config, local=True)
    assert not (tmp_path / "second").exists()


def test_a_film_has_none_of_the_delays_and_crashes_of_training(finished, tmp_path, monkeypatch):
    real = resolve.make

    def careful(recipe):
        assert recipe.delay is None
        return real(recipe)

    monkeypatch.setattr(resolve, "make", careful)
    config = small(tmp_path / "unused", "env.delay.kind=constant", "env.delay.crash_share=1.0")
    film = plots.film(RunDirectory.open(finished.directory), config, tmp_path / "film.mp4", max_frames=3)
    assert film.stat().st_size > 0


def test_pictures_that_cannot_be_drawn_cost_nothing_but_themselves(tmp_path, capsys, monkeypatch):
    """A machine without a display: the run is as complete as any other, and says what is missing."""
    monkeypatch.undo()  # of without_pictures
    result = train(small(tmp_path / "run", "env.id=tests.fakes.constants:Sum", "run.steps=200"), local=True)
    assert result.summary["final_return_mean"] is not None
    assert (result.directory / "learning_curve.png").exists()
    said = "no film: rendering tests.fakes.constants:Sum raised OSError: there is no display"
    assert said in capsys.readouterr().err
    assert said in [event.get("text") for event in read_json_lines(result.directory / "events.jsonl")]
