"""The learner secures before it acknowledges, knows what it has seen, and continues where its last life ended."""

import threading

import gymnasium
import numpy as np
import pytest
import torch

from distrl.core.errors import StorageError
from distrl.core.experience_log import read_log
from distrl.core.limiter import SamplesPerInsert
from distrl.core.types import EnvSpec
from distrl.learners.learner import Learner, LearnerSettings
from distrl.learners.replay import Replay
from distrl.learners.sac import SAC
from distrl.learners.sac_config import Config
from distrl.learners.trainer import PolicyTrainer, TrainerSettings
from tests.fakes.fragments import fragment


def make(path, size=3, ratio=16.0, published=None):
    torch.set_num_threads(1)
    spec = EnvSpec(
        "test",
        gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32),
        gymnasium.spaces.Box(-1, 1, (1,), np.float32),
    )
    trainer = PolicyTrainer(
        SAC(Config(hidden=(8,), batch_size=16), spec),
        Replay(200, n_step=2, gamma=0.9),
        SamplesPerInsert(ratio, min_size=20, batch_size=16),
        lambda version, weights: None if published is None else published.append(version),
        TrainerSettings(batch_size=16, publish_period=5, seed=0),
        spec,
    )
    return Learner([trainer], path, LearnerSettings(checkpoint_period=10**9, keep=2))


def feed(learner, episodes, steps=5):
    for uid in episodes:
        learner.receive(fragment(steps, episode_uid=uid, terminated=True))


def weights(learner):
    return np.concatenate([array.ravel() for array in learner.trainers["default"].policy_weights().values()])


def test_a_fragment_is_in_the_log_before_it_is_acknowledged(tmp_path):
    learner = make(tmp_path)
    learner.receive(fragment(5))
    assert sum(1 for _ in read_log(tmp_path / "log")) == 1


def test_what_arrives_twice_is_trained_once(tmp_path):
    learner = make(tmp_path)
    first, second = fragment(5, episode_uid=3), fragment(5, episode_uid=3, first_step=5)
    for item in (first, second, second, first):
        learner.receive(item)
    report = learner.report()
    assert (report["inserted"], report["duplicates"]) == (10, 10)
    assert sum(1 for _ in read_log(tmp_path / "log")) == 2


def test_updates_follow_the_limiter_and_are_published(tmp_path):
    published: list[int] = []
    learner = make(tmp_path, published=published)
    feed(learner, range(8))
    while learner.update():
        pass
    assert learner.num_updates == 21  # (40 − 20) · 16 / 16, and the one due with min_size
    assert published == [5, 10, 15, 20]


def test_a_new_life_continues_bit_by_bit(tmp_path):
    """Killed after a checkpoint and two more fragments; the same fragments and updates then follow in both lives."""
    learner = make(tmp_path)
    feed(learner, range(8))
    while learner.update():
        pass
    learner.checkpoint()
    feed(learner, range(8, 10))
    again = make(tmp_path)
    assert again.num_updates == learner.num_updates
    assert again.report()["inserted"] == learner.report()["inserted"]
    for one in (learner, again):
        while one.update():
            pass
    assert again.num_updates == learner.num_updates
    np.testing.assert_array_equal(weights(again), weights(learner))
    assert again.report()["unsampled"] == learner.report()["unsampled"]


def test_a_checkpoint_that_waits_for_a_shard_holds_up_nobody_who_sends(tmp_path, monkeypatch):
    learner, asked, come = make(tmp_path), threading.Event(), threading.Event()
    (trainer,) = learner.trainers.values()
    state = trainer.algorithm_state()

    def waits():
        asked.set()
        assert come.wait(30)
        return state

    monkeypatch.setattr(trainer, "algorithm_state", waits)
    checkpoint = threading.Thread(target=learner.checkpoint)
    checkpoint.start()
    assert asked.wait(30)
    feed(learner, range(2))  # from the thread that would hear of the shard's successor
    come.set()
    checkpoint.join()
    assert make(tmp_path).report()["inserted"] == 10


def test_another_environment_is_refused(tmp_path):
    learner = make(tmp_path)
    feed(learner, range(8))
    learner.checkpoint()
    with pytest.raises(StorageError, match=r"was trained on Box\(-inf, inf, \(3,\).*now has Box\(-inf, inf, \(4,\)"):
        make(tmp_path, size=4)


def test_a_log_that_lost_its_end_is_noticed(tmp_path):
    learner = make(tmp_path)
    feed(learner, range(8))
    learner.checkpoint()
    learner.close()
    (segment,) = (tmp_path / "log").glob("*.log")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size - 10)
    with pytest.raises(StorageError, match="refers to 8 fragments, but the experience log holds only 7"):
        make(tmp_path)


def test_a_rectangle_that_ends_in_another_episode_is_recognised_as_well(tmp_path):
    learner = make(tmp_path)
    rectangle = fragment(6, rows=2, episode_uid=10)
    rectangle.columns["terminated"][3] = True
    rectangle.columns["episode_uid"][4:] += 50
    rectangle.columns["step"][4:] -= 4
    for _ in range(2):
        learner.receive(rectangle)
    assert (learner.report()["inserted"], learner.report()["duplicates"]) == (12, 12)
