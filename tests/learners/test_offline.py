"""Behaviour cloning and implicit Q-learning against slow transcriptions of their formulas, and what each learns."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from distrl.api import LoadedPolicy
from distrl.core.errors import ConfigError
from distrl.core.experience_log import read_log
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs.resolve import make, spec_of
from distrl.learners.offline_config import BC, IQL
from distrl.learners.randomness import sample_generator
from distrl.learners.replay import Replay, SampleBatch
from distrl.learners.trainer import train_on
from tests.fakes.logs import played
from tests.learners.off_policy import check_replayed_updates

torch.set_num_threads(1)

SEEN = {"array": Box(-np.inf, np.inf, (4,)), "action_mask": MultiBinary(3)}
SPACES = {
    "box": EnvSpec("box", Box(-np.inf, np.inf, (4,)), Box(np.array([-1, 0], "f4"), np.array([3, 1], "f4"))),
    "unbounded": EnvSpec("unbounded", Box(-np.inf, np.inf, (4,)), Box(-np.inf, np.inf, (2,))),
    "masked": EnvSpec("masked", Dict(SEEN), Discrete(3, start=5)),
    "several": EnvSpec("several", Box(-np.inf, np.inf, (4,)), MultiDiscrete([2, 4], start=[0, -1])),
}


def batch_of(spec, number=6, seed=0) -> SampleBatch:
    rng = np.random.default_rng(seed)

    def seen():
        found = {"array": rng.normal(size=(number, 4)).astype("f4")}
        if isinstance(spec.observation_space, Dict):
            found["action_mask"] = (rng.random((number, 3)) < 0.5).astype("i1")
            found["action_mask"][:, 1] = 1
        return found

    observation = seen()
    if spec.id == "masked":
        action = 5 + np.array([rng.choice(np.flatnonzero(mask)) for mask in observation["action_mask"]])
    elif spec.id == "several":
        action = rng.integers([0, -1], [2, 3], size=(number, 2))
    else:
        action = rng.normal(size=(number, 2)).astype("f4") * 2  # some of it outside of the bounds, as PPO logs it
    zeros = np.zeros(number, np.float32)
    return SampleBatch(
        observation=observation,
        action=action,
        reward=rng.normal(size=number).astype("f4"),
        discount=rng.choice([0.0, 0.9], number).astype("f4"),
        next_observation=seen(),
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=zeros,
    )


def trained(config, spec):
    """A little, so that target networks are not the networks."""
    algorithm = config.build(spec, seed=3)
    for seed in range(20):
        gradients, _ = algorithm.gradients(batch_of(spec, seed=100 + seed))
        algorithm.apply(gradients)
    return algorithm


# -- the papers' formulas, sample by sample in float64 -----------------------------------------------------------------


def split(parameters, vector):
    return {name: part.numpy() for name, part in parameters.split(torch.from_numpy(np.array(vector, "f8"))).items()}


def vectors_of(iql):
    trained = iql.optimizer.trained
    found = {name: vector.flat for name, vector in trained.items()} | {"target": trained["critic"].target}
    return {name: vector.numpy().astype("f8") for name, vector in found.items()}


def slow_log_prob(spec, named, seen, mask, action):
    x = seen
    for i in range(2):
        x = np.tanh(x @ named[f"actor/{i}/weight"] + named[f"actor/{i}/bias"])
    outputs = named["actor/2/weight"] @ x + named["actor/2/bias"]
    if isinstance(spec.action_space, Box):
        action = np.clip(action, spec.action_space.low, spec.action_space.high)
        center, half = (np.array([1.0, 0.5]), np.array([2.0, 0.5])) if spec.id == "box" else (0.0, 1.0)
        std = np.exp(named["log_std"]) * half
        z = (action - (center + half * outputs)) / std
        return float(np.sum(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)))
    total, choices = 0.0, {"masked": [3], "several": [2, 4]}[spec.id]
    lowest = {"masked": [5], "several": [0, -1]}[spec.id]
    for logits, chosen, low in zip(
        np.split(outputs, np.cumsum(choices)[:-1]), np.atleast_1d(action), lowest, strict=True
    ):
        p = np.exp(logits) * (1 if mask is None else mask)
        total += np.log(p[chosen - low] / p.sum())
    return total


def slow_encoded(spec, action):
    if spec.id == "box":
        return (np.clip(action, [-1, 0], [3, 1]) - [1, 0.5]) / [2, 0.5]
    if spec.id == "unbounded":
        return action
    choices = {"masked": [3], "several": [2, 4]}[spec.id]
    lowest = {"masked": [5], "several": [0, -1]}[spec.id]
    return np.concatenate(
        [np.eye(n)[a - low] for n, a, low in zip(choices, np.atleast_1d(action), lowest, strict=True)]
    )


def slow_relu(named, x, member=None):
    for i in range(3):
        weight, bias = named[f"{i}/weight"], named[f"{i}/bias"]
        x = x @ (weight if member is None else weight[member]) + (bias if member is None else bias[member][0])
        x = np.maximum(x, 0) if i < 2 else x
    return x[0]


def slow_iql(algorithm, batch, spec, vectors):
    """(J_π, J_V, J_Q), each as a function of its own parameters alone: the others are ``fixed``."""
    config, fixed = algorithm.config, vectors_of(algorithm)
    actor = split(algorithm.actor.parameters, vectors.get("actor", fixed["actor"]))
    value, old_value = (split(algorithm.value, v["value"]) for v in (fixed | vectors, fixed))
    critic, target = split(algorithm.critic, (fixed | vectors)["critic"]), split(algorithm.critic, fixed["target"])
    losses, counts = np.zeros(3), np.ones(len(batch.reward)) if batch.weight is None else batch.weight
    for s in range(len(batch.reward)):
        seen, after = batch.observation["array"][s], batch.next_observation["array"][s]
        judged = np.append(seen, slow_encoded(spec, batch.action[s]))
        least = min(slow_relu(target, judged, member) for member in range(2))
        u = least - slow_relu(old_value, seen)
        mask = batch.observation["action_mask"][s] if "action_mask" in batch.observation else None
        weight = min(np.exp(config.inverse_temperature * u), config.max_weight)
        losses[0] -= counts[s] * weight * slow_log_prob(spec, actor, seen, mask, batch.action[s])
        u = least - slow_relu(value, seen)
        losses[1] += counts[s] * abs(config.expectile - (u < 0)) * u**2
        y = config.reward_scale * batch.reward[s] + batch.discount[s] * slow_relu(old_value, after)
        losses[2] += counts[s] * sum((y - slow_relu(critic, judged, member)) ** 2 for member in range(2))
    return losses / len(batch.reward)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
def test_iqls_losses_and_gradients_are_the_papers(spec, weighted):
    config = IQL(hidden=(8, 6), learning_rate=0.01, tau=0.1, reward_scale=0.5, max_weight=1.2, expectile=0.8)
    algorithm, batch = trained(config, spec), batch_of(spec, seed=7)
    batch.weight = np.linspace(0, 3, len(batch.reward), dtype="f4") if weighted else None
    gradients, metrics = algorithm.gradients(batch)
    found = [float(metrics[name]) for name in ("actor_loss", "value_loss", "critic_loss")]
    np.testing.assert_allclose(found, slow_iql(algorithm, batch, spec, {}), rtol=1e-4)
    assert not torch.equal(algorithm.optimizer.trained["critic"].target, algorithm.critic.flat)
    rng = np.random.default_rng(0)
    for index, name in enumerate(("actor", "value", "critic")):
        vector = vectors_of(algorithm)[name]
        direction = rng.normal(size=vector.shape)
        up, down = (
            slow_iql(algorithm, batch, spec, {name: vector + step * direction})[index] for step in (1e-5, -1e-5)
        )
        slope = gradients[name].numpy().astype("f8") @ direction
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
def test_bcs_loss_is_the_log_likelihood_and_its_gradient_that_of_an_iql_without_temperature(spec, weighted):
    algorithm, batch = trained(BC(hidden=(8, 6), learning_rate=0.01), spec), batch_of(spec, seed=7)
    counts = np.linspace(0, 3, len(batch.reward), dtype="f4") if weighted else np.ones(len(batch.reward))
    batch.weight = counts if weighted else None
    gradients, metrics = algorithm.gradients(batch)
    named = split(algorithm.actor.parameters, algorithm.actor.parameters.flat)
    masks = batch.observation.get("action_mask", [None] * len(batch.reward))
    rows = zip(batch.observation["array"], masks, batch.action, strict=True)
    slow = np.mean(counts * [slow_log_prob(spec, named, seen, mask, action) for seen, mask, action in rows])
    assert float(metrics["loss"]) == pytest.approx(-slow, rel=1e-4)
    iql = IQL(hidden=(8, 6), inverse_temperature=0.0).build(spec)
    iql.actor.parameters.flat.copy_(algorithm.actor.parameters.flat)
    torch.testing.assert_close(iql.gradients(batch)[0]["actor"], gradients["actor"])


@pytest.mark.parametrize("config", [BC(hidden=(8, 6)), IQL(hidden=(8, 6))], ids=["bc", "iql"])
@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
def test_the_acting_side_has_the_learners_probabilities(config, spec):
    algorithm, batch = trained(config, spec), batch_of(spec, seed=7)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    action, log_prob, _ = policy.step(batch.observation, {}, np.zeros(0, bool))
    inputs = torch.from_numpy(batch.observation["array"])
    raw = algorithm.actor._distribution.actions(action, torch.device("cpu"))
    _, found, _ = algorithm.actor.gradient(inputs, algorithm.actor.allowed(batch.observation), raw)
    np.testing.assert_allclose(found.numpy(), log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [BC(hidden=(8, 6)), IQL(hidden=(8, 6))], ids=["bc", "iql"])
@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
def test_replayed_updates_are_those_of_calls(monkeypatch, config, spec):
    check_replayed_updates(monkeypatch, lambda: config.build(spec, seed=1), lambda update: batch_of(spec, seed=update))


@pytest.mark.parametrize("config", [BC(hidden=(8, 6)), IQL(hidden=(8, 6))], ids=["bc", "iql"])
def test_a_state_continues_bit_for_bit(config):
    first, spec = trained(config, SPACES["masked"]), SPACES["masked"]
    second = config.build(spec, seed=9)
    second.load_state(first.state())
    for algorithm in (first, second):
        algorithm.apply(algorithm.gradients(batch_of(spec, seed=1))[0])
    for name, array in first.policy_weights().items():
        np.testing.assert_array_equal(array, second.policy_weights()[name])
    with pytest.raises(ValueError, match="use the networks and the environment"):
        config.build(SPACES["several"]).load_state(first.state())


def test_what_is_always_the_same_does_not_narrow_a_gaussian_for_ever():
    spec = SPACES["box"]
    algorithm, batch = BC(hidden=(8, 6), learning_rate=0.1).build(spec), batch_of(spec)
    batch.action[:] = [1.0, 0.5]
    algorithm.actor.parameters.frozen["log_std"].fill_(-4.99)
    algorithm.actor.parameters.frozen["actor/2/weight"].zero_()  # it does so everywhere already
    for _ in range(3):
        algorithm.apply(algorithm.gradients(batch)[0])
    assert algorithm.policy_weights()["log_std"].min() == -5.0


def test_a_central_critic_sees_the_state_and_its_actor_does_not():
    seen = {"observation": Box(-1, 1, (2,)), "state": Box(-1, 1, (5,))}
    spec = EnvSpec("agents", Dict(seen), Discrete(3))
    weights = IQL(central_critic=True, hidden=(8,)).build(spec).policy_weights()
    assert weights["actor/0/weight"].shape == (2, 8)
    assert IQL(hidden=(8,)).build(spec).policy_weights()["actor/0/weight"].shape == (7, 8)
    with pytest.raises(ConfigError, match="needs a global state"):
        IQL(central_critic=True).build(SPACES["box"])


@pytest.mark.parametrize("config", [BC(), IQL()], ids=["bc", "iql"])
def test_images_are_refused(config):
    with pytest.raises(ConfigError, match=r"observations that are numbers, but array is an image"):
        config.policy_spec(EnvSpec("image", Box(0, 255, (84, 84, 3), np.uint8), Discrete(3)))


# -- what they learn ---------------------------------------------------------------------------------------------------


def learned(config, run, env_id, updates=600):
    """The mean return of what was learned from a run's log, over 50 episodes."""
    recipe = EnvRecipe(env_id)
    env = make(recipe)
    algorithm, replay = config.build(spec_of(env, recipe)), Replay(10_000, gamma=config.gamma)
    for _, fragment in read_log(run.path / "log"):
        replay.add(fragment)
    for update in range(updates):
        train_on(algorithm, replay.sample(config.batch_size, sample_generator(0, update)), 0, update)
    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    loaded, returns = LoadedPolicy(policy), []
    for seed in range(50):
        observation, over, rewards = env.reset(seed=10_000 + seed)[0], False, []
        while not over:
            observation, reward, terminated, truncated, _ = env.step(loaded.act(observation))
            rewards.append(reward)
            over = terminated or truncated
        returns.append(sum(rewards))
    return np.mean(returns)


SMALL = {"hidden": (32,), "batch_size": 128, "learning_rate": 3e-3}


def test_bc_does_what_a_script_did_under_masks(tmp_path):
    """The first action from a given place on that the mask allows: best return 10, at random 3.3."""

    def script(seen, rng, number):
        return next((seen["from"] + i) % 6 for i in range(6) if seen["action_mask"][(seen["from"] + i) % 6])

    env_id = "tests.fakes.problems:FirstAllowed"
    run = played(tmp_path / "script", env_id, script, 200)
    assert learned(BC(**SMALL), run, env_id) > 9


def test_iql_finds_the_good_in_mostly_poor_data(tmp_path):
    """A walk to one of four corners: nine of ten episodes walk at random, one to the corner. Best return −1.7, of rest
    −22.6."""

    def mostly_poor(seen, rng, number):
        return np.clip(5 * (seen["goal"] - seen["place"]), -1, 1) if number % 10 == 0 else rng.uniform(-1, 1, 2)

    env_id = "tests.fakes.problems:Reach"
    run = played(tmp_path / "poor", env_id, mostly_poor, 200)
    bc = learned(BC(**SMALL), run, env_id)
    iql = learned(IQL(**SMALL, expectile=0.9, inverse_temperature=10.0, gamma=0.9), run, env_id)
    assert iql > -10 > -18 > bc
