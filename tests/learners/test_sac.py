"""SAC against a slow numpy transcription of the paper's formulas, its acting side, its state, and that it learns."""

import math
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.networks import squashed_gaussian
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.registry import algorithm_config
from distrl.learners.replay import SampleBatch
from distrl.learners.sac import SAC
from distrl.learners.sac_config import Config
from tests.learners.test_hl_gauss import slow_probabilities

torch.set_num_threads(1)
Box = gymnasium.spaces.Box


OBSERVATION = Box(-1, 1, (3,))
ACTION = Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4"))


def env_spec(observation=OBSERVATION, action=ACTION):
    return EnvSpec("test", observation, action)


def random_batch(spec: EnvSpec, size: int, seed: int = 0) -> SampleBatch:
    rng = np.random.default_rng(seed)
    action = np.stack(
        [
            spec.action_space.low
            + (spec.action_space.high - spec.action_space.low) * rng.random(spec.action_space.shape)
            for _ in range(size)
        ]
    )
    zeros = np.zeros(size, np.float32)
    return SampleBatch(
        observation={"array": rng.normal(size=(size, 3)).astype("f4")},
        action=action.astype("f4"),
        reward=rng.normal(size=size).astype("f4"),
        discount=rng.choice([0.0, 0.9], size).astype("f4"),
        next_observation={"array": rng.normal(size=(size, 3)).astype("f4")},
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=zeros,
    )


def numpy_losses(
    algorithm: SAC, flat: dict[str, np.ndarray], batch: SampleBatch, noise: np.ndarray
) -> dict[str, float]:
    """The module's formulas, sample by sample in float64. ``flat``: actor, critic, log_temperature, and the constants
    ``actor_fixed``, ``critic_fixed``, ``target``, ``temperature_fixed``: what each loss must not differentiate."""

    def forward(parameters, net, index, x):
        layers = len(net.sizes) - 1
        for i in range(layers):
            weight, bias = parameters[f"{i}/weight"], parameters[f"{i}/bias"]
            if net.ensemble:
                weight, bias = weight[index], bias[index, 0]
            x = x @ weight + bias
            if i + 1 < layers:
                x = np.maximum(x, 0)
        return x

    def split(parameters, vector):
        return {name: part.numpy() for name, part in parameters.split(torch.from_numpy(vector)).items()}

    def sample(vector, observation, epsilon):
        mean, log_std = np.split(forward(split(algorithm.actor, vector), algorithm.actor_net, 0, observation), 2)
        std = np.exp(np.clip(log_std, -20, 2))
        u = mean + std * epsilon
        density = np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)) / (1 - np.tanh(u) ** 2)
        return np.tanh(u), np.log(density).sum()

    def judged(vector, index, observation, action):
        return forward(
            split(algorithm.critic, vector), algorithm.critic_net, index, np.concatenate([observation, action])
        )

    def q(vector, index, observation, action):
        outputs = judged(vector, index, observation, action)
        return outputs[0] if edges is None else np.exp(outputs) @ (edges[1:] + edges[:-1]) / 2 / np.exp(outputs).sum()

    def missed(outputs, y):
        if edges is None:
            return 0.5 * (outputs[0] - y) ** 2
        shares = np.exp(outputs) / np.exp(outputs).sum()
        return -slow_probabilities(y, edges, config.smoothing * (edges[1] - edges[0])) @ np.log(shares)

    config, size, edges = algorithm.config, len(batch.reward), None
    if config.value_loss == "hl_gauss":
        edges = np.linspace(config.value_min, config.value_max, config.num_bins + 1)
    counts = (np.ones(size) if batch.weight is None else batch.weight) / size
    low, high = algorithm._box.low.astype("f8"), algorithm._box.high.astype("f8")
    losses = {"actor": 0.0, "critic": 0.0, "log_temperature": 0.0}
    temperature = float(flat["temperature_fixed"][0])
    for s in range(size):
        o, o2 = (part["array"][s].astype("f8") for part in (batch.observation, batch.next_observation))
        a = 2 * (batch.action[s] - low) / (high - low) - 1
        a2, log2 = sample(flat["actor_fixed"], o2, noise[0, s])
        value = min(q(flat["target"], i, o2, a2) for i in (0, 1)) - temperature * log2
        y = batch.reward[s] + batch.discount[s] * value
        losses["critic"] += sum(missed(judged(flat["critic"], i, o, a), y) for i in (0, 1)) * counts[s]
        new, log = sample(flat["actor"], o, noise[1, s])
        losses["actor"] += (temperature * log - min(q(flat["critic_fixed"], i, o, new) for i in (0, 1))) * counts[s]
        _, log = sample(flat["actor_fixed"], o, noise[1, s])
        losses["log_temperature"] += (
            -math.exp(flat["log_temperature"][0]) * (log + algorithm.target_entropy) * counts[s]
        )
    return losses


def vectors(algorithm: SAC) -> dict[str, torch.Tensor]:
    return {name: vector.flat for name, vector in algorithm.optimizer.trained.items()}


HISTOGRAMS = {"value_loss": "hl_gauss", "value_min": -9.0, "value_max": 9.0, "num_bins": 18}


@pytest.fixture(params=[{}, HISTOGRAMS], ids=["squared", "hl_gauss"])
def trained(request) -> SAC:
    """A little trained, so that target networks and critics differ and no output is near zero."""
    config = Config(hidden=(8, 6), critic_learning_rate=0.01, actor_learning_rate=0.01, **request.param)
    algorithm = SAC(config, env_spec(), seed=3)
    for i in range(20):
        gradients, _ = algorithm.gradients(random_batch(env_spec(), 16, i), update_generator(0, i))
        algorithm.apply(gradients)
    return algorithm


@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 0.0, 1.0, 3.0], "f4")])
def test_losses_and_gradients_are_the_papers(trained, weight):
    batch = random_batch(env_spec(), 5, 100)
    batch.weight = weight
    gradients, metrics = trained.gradients(batch, update_generator(7, 7))
    noise = torch.randn((2, 5, 2), generator=update_generator(7, 7)).numpy().astype("f8")
    flat = {name: tensor.numpy().astype("f8") for name, tensor in vectors(trained).items()}
    flat |= {
        "actor_fixed": flat["actor"],
        "critic_fixed": flat["critic"],
        "target": trained.optimizer.trained["critic"].target.numpy().astype("f8"),
    }
    flat["temperature_fixed"] = np.exp(flat["log_temperature"])

    losses = numpy_losses(trained, flat, batch, noise)
    np.testing.assert_allclose(float(metrics["critic_loss"]), losses["critic"], rtol=1e-4)
    np.testing.assert_allclose(float(metrics["actor_loss"]), losses["actor"], rtol=1e-4)

    rng = np.random.default_rng(0)
    for name in gradients:
        assert gradients[name].shape == flat[name].shape
        for _ in range(3):
            direction = rng.normal(size=flat[name].shape)
            step = 1e-5 * direction  # small, or a ReLU changes sides
            up, down = (
                numpy_losses(trained, flat | {name: flat[name] + sign * step}, batch, noise) for sign in (1, -1)
            )
            slope = (up[name] - down[name]) / 2e-5
            np.testing.assert_allclose(gradients[name].numpy().astype("f8") @ direction, slope, rtol=2e-3, atol=1e-4)


def test_both_critics_at_once_are_one_after_the_other(trained):
    """As products are on a GPU, and on a CPU."""
    batch = random_batch(env_spec(), 16)
    expected, _ = trained.gradients(batch, update_generator(0, 0))
    trained._critics = [trained.critic.frozen]
    trained._target = [trained.critic.split(trained.optimizer.trained["critic"].target)]
    found, _ = trained.gradients(batch, update_generator(0, 0))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_gradients_change_nothing_and_apply_moves_the_target(trained):
    before = trained.state()["optimizer"]
    gradients, _ = trained.gradients(random_batch(env_spec(), 8), update_generator(0, 0))
    after = trained.state()["optimizer"]
    assert before["updates"] == after["updates"]
    assert all(torch.equal(before[name]["flat"], after[name]["flat"]) for name in gradients)
    trained.apply(gradients)
    target = before["critic"]["target"]
    expected = target + 0.005 * (trained.critic.flat - target)
    torch.testing.assert_close(trained.optimizer.trained["critic"].target, expected)
    assert trained.optimizer.updates == before["updates"] + 1


def test_state_round_trip_continues_bit_for_bit(trained):
    state = pickle.loads(pickle.dumps(trained.state()))
    other = SAC(trained.config, env_spec(), seed=99)
    other.load_state(state)
    for i in range(100, 110):
        for algorithm in (trained, other):
            gradients, _ = algorithm.gradients(random_batch(env_spec(), 16, i), update_generator(0, i))
            algorithm.apply(gradients)
    left, right = trained.state()["optimizer"], other.state()["optimizer"]
    assert left.pop("updates") == right.pop("updates") == 30
    assert left.keys() == right.keys() == gradients.keys()
    assert all(
        torch.equal(left[name][kind], right[name][kind]) for name in left for kind in ("flat", "first", "second")
    )
    assert torch.equal(left["critic"]["target"], right["critic"]["target"])
    weights, others = trained.policy_weights(), other.policy_weights()
    assert all(np.array_equal(weights[key], others[key]) for key in weights)


def test_a_state_of_another_shape_is_refused_and_changes_nothing(trained):
    other = SAC(Config(hidden=(4,)), env_spec())
    before = other.state()["optimizer"]
    with pytest.raises(ValueError, match="'actor' of shape"):
        other.load_state(trained.state())
    with pytest.raises(ValueError, match="nothing"):
        other.load_state({})
    assert torch.equal(before["critic"]["flat"], other.critic.flat)


def test_policy_in_numpy_is_the_actor_in_torch(trained):
    spec = trained.policy_spec()
    policy = pickle.loads(pickle.dumps(spec)).build(seed=5)
    policy.load(trained.policy_weights())
    observation = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    action, log_prob, state = policy.step({"array": observation}, {}, np.zeros(64, bool))
    assert action.dtype == np.float32
    assert log_prob.dtype == np.float32
    assert (action.shape, log_prob.shape, state) == ((64, 2), (64,), {})

    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((64, 2), np.float32))
    with torch.no_grad():
        outputs = trained.actor_net(trained.actor.frozen, torch.from_numpy(observation))
        expected, expected_log_prob = squashed_gaussian(outputs, noise)
    half = np.array([2.0, 5.0])
    np.testing.assert_allclose(action, np.array([0.0, 5.0]) + half * expected.numpy(), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected_log_prob.numpy() - np.log(half).sum(), atol=1e-5, rtol=1e-5)

    greedy = spec.build(seed=0, deterministic=True)
    greedy.load(trained.policy_weights())
    mean = np.tanh(outputs.numpy()[:, :2]) * half + np.array([0.0, 5.0])
    np.testing.assert_allclose(greedy.step({"array": observation}, {}, np.zeros(64, bool))[0], mean, atol=1e-5)


def test_density_integrates_to_one():
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    outputs = torch.tensor([[0.3, math.log(0.7)]], dtype=torch.float64)
    action, log_prob = squashed_gaussian(outputs.expand(4001, 2), ((grid - 0.3) / 0.7)[:, None])
    assert abs(float(torch.trapezoid(log_prob.exp(), action[:, 0])) - 1) < 1e-4


def test_density_is_finite_where_tanh_saturates():
    _, log_prob = squashed_gaussian(torch.tensor([[50.0, -20.0], [-50.0, 2.0]]), torch.zeros(2, 1))
    assert torch.isfinite(log_prob).all()


def test_uniform_until_trained():
    algorithm = SAC(Config(hidden=(8,)), env_spec())
    policy = algorithm.policy_spec().build(seed=1)
    assert policy.ready  # before the first weights as with untrained ones
    first, _, _ = policy.step({"array": np.zeros((1, 3), "f4")}, {}, np.ones(1, bool))
    assert first.shape == (1, 2)
    greedy = algorithm.policy_spec().build(seed=1, deterministic=True)
    assert not greedy.ready
    with pytest.raises(RuntimeError, match="needs weights"):
        greedy.step({"array": np.zeros((1, 3), "f4")}, {}, np.ones(1, bool))
    policy.load(algorithm.policy_weights())
    action, log_prob, _ = policy.step({"array": np.zeros((4000, 3), "f4")}, {}, np.ones(4000, bool))
    np.testing.assert_allclose(log_prob, -math.log(4 * 10), rtol=1e-6)
    np.testing.assert_allclose(action.mean(0), [0, 5], atol=0.2)
    np.testing.assert_allclose(action.std(0), np.array([4, 10]) / math.sqrt(12), rtol=0.03)
    gradients, _ = algorithm.gradients(random_batch(env_spec(), 8), update_generator(0, 0))
    algorithm.apply(gradients)
    policy.load(algorithm.policy_weights())
    assert len(set(policy.step({"array": np.zeros((3, 3), "f4")}, {}, np.ones(3, bool))[1])) == 3


def test_same_seed_same_actions(trained):
    def actions():
        policy = trained.policy_spec().build(seed=4)
        policy.load(trained.policy_weights())
        return [policy.step({"array": np.ones((n, 3), "f4")}, {}, np.ones(n, bool))[0] for n in (1, 5, 2)]

    assert all(np.array_equal(a, b) for a, b in zip(actions(), actions(), strict=True))


def test_saturated_actions_stay_inside_the_box(trained):
    weights = {k: v.copy() for k, v in trained.policy_weights().items()}
    weights["actor/2/bias"][:2] = (100.0, -100.0)
    space = Box(np.array([-0.1, 0.1], "f4"), np.array([0.7, 0.3], "f4"))
    policy = SAC(trained.config, env_spec(action=space)).policy_spec().build(seed=0)
    policy.load(weights)
    action = policy.step({"array": np.zeros((50, 3), "f4")}, {}, np.ones(50, bool))[0]
    assert all(space.contains(row) for row in action)


def test_published_weights_are_left_alone(trained):
    weights = trained.policy_weights()
    kept = {name: array.copy() for name, array in weights.items()}
    gradients, _ = trained.gradients(random_batch(env_spec(), 8), update_generator(0, 0))
    trained.apply(gradients)
    assert all(np.array_equal(weights[name], kept[name]) for name in weights)
    assert all(array.dtype == np.float32 for array in weights.values())


def test_dict_observations_and_matrix_actions():
    observation = gymnasium.spaces.Dict(
        {"b": Box(-1, 1, (2, 2)), "a": gymnasium.spaces.Dict({"z": Box(-1, 1, (), np.float64), "c": Box(-1, 1, (3,))})}
    )
    spec = env_spec(observation, Box(-1, 1, (2, 3), np.float64))
    algorithm = SAC(Config(hidden=(8,)), spec)
    assert list(algorithm._layout) == ["a/c", "a/z", "b"]
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    rows = {"a/c": np.zeros((5, 3), "f4"), "a/z": np.zeros(5), "b": np.zeros((5, 2, 2), "f4")}
    action, _, _ = policy.step(rows, {}, np.zeros(5, bool))
    assert (action.shape, action.dtype) == ((5, 2, 3), np.float64)
    batch = random_batch(env_spec(), 5)
    batch.observation, batch.next_observation, batch.action = rows, rows, action
    gradients, _ = algorithm.gradients(batch, update_generator(0, 0))
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (env_spec(action=gymnasium.spaces.Discrete(3)), "continuous action space"),
        (env_spec(action=Box(-np.inf, np.inf, (2,))), "finite"),
        (env_spec(observation=Box(0, 255, (8, 8, 3), np.uint8)), "Boxes of floats"),
        (env_spec(observation=gymnasium.spaces.Dict({"x": gymnasium.spaces.Discrete(3)})), "'x' is Discrete"),
    ],
)
def test_spaces_that_sac_cannot_handle_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        Config().build(spec)


def test_registry_and_config():
    assert algorithm_config("sac") is Config
    assert algorithm_config("distrl.learners.sac_config:Config") is Config
    with pytest.raises(ConfigError, match="did you mean 'sac'"):
        algorithm_config("sacc")
    with pytest.raises(ConfigError, match="cannot be imported"):
        algorithm_config("nowhere.at_all:Config")
    with pytest.raises(ConfigError, match="pydantic model"):
        algorithm_config("math:pi")
    for wrong in ({"tau": 0.0}, {"gamma": 1.5}, {"hidden": ()}, {"batchsize": 3}, {"target_entropy": "none"}):
        with pytest.raises(ValidationError):
            Config(**wrong)
    assert all(field.description for field in Config.model_fields.values())


@pytest.mark.parametrize("module", ["policies", "registry", "sac_config", "randomness", "spaces"])
def test_light_modules_load_neither_torch_nor_ray(module):
    check = f"import sys, distrl.learners.{module}; assert not {{'torch', 'ray'}} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_random_numbers_follow_the_update():
    draws = [sample_generator(1, update).integers(0, 1 << 60, 8) for update in (0, 1, 2, 0)]
    assert np.array_equal(draws[0], draws[3])
    assert len({int(value) for draw in draws for value in draw}) == 24
    noise = [torch.randn(4, generator=update_generator(*key)) for key in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert torch.equal(noise[0], noise[3])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_it_learns_a_bandit_of_one_step():
    """Reward −(a − f(o))² with a in [−2, 2] × [0, 10]: doing nothing gives about −5, a hundredth of it remains."""
    spec = env_spec()
    config = Config(
        hidden=(64, 64),
        batch_size=128,
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        temperature_learning_rate=3e-3,
    )
    algorithm = SAC(config, spec, seed=0)
    policy = algorithm.policy_spec().build(seed=0)
    rng = np.random.default_rng(0)

    def best(o):
        return np.stack([1.5 * np.sin(2 * o[:, 0]), 5 + 3 * o[:, 1]], 1)

    def rewards(o, a):
        return -(((a - best(o)) / [1, 2]) ** 2).sum(1).astype("f4")

    observation = np.empty((0, 3), "f4")
    action = np.empty((0, 2), "f4")
    for update in range(1200):
        if update % 4 == 0:
            policy.load(algorithm.policy_weights())
            new = rng.uniform(-1, 1, (32, 3)).astype("f4")
            observation = np.concatenate([observation, new])
            action = np.concatenate([action, policy.step({"array": new}, {}, np.ones(32, bool))[0]])
        index = sample_generator(0, update).integers(0, len(observation), config.batch_size)
        batch = random_batch(spec, config.batch_size)
        batch.observation, batch.action = {"array": observation[index]}, action[index]
        batch.reward, batch.discount = rewards(observation[index], action[index]), np.zeros(config.batch_size, "f4")
        gradients, metrics = algorithm.gradients(batch, update_generator(0, update))
        algorithm.apply(gradients)
    greedy = algorithm.policy_spec().build(seed=0, deterministic=True)
    greedy.load(algorithm.policy_weights())
    held_out = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype("f4")
    chosen = greedy.step({"array": held_out}, {}, np.ones(500, bool))[0]
    assert rewards(held_out, chosen).mean() > -0.05
    assert abs(float(metrics["entropy"]) - algorithm.target_entropy) < 1.0
