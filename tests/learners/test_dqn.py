"""DQN against a slow numpy transcription of the papers' formulas, its acting side, its state, and that it learns."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvSpec
from distrl.learners.device import to_device
from distrl.learners.dqn_config import Config
from distrl.learners.randomness import sample_generator
from distrl.learners.registry import algorithm_config
from tests.learners import off_policy
from tests.learners.off_policy import slow_mlp, split, trained, vectors
from tests.learners.test_hl_gauss import slow_probabilities

torch.set_num_threads(1)

PLAIN = EnvSpec("test", Box(-1, 1, (3,)), Discrete(4, start=2))
MASKED = replace(PLAIN, observation_space=Dict({"x": Box(-1, 1, (3,)), "action_mask": MultiBinary(4)}))
SQUARED = Config(hidden=(8, 6), learning_rate=0.01, reward_scale=0.5, value_loss="squared")
HL_GAUSS = SQUARED.model_copy(update={"value_loss": "hl_gauss", "value_min": -3.0, "value_max": 4.0, "num_bins": 11})


def masked(batch, seed=0):
    """The batch with some actions forbidden, never what was done."""
    rng = np.random.default_rng(seed)
    found = []
    for part in (batch.observation, batch.next_observation):
        mask = rng.random((len(batch.reward), 4)) < 0.5
        mask[np.arange(len(mask)), batch.action - 2] = True
        found.append({"x": part["array"], "action_mask": mask.astype("i1")})
    return replace(batch, observation=found[0], next_observation=found[1])


def slow_loss(algorithm, flat, fixed, batch):
    """The module's formulas, sample by sample in float64; ``fixed``: parameters that are not differentiated."""
    config = algorithm.config
    edges = np.linspace(config.value_min, config.value_max, config.num_bins + 1)

    def outputs(vector, observation):
        named = split(algorithm.parameters, vector)
        x = slow_mlp({name.removeprefix("actor/"): part for name, part in named.items()}, observation)
        return x.reshape(4, -1)

    def value(x):
        if config.value_loss == "squared":
            return x[0]
        return (np.exp(x) / np.exp(x).sum()) @ (edges[1:] + edges[:-1]) / 2

    losses = []
    for s, action in enumerate(batch.action - 2):
        o, o2 = batch.observation["x"][s].astype("f8"), batch.next_observation["x"][s].astype("f8")
        allowed = np.flatnonzero(batch.next_observation["action_mask"][s])
        best = max(allowed, key=lambda u: value(outputs(fixed["parameters"], o2)[u]))
        following = value(outputs(fixed["parameters target"], o2)[best])
        y = config.reward_scale * batch.reward[s] + batch.discount[s] * following
        x = outputs(flat["parameters"], o)[action]
        if config.value_loss == "squared":
            losses.append(0.5 * (x[0] - y) ** 2)
        else:
            wanted = slow_probabilities(min(max(y, -3), 4), edges, 0.75 * (edges[1] - edges[0]))
            losses.append(-wanted @ np.log(np.exp(x) / np.exp(x).sum()))
    return off_policy.shares_of(batch) @ losses


@pytest.mark.parametrize("config", [SQUARED, HL_GAUSS], ids=lambda config: config.value_loss)
def test_loss_and_gradient_are_the_papers(config):
    algorithm = config.build(MASKED, seed=3)
    for seed in range(20):
        algorithm.apply(algorithm.gradients(masked(off_policy.batch_of(PLAIN, 16, seed), seed))[0])
    batch = masked(off_policy.batch_of(PLAIN, 6, 100, alike=False), 100)
    gradients, metrics = algorithm.gradients(batch)
    flat = vectors(algorithm)
    assert not np.allclose(flat["parameters"], flat["parameters target"])
    np.testing.assert_allclose(float(metrics["loss"]), slow_loss(algorithm, flat, flat, batch), rtol=1e-4)
    off_policy.check_slopes(gradients, lambda name, x: slow_loss(algorithm, flat | {name: x}, flat, batch), flat)


def test_the_target_network_moves_every_so_many_updates():
    algorithm = trained(SQUARED.model_copy(update={"target_period": 3, "tau": 1.0}), PLAIN, updates=4)
    found = vectors(algorithm)
    assert not np.array_equal(found["parameters"], found["parameters target"])
    for update in (4, 5):
        algorithm.apply(algorithm.gradients(off_policy.batch_of(PLAIN, 16, update))[0])
    found = vectors(algorithm)
    assert np.array_equal(found["parameters"], found["parameters target"])


def test_state_and_published_weights():
    algorithm = trained(HL_GAUSS, PLAIN)
    off_policy.check_round_trip(algorithm, PLAIN)
    off_policy.check_published_weights_are_left_alone(algorithm, PLAIN)
    with pytest.raises(ValueError, match="'parameters' of shape"):
        Config(hidden=(4,)).build(PLAIN).load_state(algorithm.state())


@pytest.mark.parametrize("config", [SQUARED, HL_GAUSS], ids=lambda config: config.value_loss)
def test_it_does_what_the_learner_values_most_of_what_is_allowed(config):
    algorithm = config.build(MASKED, seed=0)
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    seen = masked(off_policy.batch_of(PLAIN, 64)).observation
    with torch.no_grad():
        outputs = algorithm._outputs(algorithm.parameters.frozen, to_device(algorithm._inputs(seen), algorithm.device))
        values = algorithm._loss.values(outputs).numpy()
    action, log_prob, _ = policy.step(seen, {}, np.zeros(64, bool))
    assert np.array_equal(action, 2 + np.where(seen["action_mask"], values, -np.inf).argmax(1))
    assert np.array_equal(policy.probabilities(seen).argmax(1) + 2, action)
    assert (action.dtype, log_prob.tolist()) == (np.int64, [0.0] * 64)
    with pytest.raises(EnvironmentFault, match="no action at all"):
        policy.step({**seen, "action_mask": np.zeros((64, 4), "i1")}, {}, np.zeros(64, bool))


def test_random_actions_are_as_many_as_said_and_allowed():
    algorithm = Config(hidden=(8,), initial_epsilon=0.8, final_epsilon=0.2, epsilon_steps=2000).build(MASKED)
    batch = masked(off_policy.batch_of(PLAIN, 16))
    batch.number[:] = 999  # the thousandth transition: half of the way
    algorithm.gradients(batch)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    seen = {"x": np.zeros((20_000, 3), "f4"), "action_mask": np.tile(np.array([1, 0, 1, 1], "i1"), (20_000, 1))}
    action, log_prob, _ = policy.step(seen, {}, np.zeros(20_000, bool))
    shares = np.array([(action == 2 + i).mean() for i in range(4)])
    np.testing.assert_allclose(np.sort(shares), [0, 0.5 / 3, 0.5 / 3, 0.5 + 0.5 / 3], atol=0.01)
    for choice in np.flatnonzero(shares):
        probability = 0.5 / 3 + 0.5 * (shares[choice] > 0.5)
        np.testing.assert_allclose(np.exp(log_prob[action == 2 + choice]), probability, rtol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "hl_gauss"])
def test_images_beside_numbers(loss):
    """An agent sees an image and a category; the actor, which loads torch for it, agrees with the learner."""
    space = Dict({"image": Box(0, 255, (36, 36, 1), np.uint8), "which": Discrete(3)})
    algorithm = Config(value_loss=loss, num_bins=7).build(EnvSpec("test", space, Discrete(4)))
    rng = np.random.default_rng(0)
    seen = {"image": rng.integers(0, 255, (9, 36, 36, 1), dtype=np.uint8), "which": rng.integers(0, 3, 9)}
    batch = replace(
        off_policy.batch_of(PLAIN, 9), observation=seen, next_observation=seen, action=rng.integers(0, 4, 9)
    )
    gradients, _ = algorithm.gradients(batch)
    assert torch.isfinite(gradients["parameters"]).all()
    algorithm.apply(gradients)
    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    with torch.no_grad():
        outputs = algorithm._outputs(algorithm.parameters.frozen, to_device(algorithm._inputs(seen), algorithm.device))
    assert np.array_equal(policy.step(seen, {}, np.zeros(9, bool))[0], algorithm._loss.values(outputs).argmax(1))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("test", Box(-1, 1, (3,)), Box(-1, 1, (2,))), "DQN needs one choice out of several"),
        (EnvSpec("test", Box(-1, 1, (3,)), MultiDiscrete([2, 2])), "DQN needs one choice out of several"),
        (EnvSpec("test", Box(0, 255, (8, 8, 3), np.uint8), Discrete(2)), "needs larger images"),
        (replace(MASKED, action_space=Discrete(5)), "one entry for each of the 5 choices"),
    ],
)
def test_spaces_that_it_cannot_handle_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        Config().build(spec)


def test_registry_and_config():
    assert algorithm_config("dqn") is Config
    for wrong in ({"target_period": 0}, {"final_epsilon": 1.5}, {"value_min": 5.0, "value_max": 5.0}):
        with pytest.raises(ValidationError):
            Config(**wrong)
    assert all(field.description for field in Config.model_fields.values())


def test_acting_loads_no_torch():
    check = "import sys, distrl.learners.value_policies, distrl.learners.dqn_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("loss", ["squared", "hl_gauss"])
def test_it_learns_a_chain(loss):
    """Six places in a row; forwards or backwards, 1 for reaching the end. From the start that is worth γ⁴."""
    spec = EnvSpec("chain", Discrete(6), Discrete(2))
    options = {"value_min": -0.5, "value_max": 1.5, "num_bins": 21}
    config = Config(hidden=(32,), learning_rate=5e-3, tau=0.05, value_loss=loss, **options)
    algorithm = config.build(spec, seed=0)
    for update in range(300):
        rng = sample_generator(0, update)
        place, action = rng.integers(5, size=64), rng.integers(2, size=64)
        following = np.maximum(place + 2 * action - 1, 0)
        batch = off_policy.batch_of(PLAIN, 64)
        batch.observation, batch.next_observation, batch.action = {"array": place}, {"array": following}, action
        batch.reward = (following == 5).astype("f4")
        batch.discount = np.where(following == 5, 0.0, 0.9).astype("f4")
        algorithm.apply(algorithm.gradients(batch)[0])
    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    assert policy.step({"array": np.arange(5)}, {}, np.zeros(5, bool))[0].tolist() == [1] * 5
    with torch.no_grad():
        outputs = algorithm._outputs(algorithm.parameters.frozen, to_device([np.eye(6)[:5]], algorithm.device))
    values = algorithm._loss.values(outputs)[:, 1]
    np.testing.assert_allclose(values, 0.9 ** np.arange(4, -1, -1), atol=0.05)
