"""MASAC against a slow transcription of its formulas, its acting side, and a task that agents only solve together."""

import math
import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, MultiBinary, MultiDiscrete

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.masac import MASAC
from distrl.learners.masac_config import Config
from distrl.learners.networks import squashed_gaussian
from distrl.learners.randomness import update_generator
from distrl.learners.registry import algorithm_config
from distrl.learners.replay import SampleBatch
from distrl.learners.team_policies import team_inputs
from tests.learners.off_policy import check_replayed_updates

torch.set_num_threads(1)

AGENTS, SIZE, STATE, ACTIONS = 3, 4, 5, 2
LOW, HIGH = np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4")
IDLE = np.zeros(0, bool)  # is_first: a policy without memory does not look at it


def team(state=STATE, agents=AGENTS, size=SIZE, low=LOW, high=HIGH):
    entries = {"observation": Box(-np.inf, np.inf, (agents, size)), "alive": MultiBinary(agents)}
    if state:
        entries["state"] = Box(-np.inf, np.inf, (state,))
    return EnvSpec("team", Dict(entries), Box(np.stack([low] * agents), np.stack([high] * agents)))


def observations(number, state, seed=0):
    """Some agents are dead, and then see zeros."""
    rng = np.random.default_rng(seed)
    alive = (rng.random((number, AGENTS)) < 0.7).astype("i1")
    seen = {"observation": rng.normal(size=(number, AGENTS, SIZE)).astype("f4") * alive[..., None], "alive": alive}
    return seen | ({"state": rng.normal(size=(number, state)).astype("f4")} if state else {})


def batch_of(number, state=STATE, seed=0) -> SampleBatch:
    rng = np.random.default_rng(100 + seed)
    zeros = np.zeros(number, np.float32)
    return SampleBatch(
        observation=observations(number, state, seed),
        action=(LOW + (HIGH - LOW) * rng.random((number, AGENTS, ACTIONS))).astype("f4"),
        reward=rng.normal(size=number).astype("f4"),
        discount=rng.choice([0.0, 0.9], number).astype("f4"),
        next_observation=observations(number, state, seed + 1),
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=zeros,
    )


def trained(state=STATE, **options) -> MASAC:
    """A little, so that target networks are not the networks and no output is near zero."""
    config = Config(hidden=(8, 6), critic_learning_rate=0.01, actor_learning_rate=0.01, **options)
    algorithm = config.build(team(state), seed=3)
    for i in range(20):
        algorithm.apply(algorithm.gradients(batch_of(16, state, i), update_generator(0, i))[0])
    return algorithm


def slow_losses(algorithm, flat, batch, noise):
    """Sample by sample and agent by agent in float64. ``flat``: the parameters, and as ``…_fixed`` and ``target`` those
    that a loss must not differentiate."""

    def network(parameters, net, index, x):
        last = len(net.sizes) - 2
        for i in range(last + 1):
            weight, bias = parameters[f"{i}/weight"], parameters[f"{i}/bias"]
            weight, bias = (weight[index], bias[index, 0]) if net.ensemble else (weight, bias)
            x = x @ weight + bias if i == last else np.maximum(x @ weight + bias, 0)
        return x

    def split(parameters, vector):
        return {name: part.numpy() for name, part in parameters.split(torch.from_numpy(vector)).items()}

    def act(vector, seen, s, epsilon):
        """[A, k], and log π over those who live."""
        actions, total = np.zeros((AGENTS, ACTIONS)), 0.0
        for a in range(AGENTS):
            if not seen["alive"][s, a]:
                continue
            own = seen["observation"][s, a].astype("f8")
            own = np.append(own, np.eye(AGENTS)[a]) if algorithm.config.agent_id else own
            mean, log_std = np.split(network(split(algorithm.actor, vector), algorithm.actor_net, 0, own), 2)
            std, z = np.exp(np.clip(log_std, -20, 2)), epsilon.reshape(AGENTS, ACTIONS)[a]
            actions[a] = np.tanh(mean + std * z)
            density = np.exp(-0.5 * z**2) / (std * math.sqrt(2 * math.pi)) / (1 - actions[a] ** 2)
            total += np.log(density).sum()
        return actions, total

    def q(vector, index, seen, s, actions):
        together = seen["state"][s] if "state" in seen else seen["observation"][s].ravel()
        alive = seen["alive"][s]
        x = np.concatenate([together, alive, (actions * alive[:, None]).ravel()]).astype("f8")
        return network(split(algorithm.critic, vector), algorithm.critic_net, index, x)[0]

    losses = {"actor": 0.0, "critic": 0.0, "log_temperature": 0.0}
    size, temperature = len(batch.reward), math.exp(flat["log_temperature_fixed"][0])
    counts = (np.ones(size) if batch.weight is None else batch.weight) / size
    for s in range(size):
        seen, following = batch.observation, batch.next_observation
        given = 2 * (batch.action[s] - LOW) / (HIGH - LOW) - 1
        later, log_later = act(flat["actor_fixed"], following, s, noise[0, s])
        value = min(q(flat["target"], i, following, s, later) for i in (0, 1)) - temperature * log_later
        y = batch.reward[s] + batch.discount[s] * value
        losses["critic"] += sum(0.5 * (q(flat["critic"], i, seen, s, given) - y) ** 2 for i in (0, 1)) * counts[s]
        new, log = act(flat["actor"], seen, s, noise[1, s])
        least = min(q(flat["critic_fixed"], i, seen, s, new) for i in (0, 1))
        losses["actor"] += (temperature * log - least) * counts[s]
        _, log = act(flat["actor_fixed"], seen, s, noise[1, s])
        wanted = -ACTIONS * seen["alive"][s].sum()
        losses["log_temperature"] -= math.exp(flat["log_temperature"][0]) * (log + wanted) * counts[s]
    return losses


@pytest.mark.parametrize(
    ("state", "agent_id", "weight"), [(STATE, True, None), (0, False, np.array([0.5, 2.0, 0.0, 1.0, 3.0], "f4"))]
)
def test_losses_and_gradients_are_the_formulas(state, agent_id, weight):
    algorithm, batch = trained(state, agent_id=agent_id), batch_of(5, state, 77)
    batch.weight = weight
    gradients, metrics = algorithm.gradients(batch, update_generator(7, 7))
    noise = torch.randn((2, 5, AGENTS * ACTIONS), generator=update_generator(7, 7)).numpy().astype("f8")
    flat = {name: vector.flat.numpy().astype("f8") for name, vector in algorithm.optimizer.trained.items()}
    flat |= {f"{name}_fixed": vector for name, vector in flat.items()}
    flat["target"] = algorithm.optimizer.trained["critic"].target.numpy().astype("f8")

    losses = slow_losses(algorithm, flat, batch, noise)
    np.testing.assert_allclose(float(metrics["critic_loss"]), losses["critic"], rtol=1e-4)
    np.testing.assert_allclose(float(metrics["actor_loss"]), losses["actor"], rtol=1e-4)
    rng = np.random.default_rng(0)
    for name, gradient in gradients.items():
        for _ in range(3):
            direction = rng.normal(size=flat[name].shape)
            up, down = (
                slow_losses(algorithm, flat | {name: flat[name] + step * direction}, batch, noise)[name]
                for step in (1e-5, -1e-5)
            )
            slope = gradient.numpy().astype("f8") @ direction
            np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=2e-3, atol=1e-4)


def test_what_the_dead_are_said_to_do_changes_nothing():
    algorithm, batch = trained(), batch_of(16)
    before, _ = algorithm.gradients(batch, update_generator(0, 0))
    batch.action[batch.observation["alive"] == 0] = HIGH
    after, _ = algorithm.gradients(batch, update_generator(0, 0))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("state", [STATE, 0])
def test_replayed_updates_are_those_of_calls(monkeypatch, state):
    check_replayed_updates(
        monkeypatch,
        lambda: Config(hidden=(8, 6)).build(team(state), seed=3),
        lambda update: batch_of(16, state, update),
    )


@pytest.mark.parametrize("agent_id", [True, False])
def test_policy_in_numpy_is_the_actor_in_torch(agent_id):
    algorithm = trained(agent_id=agent_id)
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=5)
    policy.load(algorithm.policy_weights())
    seen = observations(40, 0)  # the state is the critics'
    action, log_prob, state = policy.step(seen, {}, IDLE)
    assert (action.shape, action.dtype, log_prob.dtype, state) == ((40, AGENTS, ACTIONS), np.float32, np.float32, {})
    assert all(row in team().action_space for row in policy.env_action(action))

    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((40 * AGENTS, ACTIONS), np.float32))
    with torch.no_grad():
        inputs = torch.from_numpy(team_inputs(seen["observation"], agent_id))
        expected, each = squashed_gaussian(algorithm.actor_net(algorithm.actor.frozen, inputs), noise)
    half = (HIGH - LOW) / 2
    np.testing.assert_allclose(action, (LOW + half * (1 + expected.numpy().reshape(action.shape))), atol=1e-5)
    each = each.numpy().reshape(40, AGENTS) - np.log(half).sum()
    np.testing.assert_allclose(log_prob, (each * seen["alive"]).sum(1), atol=1e-4)


def test_it_acts_uniformly_until_it_is_trained():
    policy = Config(hidden=(8,)).build(team()).policy_spec().build(seed=1)
    assert policy.ready
    seen = {"observation": np.zeros((4000, AGENTS, SIZE), "f4"), "alive": np.ones((4000, AGENTS), "i1")}
    seen["alive"][0, 0] = 0
    action, log_prob, _ = policy.step(seen, {}, IDLE)
    np.testing.assert_allclose(action.mean(0), np.stack([(LOW + HIGH) / 2] * AGENTS), atol=0.2)
    np.testing.assert_allclose(log_prob[:2], [-2 * math.log(4 * 10), -3 * math.log(4 * 10)], rtol=1e-5)


def test_two_agents_learn_what_only_both_together_can_do():
    """One sees t, the other w, and they are paid −(u₀ + u₁ − t)² − ½ (u₁ − w)². Who sees t cannot know w: so the other
    has to give up two thirds of what it wants. E w² = ⅓, the best return is −⅑; each for itself (u₁ = w) gets −⅓."""

    def returns(seen, action):
        (t, w), (u0, u1) = seen[:, :, 0].T, action[:, :, 0].T
        return (-((u0 + u1 - t) ** 2) - 0.5 * (u1 - w) ** 2).astype("f4")

    def beside(seen):
        return {"observation": seen, "alive": np.ones((len(seen), 2), "i1")}

    rates = {f"{part}_learning_rate": 3e-3 for part in ("actor", "critic", "temperature")}
    spec = team(0, 2, 1, np.array([-1.0], "f4"), np.array([1.0], "f4"))
    algorithm = Config(hidden=(32, 32), initial_temperature=0.1, **rates).build(spec)
    policy, rng = algorithm.policy_spec().build(seed=0), np.random.default_rng(0)
    batch, zeros = batch_of(128), np.zeros(128, "f4")
    for update in range(450):
        policy.load(algorithm.policy_weights())
        seen = rng.uniform(-1, 1, (128, 2, 1)).astype("f4")
        batch.observation = batch.next_observation = beside(seen)
        batch.action = policy.step(batch.observation, {}, IDLE)[0]
        batch.reward, batch.discount = returns(seen, batch.action), zeros
        algorithm.apply(algorithm.gradients(batch, update_generator(0, update))[0])
    greedy = algorithm.policy_spec().build(seed=0, deterministic=True)
    greedy.load(algorithm.policy_weights())
    seen = np.random.default_rng(1).uniform(-1, 1, (2000, 2, 1)).astype("f4")
    assert returns(seen, greedy.step(beside(seen), {}, IDLE)[0]).mean() > -0.14


def test_histograms_of_values_and_a_bonus_for_what_is_new_to_the_team():
    bonus = {"hidden": [7], "num_features": 5}
    algorithm = trained(value_loss="hl_gauss", value_min=-9.0, value_max=9.0, num_bins=18, bonus=bonus)
    gradients, _ = algorithm.gradients(batch_of(5), update_generator(0, 0))
    assert algorithm.critic_net.sizes[-1] == 18
    assert gradients["bonus"].abs().sum() > 0
    before = algorithm.optimizer.trained["bonus"].flat.clone()
    algorithm.apply(gradients)
    assert not torch.equal(before, algorithm.optimizer.trained["bonus"].flat)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("one", Box(-1, 1, (3,)), Box(-1, 1, (2,))), r"MASAC needs a whole team .* env\.agents\.team = true"),
        (EnvSpec("t", team().observation_space, MultiDiscrete([3] * 3)), "MASAC needs a continuous action space"),
        (team(low=np.full(2, -np.inf, "f4")), "MASAC needs action bounds that are finite"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        Config().policy_spec(spec)


def test_registry_and_config():
    assert algorithm_config("masac") is Config
    assert all(field.description for field in Config.model_fields.values())
