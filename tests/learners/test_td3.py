"""TD3 against a slow numpy transcription of the paper's formulas, its acting side, its state, and that it learns."""

import math
import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.registry import algorithm_config
from distrl.learners.td3_config import Config
from tests.learners import off_policy
from tests.learners.off_policy import BOX, HIGH, LOW, batch_of, shares_of, slow_mlp, split, trained, vectors
from tests.learners.test_hl_gauss import slow_probabilities

torch.set_num_threads(1)

SQUARED = Config(hidden=(8, 6), critic_learning_rate=0.01, actor_learning_rate=0.01, reward_scale=0.5)
HL_GAUSS = SQUARED.model_copy(update={"value_loss": "hl_gauss", "value_min": -3.0, "value_max": 4.0, "num_bins": 11})


def slow_losses(algorithm, flat, fixed, batch, noise):
    """The module's formulas, sample by sample in float64; ``fixed``: parameters that a loss does not differentiate."""
    config, losses = algorithm.config, {"actor": 0.0, "critic": 0.0}
    edges = np.linspace(config.value_min, config.value_max, config.num_bins + 1)
    sigma = config.smoothing * (edges[1] - edges[0])

    def act(vector, o):
        return np.tanh(slow_mlp(split(algorithm.actor, vector), o))

    def outputs(vector, i, o, a):
        return slow_mlp(split(algorithm.critic, vector), np.concatenate([o, a]), i)

    def value(x):
        if config.value_loss == "squared":
            return x[0]
        return (np.exp(x) / np.exp(x).sum()) @ (edges[1:] + edges[:-1]) / 2

    def loss(x, y):
        if config.value_loss == "squared":
            return 0.5 * (x[0] - y) ** 2
        return -slow_probabilities(min(max(y, edges[0]), edges[-1]), edges, sigma) @ np.log(np.exp(x) / np.exp(x).sum())

    for s, share in enumerate(shares_of(batch)):
        o, o2 = (part["array"][s].astype("f8") for part in (batch.observation, batch.next_observation))
        a = 2 * (batch.action[s] - LOW) / (HIGH - LOW) - 1
        a2 = np.clip(act(fixed["actor target"], o2) + np.clip(config.target_noise * noise[s], -0.5, 0.5), -1, 1)
        least = min(value(outputs(fixed["critic target"], i, o2, a2)) for i in (0, 1))
        y = config.reward_scale * batch.reward[s] + batch.discount[s] * least
        losses["critic"] += sum(loss(outputs(flat["critic"], i, o, a), y) for i in (0, 1)) * share
        losses["actor"] -= value(outputs(fixed["critic"], 0, o, act(flat["actor"], o))) * share
    return losses


@pytest.mark.parametrize("config", [SQUARED, HL_GAUSS], ids=lambda config: config.value_loss)
def test_losses_and_gradients_are_the_papers(config):
    algorithm, batch = trained(config, updates=21), batch_of(BOX, 5, 100, alike=False)
    gradients, metrics = algorithm.gradients(batch, update_generator(7, 7))
    noise = torch.randn((5, 2), generator=update_generator(7, 7)).numpy().astype("f8")
    flat = vectors(algorithm)
    losses = slow_losses(algorithm, flat, flat, batch, noise)
    np.testing.assert_allclose(float(metrics["critic_loss"]), losses["critic"], rtol=1e-4)
    assert set(gradients) == {"actor", "critic"}
    off_policy.check_slopes(
        gradients,
        lambda name, vector: slow_losses(algorithm, flat | {name: vector}, flat, batch, noise)[name],
        flat,
    )


def test_the_actor_and_the_targets_wait_for_their_turn():
    algorithm = trained(SQUARED.model_copy(update={"policy_delay": 3}), updates=3)
    before = vectors(algorithm)
    for turn in (1, 2, 3):
        gradients, _ = algorithm.gradients(batch_of(BOX, 8), update_generator(0, turn))
        algorithm.apply(gradients)
        now = vectors(algorithm)
        assert not np.array_equal(now["critic"], before["critic"])
        for name in ("actor", "actor target", "critic target"):
            assert np.array_equal(now[name], before[name]) == (turn < 3), name
    for name in ("actor", "critic"):
        expected = before[f"{name} target"] + 0.005 * (now[name] - before[f"{name} target"])
        np.testing.assert_allclose(now[f"{name} target"], expected, rtol=1e-5, atol=1e-8)


def test_state_gradients_and_published_weights():
    algorithm = trained(SQUARED, updates=21)
    off_policy.check_gradients_change_nothing(algorithm)
    off_policy.check_round_trip(algorithm)
    off_policy.check_published_weights_are_left_alone(algorithm)
    with pytest.raises(ValueError, match="'actor' of shape"):
        Config(hidden=(4,)).build(BOX).load_state(algorithm.state())


def test_policy_in_numpy_is_the_actor_in_torch():
    algorithm = trained(SQUARED)
    spec = pickle.loads(pickle.dumps(algorithm.policy_spec()))
    noisy, exact = spec.build(seed=5), spec.build(seed=5, deterministic=True)
    for policy in (noisy, exact):
        policy.load(algorithm.policy_weights())
    observation = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    with torch.no_grad():
        mean = torch.tanh(algorithm.actor_net(algorithm.actor.frozen, torch.from_numpy(observation))).numpy()
    center, half = (HIGH + LOW) / 2, (HIGH - LOW) / 2
    chosen, _, _ = exact.step({"array": observation}, {}, np.zeros(64, bool))
    np.testing.assert_allclose(chosen, center + half * mean, atol=1e-5)

    noise = np.random.default_rng(5).standard_normal((64, 2), np.float32)
    action, log_prob, state = noisy.step({"array": observation}, {}, np.zeros(64, bool))
    np.testing.assert_allclose(action, center + half * np.clip(mean + 0.1 * noise, -1, 1), atol=1e-5)
    density = np.exp(-0.5 * noise.astype("f8") ** 2) / (half * 0.1 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(log_prob, np.log(density).sum(1), rtol=1e-4, atol=1e-4)
    assert (action.dtype, log_prob.dtype, state) == (np.float32, np.float32, {})
    assert all(BOX.action_space.contains(row) for row in action)


def test_uniform_until_trained():
    algorithm = Config(hidden=(8,)).build(BOX)
    policy = algorithm.policy_spec().build(seed=1)
    policy.load(algorithm.policy_weights())
    action, log_prob, _ = policy.step({"array": np.zeros((4000, 3), "f4")}, {}, np.ones(4000, bool))
    np.testing.assert_allclose(log_prob, -math.log(4 * 10), rtol=1e-6)
    np.testing.assert_allclose(action.std(0), (HIGH - LOW) / math.sqrt(12), rtol=0.03)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("test", Box(-1, 1, (3,)), Discrete(3)), "TD3 needs a continuous action space"),
        (EnvSpec("test", Box(-1, 1, (3,)), Box(-np.inf, np.inf, (2,))), "finite"),
        (EnvSpec("test", Box(0, 255, (8, 8, 3), np.uint8), BOX.action_space), "Boxes of floats"),
    ],
)
def test_spaces_that_it_cannot_handle_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        Config().build(spec)


def test_registry_and_config():
    assert algorithm_config("td3") is Config
    for wrong in ({"policy_delay": 0}, {"exploration_noise": 0.0}, {"value_min": 5.0, "value_max": 5.0}):
        with pytest.raises(ValidationError):
            Config(**wrong)
    assert all(field.description for field in Config.model_fields.values())


@pytest.mark.parametrize("loss", ["squared", "hl_gauss"])
def test_it_learns_a_bandit_of_one_step(loss):
    """Reward −(a − f(o))² with a in [−2, 2] × [0, 10]: doing nothing gives about −5, a fiftieth of it remains."""
    config = Config(
        hidden=(64, 64),
        batch_size=128,
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        value_loss=loss,
        value_min=-20.0,
        value_max=2.0,
        num_bins=51,
    )
    algorithm = config.build(BOX, seed=0)

    def rewards(o, a):
        best = np.stack([1.5 * np.sin(2 * o[:, 0]), 5 + 3 * o[:, 1]], 1)
        return -(((a - best) / [1, 2]) ** 2).sum(1).astype("f4")

    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (6000, 3)).astype("f4")
    action = rng.uniform(LOW, HIGH, (6000, 2)).astype("f4")
    for update in range(1000):
        index = sample_generator(0, update).integers(0, len(observation), config.batch_size)
        batch = batch_of(BOX, config.batch_size)
        batch.observation, batch.action = {"array": observation[index]}, action[index]
        batch.reward, batch.discount = rewards(observation[index], action[index]), np.zeros(config.batch_size, "f4")
        gradients, _ = algorithm.gradients(batch, update_generator(0, update))
        algorithm.apply(gradients)
    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    held_out = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype("f4")
    assert rewards(held_out, policy.step({"array": held_out}, {}, np.ones(500, bool))[0]).mean() > -0.1
