"""Action sequences against a slow numpy transcription of the formulas, their acting side, and what they are for."""

import math
import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.randomness import update_generator
from distrl.learners.registry import algorithm_config
from distrl.learners.sequence_config import Config
from tests.learners import off_policy
from tests.learners.off_policy import BOX, HIGH, LOW, batch_of, shares_of, slow_mlp, split, trained, vectors

torch.set_num_threads(1)

CENTER, HALF = (HIGH + LOW) / 2, (HIGH - LOW) / 2
SMALL = Config(
    hidden=(8, 6),
    sequence_length=3,
    critic_learning_rate=0.01,
    actor_learning_rate=0.01,
    model_learning_rate=0.01,
    reward_scale=0.5,
)


def slow_plan(parameters, o, noise, given=None):
    """Actions [J, A] in [−1, 1] and their log-densities [J], in float64. ``given``: the actions that the recurrent
    layer takes instead of its own; what depends on them is then not differentiated."""

    def named(prefix):
        return {name.removeprefix(prefix): part for name, part in parameters.items() if name.startswith(prefix)}

    def gates(side, x):
        return np.split(x @ parameters[f"memory/{side}/weight"] + parameters[f"memory/{side}/bias"], 3)

    h, before, actions, log_probs = np.tanh(slow_mlp(named("embedding/"), o)), np.zeros(2), [], []
    for k, epsilon in enumerate(noise):
        (r1, z1, n1), (r2, z2, n2) = gates("input", before), gates("hidden", h)
        reset, keep = 1 / (1 + np.exp(-r1 - r2)), 1 / (1 + np.exp(-z1 - z2))
        h = (1 - keep) * np.tanh(n1 + reset * n2) + keep * h
        mean, log_std = np.split(slow_mlp(named("head/"), h), 2)
        std = np.exp(np.clip(log_std, -20, 2))
        action = np.tanh(mean + std * epsilon)
        density = np.exp(-0.5 * epsilon**2) / (std * math.sqrt(2 * math.pi)) / (1 - action**2)
        actions.append(action)
        log_probs.append(np.log(density).sum())
        before = action if given is None else given[k]
    return actions, log_probs


def slow_losses(algorithm, flat, fixed, batch, noise):
    """The module's formulas, sample by sample; ``fixed``: parameters that a loss does not differentiate."""
    config = algorithm.config
    losses = dict.fromkeys(("actor", "critic", "model", "log_temperature"), 0.0)
    temperature = math.exp(fixed["log_temperature"][0])

    def value(vector, i, o, a):
        return slow_mlp(split(algorithm.critic, vector), np.concatenate([o, a]), i)[0]

    def change(vector, o, a):
        return slow_mlp(split(algorithm.model, vector), np.concatenate([o, a]))

    for s, share in enumerate(shares_of(batch)):
        o, o2 = (part["array"][s].astype("f8") for part in (batch.observation, batch.next_observation))
        a = (batch.action[s] - CENTER) / HALF
        (a2,), (log2,) = slow_plan(split(algorithm.actor, fixed["actor"]), o2, noise[:1, s])
        least = min(value(fixed["critic target"], i, o2, a2) for i in (0, 1))
        y = config.reward_scale * batch.reward[s] + batch.discount[s] * (least - temperature * log2)
        losses["critic"] += sum(0.5 * (value(flat["critic"], i, o, a) - y) ** 2 for i in (0, 1)) * share
        if batch.discount[s] > 0:
            losses["model"] += 0.5 * ((o + change(flat["model"], o, a) - o2) ** 2).sum() * share

        done, surprises = slow_plan(split(algorithm.actor, fixed["actor"]), o, noise[1:, s])
        place = o
        actions, log_probs = slow_plan(split(algorithm.actor, flat["actor"]), o, noise[1:, s], given=done)
        for k in range(config.sequence_length):
            least = min(value(fixed["critic"], i, place, actions[k]) for i in (0, 1))
            losses["actor"] += (temperature * log_probs[k] - least) * share
            surplus = -surprises[k] - algorithm.target_entropy
            losses["log_temperature"] += math.exp(flat["log_temperature"][0]) * surplus * share / config.sequence_length
            place = place + change(fixed["model"], place, done[k])
    return losses


@pytest.mark.parametrize("length", [1, 3])
def test_losses_and_gradients_are_the_formulas(length):
    algorithm = trained(SMALL.model_copy(update={"sequence_length": length}))
    batch = batch_of(BOX, 5, 100, alike=False)
    assert 0 < np.count_nonzero(batch.discount) < 5
    gradients, metrics = algorithm.gradients(batch, update_generator(7, 7))
    noise = torch.randn((1 + length, 5, 2), generator=update_generator(7, 7)).numpy().astype("f8")
    flat = vectors(algorithm)
    losses = slow_losses(algorithm, flat, flat, batch, noise)
    for name in ("actor", "critic", "model"):
        np.testing.assert_allclose(float(metrics[f"{name}_loss"]), losses[name], rtol=1e-4)
    assert set(gradients) == set(losses)
    off_policy.check_slopes(
        gradients,
        lambda name, vector: slow_losses(algorithm, flat | {name: vector}, flat, batch, noise)[name],
        flat,
    )


def test_what_a_terminated_transition_leads_to_is_nothing_to_the_model():
    algorithm, batch = trained(SMALL), batch_of(BOX, 8)
    over = batch.discount == 0
    before, _ = algorithm.gradients(batch, update_generator(0, 0))
    batch.next_observation["array"][over] += 100.0
    after, _ = algorithm.gradients(batch, update_generator(0, 0))
    np.testing.assert_array_equal(before["model"], after["model"])


@pytest.mark.parametrize("config", [SMALL, SMALL.model_copy(update={"value_loss": "hl_gauss"})])
def test_state_gradients_and_published_weights(config):
    algorithm = trained(config)
    off_policy.check_gradients_change_nothing(algorithm)
    off_policy.check_round_trip(algorithm)
    off_policy.check_published_weights_are_left_alone(algorithm)
    with pytest.raises(ValueError, match="'actor' of shape"):
        Config(hidden=(4,)).build(BOX).load_state(algorithm.state())


def policy_of(algorithm, **how):
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(**how)
    policy.load(algorithm.policy_weights())
    return policy


@pytest.mark.parametrize("deterministic", [True, False])
def test_it_acts_as_the_actor_unrolled(deterministic):
    algorithm = trained(SMALL)
    policy = policy_of(algorithm, seed=5, deterministic=deterministic)
    observation = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    drawn = np.random.default_rng(5)
    noise = np.stack(
        [np.zeros((64, 2), "f4") if deterministic else drawn.standard_normal((64, 2), "f4") for _ in "123"]
    )
    with torch.no_grad():
        unrolled = algorithm.actor_net.unroll(algorithm.actor.frozen, *map(torch.from_numpy, (observation, noise)))
    state = policy.initial_state(64)
    for k, (expected, density) in enumerate(zip(*(part.numpy() for part in unrolled), strict=True)):
        # what is observed later changes nothing
        seen = observation if k == 0 else np.full_like(observation, np.nan)
        action, log_prob, state = policy.step({"array": seen}, state, np.full(64, k == 0))
        np.testing.assert_allclose(action, CENTER + HALF * expected, atol=1e-5)
        np.testing.assert_allclose(log_prob, density - np.log(HALF).sum(), rtol=1e-4, atol=1e-4)
        assert (action.dtype, log_prob.dtype) == (np.float32, np.float32)
        assert all(BOX.action_space.contains(row) for row in action)
        assert (state["left"] == 2 - k).all()


def test_a_plan_is_kept_for_its_steps_and_dropped_where_an_episode_begins():
    policy = policy_of(trained(SMALL), seed=0, deterministic=True)
    observations = np.random.default_rng(1).normal(size=(5, 2, 3)).astype("f4")

    def plan(t, row):
        """What it would do of the observation, from a new start."""
        state, first, actions = policy.initial_state(1), np.array([True]), []
        for _ in range(3):
            action, _, state = policy.step({"array": observations[t, row : row + 1]}, state, first)
            actions.append(action[0])
            first = np.array([False])
        return actions

    state, done = policy.initial_state(2), []
    for t in range(5):
        before = {path: array.copy() for path, array in state.items()}
        # the second row begins an episode at t = 2
        action, _, following = policy.step({"array": observations[t]}, state, np.array([t == 0, t in (0, 2)]))
        assert all(np.array_equal(state[path], array) for path, array in before.items()), "a state is never changed"
        state = following
        done.append(action)
    first, second = np.array(done).swapaxes(0, 1)
    np.testing.assert_allclose(first, [*plan(0, 0), *plan(3, 0)[:2]], atol=1e-6)
    np.testing.assert_allclose(second, [*plan(0, 1)[:2], *plan(2, 1)], atol=1e-6)


def test_uniform_until_trained():
    algorithm = Config(hidden=(8,)).build(BOX)
    policy = policy_of(algorithm, seed=1)
    zeros, state, actions = np.zeros((2000, 3), "f4"), policy.initial_state(2000), []
    for _ in range(3):
        action, log_prob, state = policy.step({"array": zeros}, state, np.zeros(2000, bool))
        np.testing.assert_allclose(log_prob, -math.log(4 * 10), rtol=1e-6)
        np.testing.assert_allclose(action.std(0), (HIGH - LOW) / math.sqrt(12), rtol=0.05)
        actions.append(action)
    assert not np.array_equal(actions[0], actions[1])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("test", Box(-1, 1, (3,)), Discrete(3)), "sequence-sac needs a continuous action space"),
        (EnvSpec("test", Box(0, 255, (8, 8, 3), np.uint8), BOX.action_space), "Boxes of floats"),
        (EnvSpec("test", Discrete(4), BOX.action_space), "Boxes of floats"),
    ],
)
def test_spaces_that_it_cannot_handle_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        Config().policy_spec(spec)


def test_registry_and_config():
    assert algorithm_config("sequence-sac") is Config
    for wrong in ({"sequence_length": 0}, {"n_step": 3}, {"gamma": 0.0}):
        with pytest.raises(ValidationError):
            Config(**wrong)
    assert all(field.description for field in Config.model_fields.values())


def test_it_plans_what_it_will_not_see():
    """o moves by what is done, at most 0.5, and the reward is −|o'|²: the second step is done blind, and only if it
    goes on where the first has led are both together in the middle, from anywhere within 1."""
    spec = EnvSpec("test", Box(-1, 1, (1,)), Box(-0.5, 0.5, (1,)))
    config = Config(
        hidden=(32, 32),
        sequence_length=2,
        gamma=0.5,
        initial_temperature=0.01,
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        model_learning_rate=3e-3,
        temperature_learning_rate=3e-3,
        tau=0.02,
        target_entropy=-3.0,
    )
    algorithm, rng = config.build(spec, seed=0), np.random.default_rng(0)
    for update in range(600):
        batch = batch_of(spec, 64)
        here, move = rng.uniform(-1.5, 1.5, (64, 1)).astype("f4"), rng.uniform(-0.5, 0.5, (64, 1)).astype("f4")
        batch.observation, batch.action, batch.next_observation = {"array": here}, move, {"array": here + move}
        batch.reward, batch.discount = -((here + move) ** 2).sum(1), np.full(64, 0.5, "f4")
        gradients, _ = algorithm.gradients(batch, update_generator(0, update))
        algorithm.apply(gradients)
    policy = policy_of(algorithm, seed=0, deterministic=True)
    here = np.linspace(-0.9, 0.9, 19, dtype="f4")[:, None]
    first, _, state = policy.step({"array": here}, policy.initial_state(19), np.ones(19, bool))
    second, _, _ = policy.step({"array": np.zeros_like(here)}, state, np.zeros(19, bool))
    assert np.abs(here + first + second).mean() < 0.08  # without moving 0.47; 0.105 is the least with one step
