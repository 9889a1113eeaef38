"""Observations on the learner's device: the same transitions, the same gradients and the same runs as from memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import distrl
from distrl.cluster.checks import algorithm_model
from distrl.core.checkpoint import list_checkpoints, load_checkpoint
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.learners.randomness import update_generator
from distrl.learners.registry import algorithm_config
from distrl.learners.stored_observations import StoredObservations, fits
from tests.learners.off_policy import BOX, assert_same, batch_of, observing

torch.set_num_threads(1)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_what_went_in_comes_out_in_its_dtype(dtype, device):
    dtype, rng = np.dtype(dtype), np.random.default_rng(0)
    values = rng.integers(0, 256, (9, 2, dtype.itemsize), dtype="u1").view(dtype)[..., 0]
    if dtype.kind == "b":
        values = rng.random((9, 2)) < 0.5
    kept = StoredObservations(5, {"x": ((2,), dtype)}, device)
    kept.add_rows(4)
    kept.put(3, {"x": values[:4]})  # round the end
    kept.put_aside(np.array([2, 0]), {"x": values[4:6]})
    seen, after = kept.gather(np.array([3, 4, 0, 1]), np.array([4, 5 + 2, 1, 5]))
    assert isinstance(seen["x"], np.ndarray if device is None else torch.Tensor)
    seen, after = np.asarray(seen["x"]), np.asarray(after["x"])
    assert seen.dtype == after.dtype == dtype
    np.testing.assert_array_equal(seen, values[:4])
    np.testing.assert_array_equal(after, values[[1, 4, 3, 5]])
    assert kept.nbytes == (5 + 4) * 2 * dtype.itemsize
    assert kept.num_rows == 4


def test_on_another_device_only_indices_and_new_observations_go_there():
    kept = StoredObservations(5, {"x": ((2,), np.dtype("u2"))}, "meta")
    kept.add_rows(2)
    kept.put(4, {"x": np.ones((2, 2), "u2")})
    kept.put_aside(np.array([1]), {"x": np.ones((1, 2), "u2")})
    kept.forget(slice(1, 3))
    for part in kept.gather(np.array([0, 4, 4]), np.array([1, 6, 0])):
        assert (part["x"].device.type, part["x"].shape, part["x"].dtype) == ("meta", (3, 2), torch.uint16)


def test_a_gpu_takes_what_leaves_it_half_of_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80e9 if device.index else 1e9, 80e9))
    assert fits(0.5e9, "cuda")
    assert not fits(0.6e9, "cuda")
    assert fits(40e9, "cuda:1")
    assert not fits(1, "cpu")


DISCRETE = replace(BOX, action_space=Discrete(4, start=2))
MASK = Box(0, 1, (4,), np.int8)
MIXED = Dict({"x": Box(-1, 1, (3,)), "kind": MultiDiscrete([3, 2], start=[1, 0]), "action_mask": MASK})
MIXED_IMAGE = Dict({"x": Box(-1, 1, (3,)), "view": Box(0, 255, (36, 36, 1), np.uint8)})


TWO = Dict({"a": Box(-1, 1, (2, 2), np.float64), "b": Box(-1, 1, ())})


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *((name, BOX) for name in ("sac", "td3", "dsact", "sequence-sac")),
        ("sac", replace(BOX, observation_space=TWO)),
        ("dqn", DISCRETE),
        ("dqn", replace(DISCRETE, observation_space=MIXED)),
    ],
)
def test_tensors_give_the_gradients_of_arrays(name, spec, bonus):
    options = {"bonus": {"kind": "rnd", "hidden": [4]}} if bonus else {}
    algorithm = algorithm_config(name)(hidden=(8,), **options).build(spec)
    batch = observing(batch_of(spec, 16), spec.observation_space)
    there = as_tensors(batch)
    (wanted, _), (found, _) = (algorithm.gradients(its, update_generator(0, 0)) for its in (batch, there))
    assert_same(wanted, found)
    np.testing.assert_array_equal(batch.error, there.error)


def test_pictures_stay_where_they_are():
    spec = replace(DISCRETE, observation_space=MIXED_IMAGE)
    algorithm = algorithm_config("dqn")(hidden=(8,)).build(spec)
    batch = observing(batch_of(spec, 16), MIXED_IMAGE)
    assert_same(algorithm.gradients(batch)[0], algorithm.gradients(as_tensors(batch))[0])


def as_tensors(batch):
    """What a replay on the learner's device gives."""
    seen, after = (
        {path: torch.from_numpy(array) for path, array in part.items()}
        for part in (batch.observation, batch.next_observation)
    )
    return replace(batch, observation=seen, next_observation=after)


def test_a_run_is_the_same_wherever_its_observations_are(tmp_path):
    states = []
    for place in ("host", "learner"):
        config = RunConfig.load(
            "sac",
            [
                *(f"run.out={tmp_path / place}", "run.steps=300", "env.max_episode_steps=40"),
                *("actors.envs_per_worker=2", "actors.fragment_steps=10"),
                *("algorithm.hidden=[16]", "algorithm.batch_size=32", "algorithm.n_step=3"),
                *("replay.min_size=100", "replay.capacity=150", "replay.samples_per_insert=16"),
                *("replay.priority_exponent=0.6", f"replay.device={place}", "evaluation.period=1000"),
                *("evaluation.final_episodes=1", "learner.device=cpu"),
            ],
        )
        result = distrl.train(config, local=True)
        files, meta = load_checkpoint(list_checkpoints(result.directory / "checkpoints")[-1])
        states.append(files)
        assert meta["num_updates"] >= 100
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name] == states[1][name] for name in states[0])


def test_algorithms_that_take_arrays_are_refused():
    given = ["env.id=Pendulum-v1", "algorithm.name=iql", "offline.data=['run']", "replay.device=learner"]
    with pytest.raises(ConfigError, match=r"takes tensors, but iql takes arrays: leave it out, or take sac"):
        algorithm_model(RunConfig.load("sac", given))
