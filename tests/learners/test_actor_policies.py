"""What env workers act with, against the formulas and against the learner's torch."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import empty_observation, leaves
from distrl.core.types import EnvSpec
from distrl.learners.inputs import flat_inputs, input_layout, input_size
from distrl.learners.ppo import PPO
from distrl.learners.ppo_config import PPO as Config

OBSERVATION = Box(-1, 1, (3,))
IDLE = np.zeros(0, bool)  # is_first: policies without memory do not look at it


def algorithm_of(action, observation=OBSERVATION, **options) -> PPO:
    """With parameters that are not near zero, so that actions differ."""
    algorithm = PPO(Config(hidden=(8, 8), **options), EnvSpec("test", observation, action), seed=3)
    generator = torch.Generator().manual_seed(0)
    algorithm.parameters.flat += 0.5 * torch.randn(algorithm.parameters.flat.shape, generator=generator)
    return algorithm


def policy_of(algorithm, seed=0, deterministic=False):
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=seed, deterministic=deterministic)
    assert not policy.ready
    policy.load(algorithm.policy_weights())
    assert policy.ready
    return policy


def observations(num_rows, seed=0):
    return {"array": np.random.default_rng(seed).normal(size=(num_rows, 3)).astype("f4")}


SPACES = [
    Discrete(4, start=-1),
    MultiDiscrete([3, 2], start=[5, 0]),
    MultiDiscrete([[2, 3], [4, 2]]),
    MultiBinary(3),
    Box(-1, 1, (2,)),
    Box(np.array([[-2.0, 0.0]]), np.array([[2.0, 10.0]]), dtype=np.float64),
    Box(-np.inf, np.inf, (2,)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_its_log_probabilities_are_the_learners(space):
    algorithm = algorithm_of(space)
    policy = policy_of(algorithm)
    seen = observations(50)
    action, log_prob, state = policy.step(seen, {}, IDLE)
    assert (action.shape, action.dtype, state) == ((50, *space.shape), space.dtype, {})
    assert log_prob.dtype == np.float32
    assert all(space.contains(row) for row in policy.env_action(action))
    assert len(np.unique(action, axis=0)) > 2

    named, distribution = algorithm.parameters.frozen, algorithm._distribution
    outputs, _, _ = algorithm.network.forward(algorithm.parameters, (torch.from_numpy(seen["array"]),), None)
    learners, _, _ = distribution.forward(named, outputs, distribution.actions(action, torch.device("cpu")), None)
    np.testing.assert_allclose(log_prob, learners, atol=2e-5)


@pytest.mark.parametrize("space", SPACES[:3], ids=str)
def test_choices_come_as_often_as_their_probability_says(space):
    policy = policy_of(algorithm_of(space))
    one = {"array": np.repeat(observations(1)["array"], 20_000, axis=0)}
    action, log_prob, _ = policy.step(one, {}, IDLE)
    found, first, counts = np.unique(action.reshape(20_000, -1), axis=0, return_index=True, return_counts=True)
    assert len(found) > 2
    np.testing.assert_allclose(counts / 20_000, np.exp(log_prob[first]), atol=0.015)


def test_gaussian_actions_have_the_mean_and_spread_that_they_claim():
    space = Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4"))
    algorithm = algorithm_of(space)
    one = {"array": np.repeat(observations(1)["array"], 20_000, axis=0)}
    action, log_prob, _ = policy_of(algorithm).step(one, {}, IDLE)
    mean, density, _ = policy_of(algorithm, deterministic=True).step(one, {}, IDLE)
    std = np.exp(algorithm.policy_weights()["log_std"]) * [2, 5]
    np.testing.assert_allclose(action.mean(0), mean[0], atol=0.1)
    np.testing.assert_allclose(action.std(0), std, rtol=0.03)
    np.testing.assert_allclose(log_prob, density - 0.5 * (((action - mean) / std) ** 2).sum(1), atol=1e-3)
    np.testing.assert_allclose(density, -np.log(std * np.sqrt(2 * np.pi)).sum(), rtol=1e-5)


def test_an_untrained_gaussian_explores_all_of_any_box():
    space = Box(np.array([1e-3, -500.0], "f4"), np.array([3e-3, 500.0], "f4"))
    policy = policy_of(PPO(Config(), EnvSpec("test", OBSERVATION, space)))
    action = policy.step(observations(5000), {}, IDLE)[0]
    half_widths = (action - [2e-3, 0]) / [1e-3, 500]
    np.testing.assert_allclose(half_widths.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(half_widths.std(0), 1, rtol=0.1)


def test_deterministic_actions_are_the_most_probable():
    algorithm = algorithm_of(MultiDiscrete([3, 4]))
    greedy = policy_of(algorithm, deterministic=True).step(observations(20), {}, IDLE)[0]
    logits, _, _ = algorithm.network.forward(algorithm.parameters, (torch.from_numpy(observations(20)["array"]),), None)
    assert np.array_equal(greedy, np.stack([logits[:3].argmax(0), logits[3:].argmax(0)], 1))


def test_the_same_seed_gives_the_same_actions():
    algorithm = algorithm_of(Discrete(5))

    def actions(seed):
        policy = policy_of(algorithm, seed)
        return [policy.step(observations(n, n), {}, IDLE)[0].tolist() for n in (1, 64, 3)]

    assert actions(1) == actions(1) != actions(2)


MASKED = Dict({"action_mask": Box(0, 1, (5,), np.int8), "seen": OBSERVATION})


def masked_rows(num_rows, allowed):
    return {"seen": observations(num_rows)["array"], "action_mask": np.repeat([allowed], num_rows, axis=0)}


def test_a_masked_action_is_never_taken():
    algorithm = algorithm_of(MultiDiscrete([2, 3]), MASKED)
    rows = masked_rows(2000, np.array([0, 1, 1, 0, 1], np.int8))
    for deterministic in (False, True):
        policy = policy_of(algorithm, deterministic=deterministic)
        action, _, _ = policy.step(rows, {}, IDLE)
        assert (action[:, 0] == 1).all()
        assert set(action[:, 1]) <= {0, 2}


def test_masks_that_make_no_sense_are_refused():
    policy = policy_of(algorithm_of(MultiDiscrete([2, 3]), MASKED))
    with pytest.raises(EnvironmentFault, match="no action at all"):
        policy.step(masked_rows(2, np.array([1, 1, 0, 0, 0], np.int8)), {}, IDLE)
    with pytest.raises(ConfigError, match="each of the 3 choices"):
        Config().policy_spec(EnvSpec("test", MASKED, Discrete(3)))


def test_a_step_before_the_first_weights_is_refused():
    policy = algorithm_of(Discrete(2)).policy_spec().build(seed=0)
    with pytest.raises(RuntimeError, match="needs weights"):
        policy.step(observations(1), {}, IDLE)


def test_every_kind_of_observation_becomes_a_row_of_inputs():
    space = Dict(
        {
            "place": Discrete(3, start=1),
            "arm": Tuple((MultiDiscrete([2, 3]), Box(-1, 1, (2, 2), np.float64))),
            "count": Box(0, 9, (), np.int64),
            "bits": MultiBinary(2),
        }
    )
    layout = input_layout(space, has_mask=False)
    assert list(layout) == ["arm/0", "arm/1", "bits", "count", "place"]
    rows = empty_observation(leaves(space), 2)
    rows["place"][:] = [1, 3]
    rows["arm/0"][:] = [[0, 2], [1, 0]]
    rows["arm/1"][:] = 0.5
    rows["count"][:] = [7, 8]
    rows["bits"][:] = [[0, 1], [1, 1]]
    flat = flat_inputs(rows, layout)
    assert flat.dtype == np.float32
    assert flat.shape[1] == input_size(space, layout) == 15
    assert flat.tolist() == [
        [1, 0, 0, 0, 1, 0.5, 0.5, 0.5, 0.5, 0, 1, 7, 1, 0, 0],
        [0, 1, 1, 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, 8, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (Box(0, 255, (7, 7, 3), np.uint8), Discrete(2), "larger images"),
        (Dict({"action_mask": MultiBinary(2)}), Discrete(2), "something to observe"),
        (OBSERVATION, Box(0, 5, (2,), np.int64), "use MultiDiscrete"),
        (OBSERVATION, Box(0, 0, (2,)), "low < high"),
        (OBSERVATION, Dict({"a": Discrete(2)}), "Box, Discrete, MultiDiscrete or MultiBinary"),
        (gymnasium.spaces.Text(5), Discrete(2), "can be hosted"),
    ],
)
def test_spaces_that_it_cannot_handle_are_refused(observation, action, words):
    with pytest.raises(ConfigError, match=words):
        Config().policy_spec(EnvSpec("test", observation, action))
