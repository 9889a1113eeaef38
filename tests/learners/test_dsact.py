"""DSAC-T against a slow numpy transcription of the paper's gradients, its state, and that it learns."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.dsact_config import Config
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.registry import algorithm_config
from tests.learners import off_policy
from tests.learners.off_policy import BOX, HIGH, LOW, batch_of, shares_of, slow_mlp, split, trained, vectors

torch.set_num_threads(1)

SMALL = Config(hidden=(8, 6), critic_learning_rate=0.01, actor_learning_rate=0.01, reward_scale=0.5)


def slow_losses(algorithm, flat, fixed, spread, batch, noise, drawn):
    """The module's formulas, sample by sample in float64; ``fixed``: parameters that are not differentiated. Of the
    critics, what has the paper's gradient: −(y_q − Q) / … · Q − (…) / … · σ with the factors held."""
    config = algorithm.config
    losses = {"actor": 0.0, "critic": 0.0, "log_temperature": 0.0}
    temperature = math.exp(fixed["log_temperature"][0])

    def returns(vector, i, o, a):
        mean, x = slow_mlp(split(algorithm.critic, vector), np.concatenate([o, a]), i)
        return mean, math.log1p(math.exp(x))

    def act(vector, o, epsilon):
        mean, log_std = np.split(slow_mlp(split(algorithm.actor, vector), o), 2)
        std = np.exp(np.clip(log_std, -20, 2))
        u = mean + std * epsilon
        density = np.exp(-0.5 * epsilon**2) / (std * math.sqrt(2 * math.pi)) / (1 - np.tanh(u) ** 2)
        return np.tanh(u), np.log(density).sum()

    for s, share in enumerate(shares_of(batch)):
        o, o2 = (part["array"][s].astype("f8") for part in (batch.observation, batch.next_observation))
        a = 2 * (batch.action[s] - LOW) / (HIGH - LOW) - 1
        a2, log2 = act(fixed["actor target"], o2, noise[0, s])
        following = [returns(fixed["critic target"], i, o2, a2) for i in (0, 1)]
        least = min((0, 1), key=lambda i: following[i][0])
        value, spread_of_it = following[least]
        z = value + spread_of_it * min(max(drawn[least, s], -3), 3)
        y_q, y_z = (
            config.reward_scale * batch.reward[s] + batch.discount[s] * (x - temperature * log2) for x in (value, z)
        )
        for i in (0, 1):
            mean, std = returns(fixed["critic"], i, o, a)
            bound = 3 * spread[0][i]
            clipped = min(max(y_z, mean - bound), mean + bound)
            d_mean = -(y_q - mean) / (std**2 + 0.1)
            d_std = -((clipped - mean) ** 2 - std**2) / (std**3 + 0.1)
            mean, std = returns(flat["critic"], i, o, a)
            losses["critic"] += (spread[1][i] + 0.1) * (d_mean * mean + d_std * std) * share
        new, log = act(flat["actor"], o, noise[1, s])
        losses["actor"] += (temperature * log - min(returns(fixed["critic"], i, o, new)[0] for i in (0, 1))) * share
        _, log = act(fixed["actor"], o, noise[1, s])
        losses["log_temperature"] -= math.exp(flat["log_temperature"][0]) * (log + algorithm.target_entropy) * share
    return losses


def test_gradients_are_the_papers():
    algorithm, batch = trained(SMALL, updates=21), batch_of(BOX, 5, 100, alike=False)
    gradients, _ = algorithm.gradients(batch, update_generator(7, 7))
    generator = update_generator(7, 7)
    noise, drawn = (torch.randn(shape, generator=generator).numpy().astype("f8") for shape in ((2, 5, 2), (2, 5)))
    flat = vectors(algorithm)

    stds = []
    for i in (0, 1):
        for s in range(5):
            a = 2 * (batch.action[s] - LOW) / (HIGH - LOW) - 1
            inputs = np.concatenate([batch.observation["array"][s], a])
            stds.append(math.log1p(math.exp(slow_mlp(split(algorithm.critic, flat["critic"]), inputs, i)[1])))
    stds = np.array(stds).reshape(2, 5)
    spread = 0.995 * algorithm.spread.numpy() + 0.005 * np.stack([stds.mean(1), (stds**2).mean(1)])

    def losses(name, vector):
        return slow_losses(algorithm, flat | {name: vector}, flat, spread, batch, noise, drawn)[name]

    assert set(gradients) == {"actor", "critic", "log_temperature"}
    off_policy.check_slopes(gradients, losses, flat)
    algorithm.apply(gradients)
    np.testing.assert_allclose(algorithm.spread.numpy(), spread, rtol=1e-4)


def test_actor_temperature_and_targets_wait_for_their_turn():
    algorithm = trained(SMALL, updates=2)
    before = vectors(algorithm)
    for turn in (1, 2):
        gradients, _ = algorithm.gradients(batch_of(BOX, 8), update_generator(0, turn))
        algorithm.apply(gradients)
        now = vectors(algorithm)
        assert not np.array_equal(now["critic"], before["critic"])
        for name in ("actor", "log_temperature", "actor target", "critic target"):
            assert np.array_equal(now[name], before[name]) == (turn < 2), name


def test_state_gradients_and_published_weights():
    algorithm = trained(SMALL, updates=21)
    assert algorithm.spread.isfinite().all()
    off_policy.check_gradients_change_nothing(algorithm)
    off_policy.check_round_trip(algorithm)
    off_policy.check_round_trip(SMALL.build(BOX))  # before the first update
    off_policy.check_published_weights_are_left_alone(algorithm)
    with pytest.raises(ValueError, match="'actor' of shape"):
        Config(hidden=(4,)).build(BOX).load_state(algorithm.state())


def test_it_acts_as_the_actor():
    algorithm = trained(SMALL)
    policy = algorithm.policy_spec().build(seed=5, deterministic=True)
    policy.load(algorithm.policy_weights())
    observation = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    with torch.no_grad():
        outputs = algorithm.actor_net(algorithm.actor.frozen, torch.from_numpy(observation)).numpy()
    expected = (HIGH + LOW) / 2 + (HIGH - LOW) / 2 * np.tanh(outputs[:, :2])
    np.testing.assert_allclose(policy.step({"array": observation}, {}, np.zeros(64, bool))[0], expected, atol=1e-5)


def test_what_it_cannot_have_is_refused():
    assert algorithm_config("dsact") is Config
    with pytest.raises(ConfigError, match="DSAC-T needs a continuous action space"):
        Config().build(EnvSpec("test", Box(-1, 1, (3,)), Discrete(3)))
    for wrong in ({"policy_delay": 0}, {"clip_range": 0.0}):
        with pytest.raises(ValidationError):
            Config(**wrong)
    assert all(field.description for field in Config.model_fields.values())


def test_it_learns_a_bandit_and_how_its_rewards_are_spread():
    """Reward −(a − f(o))² + noise of standard deviation 1, a in [−2, 2] × [0, 10]: doing nothing gives about −5."""
    config = Config(hidden=(64, 64), batch_size=128, actor_learning_rate=3e-3, critic_learning_rate=3e-3)
    config = config.model_copy(update={"temperature_learning_rate": 3e-3, "initial_temperature": 0.1})
    algorithm = config.build(BOX, seed=0)

    def rewards(o, a):
        best = np.stack([1.5 * np.sin(2 * o[:, 0]), 5 + 3 * o[:, 1]], 1)
        return -(((a - best) / [1, 2]) ** 2).sum(1).astype("f4")

    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (20_000, 3)).astype("f4")
    action = rng.uniform(LOW, HIGH, (20_000, 2)).astype("f4")
    reward = rewards(observation, action) + rng.normal(size=20_000).astype("f4")
    for update in range(900):
        index = sample_generator(0, update).integers(0, len(observation), config.batch_size)
        batch = batch_of(BOX, config.batch_size)
        batch.observation, batch.action = {"array": observation[index]}, action[index]
        batch.reward, batch.discount = reward[index], np.zeros(config.batch_size, "f4")
        gradients, metrics = algorithm.gradients(batch, update_generator(0, update))
        algorithm.apply(gradients)
    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    held_out = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype("f4")
    assert rewards(held_out, policy.step({"array": held_out}, {}, np.ones(500, bool))[0]).mean() > -0.2
    assert abs(float(metrics["std_mean"]) - 1.0) < 0.25
