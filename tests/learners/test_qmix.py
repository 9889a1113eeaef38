"""VDN and QMIX against a slow transcription of the papers' formulas, their acting side, and what each can represent."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.mixing import monotonic_mix
from distrl.learners.qmix import QMIX as Algorithm
from distrl.learners.qmix_config import QMIX, VDN
from distrl.learners.registry import algorithm_config
from distrl.learners.replay import SampleBatch
from tests.fakes.teams import PAYOFF
from tests.learners.off_policy import check_replayed_updates

torch.set_num_threads(1)

AGENTS, CHOICES, SIZE, STATE = 3, 4, 5, 6
IDLE = np.zeros(0, bool)  # is_first: a policy without memory does not look at it


def spaces_of(agents=AGENTS, choices=CHOICES, size=SIZE, state=STATE, lowest=0):
    entries = {"observation": Box(-np.inf, np.inf, (agents, size)), "alive": MultiBinary(agents)}
    if choices:
        entries["action_mask"] = MultiBinary(agents * choices)
    if state:
        entries["state"] = Box(-np.inf, np.inf, (state,))
    actions = np.full(agents, choices)
    return EnvSpec("team", Dict(entries), MultiDiscrete(actions, start=np.full(agents, lowest)))


def observations(number, seed=0):
    """Every agent may do something, and some are dead."""
    rng = np.random.default_rng(seed)
    mask = rng.random((number, AGENTS, CHOICES)) < 0.6
    mask[..., 2] = True
    return {
        "observation": rng.normal(size=(number, AGENTS, SIZE)).astype("f4"),
        "alive": (rng.random((number, AGENTS)) < 0.8).astype("i1"),
        "action_mask": mask.reshape(number, -1).astype("i1"),
        "state": rng.normal(size=(number, STATE)).astype("f4"),
    }


def batch_of(number, seed=0, lowest=0) -> SampleBatch:
    rng = np.random.default_rng(100 + seed)
    zeros = np.zeros(number, np.float32)
    return SampleBatch(
        observation=observations(number, seed),
        action=lowest + rng.integers(CHOICES, size=(number, AGENTS)),
        reward=rng.normal(size=number).astype("f4"),
        discount=rng.choice([0.0, 0.9], number).astype("f4"),
        next_observation=observations(number, seed + 1),
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=rng.integers(1000, size=number),
    )


def trained(config, lowest=0) -> Algorithm:
    """A little, so that target networks are not the networks."""
    algorithm = config.build(spaces_of(lowest=lowest), seed=3)
    for seed in range(20):
        gradients, _ = algorithm.gradients(batch_of(16, seed, lowest))
        algorithm.apply(gradients)
    return algorithm


CONFIGS = [
    VDN(hidden=(8, 6), learning_rate=0.01, reward_scale=0.5),
    QMIX(hidden=(8, 6), learning_rate=0.01, mixer_size=7, hypernetwork_size=5, agent_id=False),
]


def slow_mix(values, w1, b1, w2, b2):
    hidden = [sum(q * abs(w1[a][e]) for a, q in enumerate(values)) + b1[e] for e in range(len(b1))]
    hidden = [h if h > 0 else np.exp(h) - 1 for h in hidden]
    return sum(h * abs(w) for h, w in zip(hidden, w2, strict=True)) + b2


def slow_loss(algorithm, flat, fixed, target, batch):
    """The module's formulas, step by step and agent by agent in float64. ``fixed``: the parameters that choose."""

    def network(named, name, x):
        found = sorted({key.split("/")[-2] for key in named if key.startswith(f"{name}/")})
        for i in found:
            x = x @ named[f"{name}/{i}/weight"] + named[f"{name}/{i}/bias"]
            if i != found[-1]:
                x = np.maximum(x, 0)
        return x

    def split(vector):
        parts = algorithm.parameters.split(torch.from_numpy(np.array(vector, "f8")))
        return {name: part.numpy() for name, part in parts.items()}

    def values(vector, seen, s):
        ids = np.eye(AGENTS) if algorithm.config.agent_id else np.zeros((AGENTS, 0))
        return [network(split(vector), "agent", np.append(seen["observation"][s][a], ids[a])) for a in range(AGENTS)]

    def mixed(vector, seen, s, chosen):
        chosen = [q if seen["alive"][s][a] else 0.0 for a, q in enumerate(chosen)]
        if not isinstance(algorithm.config, QMIX):
            return sum(chosen)
        made = {part: network(split(vector), f"mixer/{part}", seen["state"][s]) for part in ("w1", "b1", "w2", "b2")}
        return slow_mix(chosen, made["w1"].reshape(AGENTS, -1), made["b1"], made["w2"], made["b2"][0])

    losses, counts = [], [1.0] * len(batch.reward) if batch.weight is None else batch.weight
    for s in range(len(batch.reward)):
        seen = batch.next_observation
        allowed = seen["action_mask"][s].reshape(AGENTS, CHOICES)
        best = [max(np.flatnonzero(allowed[a]), key=lambda u: q[u]) for a, q in enumerate(values(fixed, seen, s))]
        following = mixed(target, seen, s, [q[u] for q, u in zip(values(target, seen, s), best, strict=True)])
        y = algorithm.config.reward_scale * batch.reward[s] + batch.discount[s] * following
        own = values(flat, batch.observation, s)
        value = mixed(flat, batch.observation, s, [q[u] for q, u in zip(own, batch.action[s], strict=True)])
        losses.append(counts[s] * 0.5 * (value - y) ** 2)
    return np.mean(losses)


@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 0.0, 3.0], "f4")], ids=["alike", "weighted"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_loss_and_gradient_are_the_papers(config, weight):
    algorithm, batch = trained(config), batch_of(4, 77)
    batch.weight = weight
    gradients, metrics = algorithm.gradients(batch)
    flat, target = (
        algorithm.parameters.flat.numpy().astype("f8"),
        algorithm.optimizer.trained["parameters"].target.numpy().astype("f8"),
    )
    assert not np.allclose(flat, target)
    np.testing.assert_allclose(float(metrics["loss"]), slow_loss(algorithm, flat, flat, target, batch), rtol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=flat.shape)
        up, down = (slow_loss(algorithm, flat + step * direction, flat, target, batch) for step in (1e-5, -1e-5))
        slope = gradients["parameters"].numpy().astype("f8") @ direction
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=2e-3, atol=1e-4)


def test_a_monotonic_mix_never_falls_where_a_value_rises():
    rng = np.random.default_rng(0)
    values, w1, b1, w2, b2 = (rng.normal(size=shape) for shape in ((50, 3), (50, 3, 8), (50, 8), (50, 8), (50,)))
    mixed = monotonic_mix(*(torch.from_numpy(part) for part in (values, w1, b1, w2, b2))).numpy()
    slow = [slow_mix(*(part[s] for part in (values, w1, b1, w2, b2))) for s in range(50)]
    np.testing.assert_allclose(mixed, slow, rtol=1e-12)
    more = values + rng.random(values.shape) * [0, 1, 2]
    higher = monotonic_mix(*(torch.from_numpy(part) for part in (more, w1, b1, w2, b2))).numpy()
    assert (higher > mixed).all()


def every_step_of_the_game() -> SampleBatch:
    """What random agents meet in the two-step game, each step as often as they do."""
    places, actions, rewards, following = [], [], [], []
    for first, second in np.ndindex(2, 2):
        for place in (0, 0, 1, 2):  # half of the games are in one place in the second step
            places.append(place)
            actions.append((first, second))
            rewards.append(0.0 if place == 0 else PAYOFF[place - 1, first, second])
            following.append(1 + first)
    number = len(places)

    def seen(at):
        state = np.eye(3, dtype="f4")[at]
        return {"observation": np.stack([state] * 2, 1), "alive": np.ones((number, 2), "i1"), "state": state}

    zeros = np.zeros(number, np.float32)
    return SampleBatch(
        observation=seen(places),
        action=np.array(actions),
        reward=np.array(rewards, "f4"),
        discount=np.where(np.array(places) == 0, 0.99, 0.0).astype("f4"),
        next_observation=seen(following),
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=np.arange(number),
    )


@pytest.mark.parametrize(("config", "returns"), [(VDN, 7), (QMIX, 8)])
def test_in_the_two_step_game_a_sum_of_values_is_not_enough(config, returns):
    """Rashid et al. 2018, table 1 and 2: where the agents need each other, VDN's values are the best additive fit."""
    options = {"hidden": (32,), "learning_rate": 5e-3, "tau": 0.02}
    algorithm = config(**options).build(spaces_of(2, 2, 3, 3))
    batch = every_step_of_the_game()
    for _ in range(1500):
        algorithm.apply(algorithm.gradients(batch)[0])
    seen = {name: array[[0, 2, 3]] for name, array in batch.observation.items()}  # at the start, after A, after B
    tensors = algorithm._seen(seen)
    values = algorithm._values(algorithm.parameters.frozen, tensors)
    joint = [
        [
            algorithm._mixed(algorithm.parameters.frozen, tensors, values, torch.tensor([[u, v]] * 3)).tolist()
            for v in range(2)
        ]
        for u in range(2)
    ]
    after_a, after_b = np.array(joint)[..., 1], np.array(joint)[..., 2]
    np.testing.assert_allclose(after_a, PAYOFF[0], atol=0.3)
    best_fit = np.array([[-1.5, 2.5], [2.5, 6.5]])  # of least squares, by a sum of one value of each agent
    np.testing.assert_allclose(after_b, PAYOFF[1] if config is QMIX else best_fit, atol=0.3)

    policy = algorithm.policy_spec().build(seed=0, deterministic=True)
    policy.load(algorithm.policy_weights())
    first = int(policy.step(seen, {}, IDLE)[0][0, 0])
    u, v = policy.step(seen, {}, IDLE)[0][1 + first]
    assert PAYOFF[first, u, v] == returns


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_replayed_updates_are_those_of_calls(monkeypatch, config):
    check_replayed_updates(monkeypatch, lambda: config.build(spaces_of(lowest=3), seed=1), lambda i: batch_of(16, i, 3))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_policy_in_numpy_does_what_the_networks_value_most(config):
    algorithm = trained(config, lowest=3)
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=0, deterministic=True)
    assert not policy.ready
    with pytest.raises(RuntimeError, match="needs weights"):
        policy.step(observations(1), {}, IDLE)
    policy.load(algorithm.policy_weights())
    seen = observations(40)
    action, log_prob, state = policy.step({key: seen[key] for key in seen if key != "state"}, {}, IDLE)
    values = algorithm._values(algorithm.parameters.frozen, algorithm._seen(seen)).numpy()
    values[seen["action_mask"].reshape(values.shape) == 0] = -np.inf
    assert np.array_equal(action, 3 + values.argmax(2))
    assert (action.dtype, log_prob.tolist(), state) == (np.int64, [0.0] * 40, {})
    assert all(
        algorithm._policy_spec.build(seed=0).env_action(row) in spaces_of(lowest=3).action_space for row in action
    )


def test_random_actions_are_as_frequent_as_epsilon_says_and_allowed():
    algorithm = trained(VDN(hidden=(8,), initial_epsilon=0.6, final_epsilon=0.6))
    policy = algorithm.policy_spec().build(seed=1)
    policy.load(algorithm.policy_weights())
    one = {path: np.repeat(array[:1], 20_000, axis=0) for path, array in observations(1).items()}
    action, log_prob, _ = policy.step(one, {}, IDLE)
    allowed = one["action_mask"][0].reshape(AGENTS, CHOICES)
    living = [a for a in range(AGENTS) if one["alive"][0, a]]
    assert all(allowed[a, action[:, a]].all() for a in range(AGENTS))
    found, first, counts = np.unique(action[:, living], axis=0, return_index=True, return_counts=True)
    assert len(found) == allowed[living].sum(1).prod()
    np.testing.assert_allclose(counts / 20_000, np.exp(log_prob[first]), atol=0.015)


def test_epsilon_falls_with_the_steps_of_the_run_and_travels_with_the_weights():
    algorithm = VDN(hidden=(8,), final_epsilon=0.2, epsilon_steps=1000).build(spaces_of())
    assert algorithm.policy_weights()["epsilon"] == 1.0
    batch = batch_of(8)
    for newest, epsilon in ((499, 0.6), (99, 0.6), (5000, 0.2)):  # it never rises again
        batch.number[:] = newest
        algorithm.apply(algorithm.gradients(batch)[0])
        assert algorithm.policy_weights()["epsilon"] == pytest.approx(epsilon)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_state_round_trip_continues_bit_for_bit(config):
    first, other = trained(config), config.build(spaces_of(), seed=9)
    state = pickle.loads(pickle.dumps(first.state()))
    other.load_state(state)
    for algorithm in (first, other):
        algorithm.apply(algorithm.gradients(batch_of(16, 50))[0])
    assert torch.equal(first.parameters.flat, other.parameters.flat)
    assert torch.equal(*(one.optimizer.trained["parameters"].target for one in (first, other)))
    assert (first.optimizer.updates, first.env_steps) == (other.optimizer.updates, other.env_steps)
    with pytest.raises(ValueError, match="of shape"):
        VDN(hidden=(4,)).build(spaces_of()).load_state(state)


def test_gradients_change_nothing_and_published_weights_are_left_alone():
    algorithm = trained(CONFIGS[1])
    weights = algorithm.policy_weights()
    kept, before = {name: array.copy() for name, array in weights.items()}, algorithm.parameters.flat.clone()
    gradients, _ = algorithm.gradients(batch_of(8))
    assert torch.equal(before, algorithm.parameters.flat)
    algorithm.apply(gradients)
    assert not torch.equal(before, algorithm.parameters.flat)
    assert all(np.array_equal(weights[name], kept[name]) for name in weights)
    assert not any(name.startswith("mixer") for name in weights)


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        (VDN(), EnvSpec("one", Box(-1, 1, (3,)), Discrete(2)), r"VDN needs a whole team .* env\.agents\.team = true"),
        (
            VDN(),
            EnvSpec("one", Dict({"observation": Box(-1, 1, (3,)), "alive": MultiBinary(1)}), Discrete(2)),
            "needs a whole team",
        ),
        (QMIX(), spaces_of(state=0), r'QMIX needs a global state .* set env\.agents\.state to "env"'),
        (VDN(), EnvSpec("t", spaces_of().observation_space, Box(-1, 1, (3, 2))), "agents with discrete actions"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(config, spec, words):
    with pytest.raises(ConfigError, match=words):
        config.policy_spec(spec)


def test_registry_and_config():
    assert (algorithm_config("vdn"), algorithm_config("qmix")) == (VDN, QMIX)
    assert all(field.description for field in QMIX.model_fields.values())
    for wrong in ({"mixer_size": 0}, {"final_epsilon": 1.5}, {"epsilon": 0.1}):
        with pytest.raises(ValidationError):
            QMIX(**wrong)
    light = "import sys, distrl.learners.qmix_config; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True)
