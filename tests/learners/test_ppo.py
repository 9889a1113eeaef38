"""PPO, APPO and IMPALA: gradients against autograd, what travels from rollout to rollout, and that they learn."""

import pickle
import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError, RunFailed
from distrl.core.types import ARRAY, EnvSpec
from distrl.learners.actor_policies import LOWEST
from distrl.learners.moments import RewardScale, RunningMoments
from distrl.learners.ppo import PPO
from distrl.learners.ppo_config import APPO, IMPALA
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.registry import algorithm_config
from distrl.learners.rollout import Rollout
from tests.learners.on_policy import Rollouts, check_replayed_updates, spec_of, step, train

torch.set_num_threads(1)

MASKED = Dict({"action_mask": MultiBinary(5), "seen": Box(-1, 1, (3,))})
KINDS = {
    "discrete": (Box(-1, 1, (3,)), Discrete(4)),
    "multi_discrete": (Box(-1, 1, (3,)), MultiDiscrete([2, 3], start=[0, 7])),
    "masked": (MASKED, MultiDiscrete([2, 3])),
    "central": (Dict({"state": Box(-1, 1, (5,)), "z": Box(-1, 1, (3,))}), Discrete(4)),
    "box": (Box(-1, 1, (3,)), Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4"))),
}


def cartpole():
    return gymnasium.make("CartPole-v1")


def algorithm_of(kind="discrete", config=Config, **options) -> PPO:
    algorithm = config(hidden=(8, 6), **options).build(EnvSpec("test", *KINDS[kind]), seed=3)
    generator = torch.Generator().manual_seed(0)
    algorithm.parameters.flat += 0.3 * torch.randn(algorithm.parameters.flat.shape, generator=generator)
    return algorithm


def rollout_of(algorithm: PPO, kind="discrete", num_steps=12, num_rows=4, seed=0) -> Rollout:
    """What the algorithm's policy does where observations and rewards are noise; the policy of a little while ago."""
    rng = np.random.default_rng(seed)
    policy = algorithm.policy_spec().build(seed=seed)
    older = {name: value + 0.05 * rng.normal(size=value.shape) for name, value in algorithm.policy_weights().items()}
    policy.load({name: value.astype("f4") for name, value in older.items()})
    shape = (num_steps, num_rows)

    def observations(*lead):
        array = rng.normal(size=(*lead, 3)).astype("f4")
        mask = rng.random((*lead, 5)) < 0.7
        mask[..., [0, 2]] = True
        if kind == "central":
            return {"state": rng.normal(size=(*lead, 5)).astype("f4"), "z": array}
        return {"seen": array, "action_mask": mask.astype(np.int8)} if kind == "masked" else {ARRAY: array}

    observation = observations(num_steps + 1, num_rows)
    steps = [
        policy.step({path: array[t] for path, array in observation.items()}, {}, np.zeros(0)) for t in range(num_steps)
    ]
    terminated, truncated = rng.random(shape) < 0.1, rng.random(shape) < 0.1
    ended = terminated | truncated
    index = np.argwhere(ended).astype(np.int32)
    return Rollout(
        observation=observation,
        final_observation=observations(len(index)),
        final_index=index,
        action=np.stack([action for action, _, _ in steps]),
        reward=rng.normal(size=shape).astype("f4"),
        terminated=terminated,
        truncated=truncated,
        log_prob=np.stack([log_prob for _, log_prob, _ in steps]),
        policy_version=np.zeros(shape, np.int64),
        is_first=np.concatenate([np.ones((1, num_rows), bool), ended]),
        state={},
        row=np.arange(num_rows),
    )


def loss_of(algorithm: PPO, flat: torch.Tensor, batch) -> torch.Tensor:
    """The module's loss, with torch's own distributions and ``flat`` in place of the parameters."""
    config, named = algorithm.config, algorithm.parameters.split(flat)

    def network(name):
        last = len(config.hidden)
        x = batch.inputs[0][:, : len(named[f"{name}/0/weight"])]  # a state, which is last, is not the actor's
        for i in range(last):
            x = torch.tanh(x @ named[f"{name}/{i}/weight"] + named[f"{name}/{i}/bias"])
        return x @ named[f"{name}/{last}/weight"].T + named[f"{name}/{last}/bias"]

    outputs, value = network("actor"), network("critic").squeeze(1)
    distribution = algorithm._distribution
    if "log_std" in named:
        half = torch.as_tensor(distribution.half, dtype=torch.float32)
        center = torch.as_tensor(distribution.center, dtype=torch.float32)
        normal = torch.distributions.Normal(center + half * outputs, half * named["log_std"].exp())
        log_prob, entropy = normal.log_prob(center + half * batch.action.T).sum(1), normal.entropy().sum(1)
    else:
        if batch.allowed is not None:
            outputs = outputs.masked_fill(~batch.allowed.T, LOWEST)
        parts = [torch.distributions.Categorical(logits=x) for x in outputs.split(distribution.choices, 1)]
        log_prob = sum(part.log_prob(chosen) for part, chosen in zip(parts, batch.action, strict=True))
        entropy = sum(part.entropy() for part in parts)

    advantage = batch.advantage
    if config.normalize_advantages:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (log_prob - batch.log_prob).exp()
    if config.surrogate == "clipped":
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        weight = 1.0 if batch.weight is None else batch.weight
        gain = weight * torch.min(ratio * advantage, clipped * advantage)
    elif config.surrogate == "policy_gradient":
        gain = ratio.clamp(max=config.rho_max).detach() * advantage * log_prob
    else:
        taper = [1.0 if a >= 0 else min(1.0, float(r)) for a, r in zip(advantage, ratio, strict=True)]
        gain = torch.tensor(taper) * advantage * log_prob
    error = (value - batch.target) ** 2
    if config.value_clip is not None:
        near = batch.value + (value - batch.value).clamp(-config.value_clip, config.value_clip)
        error = torch.max(error, (near - batch.target) ** 2)
    loss = -gain + config.value_cost * 0.5 * error - config.entropy_cost * entropy
    return (loss if batch.counts is None else batch.counts * loss).mean()


OPTIONS = [
    ("discrete", Config, {"entropy_cost": 0.1}),
    ("multi_discrete", Config, {"entropy_cost": 0.1, "normalize_advantages": False, "clip": 0.1}),
    ("masked", Config, {"entropy_cost": 0.1}),
    ("box", Config, {"entropy_cost": 0.1, "value_clip": 0.1, "clip": 0.05}),
    ("box", APPO, {"gae_lambda": 0.9}),
    ("discrete", APPO, {"advantages": "gae", "rho_max": 5.0, "minibatches": 2}),
    ("central", Config, {"central_critic": True}),
    ("masked", IMPALA, {"normalize_advantages": False, "c_max": 0.9}),
    ("box", IMPALA, {"surrogate": "tapered"}),
    ("discrete", APPO, {"surrogate": "tapered", "decoupled": False, "normalize_advantages": False}),
]


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize(("kind", "config", "options"), OPTIONS)
def test_gradients_are_autograds_of_the_losses(kind, config, options, counts):
    """After some updates on the rollout, so that probabilities and values have left where they began."""
    algorithm = algorithm_of(kind, config, learning_rate=0.02, epochs=2, **{"minibatches": 2} | options)
    rollout = rollout_of(algorithm, kind)
    if counts:
        rollout.weight = np.random.default_rng(5).exponential(size=rollout.reward.shape).astype("f4")
    for minibatch in algorithm.minibatches(rollout, torch.Generator().manual_seed(0)):
        before = algorithm.parameters.flat.clone()
        gradients, metrics = algorithm.gradients(minibatch)
        assert torch.equal(before, algorithm.parameters.flat), "nothing has been applied yet"
        flat = before.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss_of(algorithm, flat, minibatch), flat)
        torch.testing.assert_close(gradients["parameters"], expected, rtol=1e-3, atol=1e-5)
        assert all(torch.isfinite(value) for value in metrics.values())
        algorithm.apply(gradients)
    assert 0 < metrics["clip_share"] < 1


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize(("kind", "config", "options"), OPTIONS)
def test_replayed_updates_are_those_of_calls(monkeypatch, kind, config, options, counts):
    weight = np.linspace(0.5, 2, 48, dtype="f4").reshape(12, 4) if counts else None
    check_replayed_updates(
        monkeypatch,
        lambda: algorithm_of(kind, config, **options | {"minibatches": 3, "epochs": 2, "anneal_steps": None}),
        lambda algorithm, seed: replace(rollout_of(algorithm, kind, seed=seed), weight=weight),
    )


def test_the_policy_that_acted_is_the_learners_with_normalised_observations_too():
    """Moments travel with the weights: behind the first update, the next rollout's probabilities are the learner's."""
    algorithm = algorithm_of("box", normalize_observations=True, scale_rewards=True, minibatches=1)
    step(algorithm, rollout_of(algorithm, "box"))
    rollout = rollout_of(algorithm, "box", seed=1)
    policy = algorithm.policy_spec().build(seed=2)
    policy.load(algorithm.policy_weights())
    for t in range(12):
        action, log_prob, _ = policy.step({ARRAY: rollout.observation[ARRAY][t]}, {}, np.zeros(0))
        rollout.action[t], rollout.log_prob[t] = action, log_prob
    moments = algorithm._moments
    algorithm._moments = _Frozen(moments.mean, moments.std)  # else this rollout would move them first
    batch = next(algorithm.minibatches(rollout, torch.Generator()))
    _, metrics = algorithm.gradients(batch)
    assert metrics["approx_kl"] < 1e-8
    algorithm._moments = moments
    next(algorithm.minibatches(rollout, torch.Generator()))
    assert moments.count == 2 * 48
    assert not np.array_equal(moments.mean, np.zeros(3))


def test_a_central_critic_alone_sees_the_state():
    algorithm = algorithm_of("central", central_critic=True, normalize_observations=True, minibatches=1)
    step(algorithm, rollout_of(algorithm, "central"))
    rollout = rollout_of(algorithm, "central", seed=1)
    other = replace(rollout, observation=rollout.observation | {"state": rollout.observation["state"] + 1})
    moments = algorithm._moments
    algorithm._moments = _Frozen(moments.mean, moments.std)
    first, second = (next(algorithm.minibatches(given, torch.Generator())) for given in (rollout, other))
    assert not (first.value == second.value).any()
    (own, _, _), (others, _, _) = (
        algorithm.network.forward(algorithm.parameters, batch.inputs, None) for batch in (first, second)
    )
    assert torch.equal(own, others)

    assert algorithm.policy_weights()["observation/mean"].shape == (3,)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    policy.step({"z": rollout.observation["z"][0]}, {}, np.zeros(0))  # no state: it acts where there is none


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (Box(-1, 1, (3,)), r"set env\.agents\.state to"),
        (Dict({"state": Box(-1, 1, (5,))}), "to observe beside the 'state'"),
        (Dict({"state": Box(-1, 1, (5,)), "z": Box(0, 255, (32, 32, 3), np.uint8)}), "those for images do"),
    ],
)
def test_what_a_central_critic_cannot_do_is_refused(observation, words):
    with pytest.raises(ConfigError, match=words):
        Config(central_critic=True).policy_spec(EnvSpec("test", observation, Discrete(2)))


class _Frozen:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def add(self, samples, together):
        pass


def test_an_epoch_has_every_transition_once():
    algorithm = algorithm_of(epochs=2, minibatches=5)
    rollout = rollout_of(algorithm)
    batches = list(algorithm.minibatches(rollout, torch.Generator().manual_seed(0)))
    assert [len(batch.advantage) for batch in batches] == [10, 10, 10, 9, 9] * 2
    for epoch in (batches[:5], batches[5:]):
        seen = np.sort(np.concatenate([batch.inputs[0][:, 0].numpy() for batch in epoch]))
        assert np.array_equal(seen, np.sort(rollout.observation[ARRAY][:-1, :, 0].reshape(-1)))


def test_decoupled_clips_around_the_newest_policy_and_weighs_the_older_one():
    rollout = rollout_of(algorithm_of())
    coupled, decoupled = (
        algorithm_of(minibatches=1, decoupled=decoupled, rho_max=1.05)._begin(rollout) for decoupled in (False, True)
    )
    assert coupled.weight is None
    ratio = (decoupled.log_prob - coupled.log_prob).exp()
    torch.testing.assert_close(decoupled.weight, ratio.clamp(max=1.05))
    assert (ratio < 1).any()
    assert (ratio > 1.05).any()
    _, metrics = algorithm_of(minibatches=1, decoupled=True).gradients(decoupled)
    assert metrics["approx_kl"] < 1e-8, "the first minibatch is at the newest policy"


def test_epochs_end_where_the_policy_has_moved_far_enough():
    for target_kl, epochs in ((1e-9, 1), (1e9, 7)):
        algorithm = algorithm_of(epochs=7, minibatches=2, target_kl=target_kl)
        step(algorithm, rollout_of(algorithm))
        assert algorithm.optimizer.updates == 2 * epochs


def test_the_learning_rate_falls_to_zero():
    algorithm = algorithm_of(epochs=1, minibatches=1, anneal_steps=96)
    rates = []
    for seed in range(3):
        step(algorithm, rollout_of(algorithm, seed=seed))
        rates.append(algorithm._rate)
    assert rates == [1.0, 0.5, 0.0]
    before = algorithm.parameters.flat.clone()
    step(algorithm, rollout_of(algorithm))
    assert torch.equal(before, algorithm.parameters.flat)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_state_round_trip_continues_bit_for_bit(kind):
    options = {"normalize_observations": True, "scale_rewards": True, "anneal_steps": 1000, "minibatches": 3}
    first, other = algorithm_of(kind, **options), algorithm_of(kind, **options)
    for seed in range(3):
        step(first, rollout_of(first, kind, seed=seed), seed)
    other.load_state(pickle.loads(pickle.dumps(first.state())))
    for algorithm in (first, other):
        step(algorithm, rollout_of(algorithm, kind, seed=9), 9)
    assert torch.equal(first.parameters.flat, other.parameters.flat)
    assert first.optimizer.updates == other.optimizer.updates == 4 * 30
    weights, others = first.policy_weights(), other.policy_weights()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert "observation/mean" in weights
    assert not any(name.startswith("critic") for name in weights)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    other = algorithm_of()
    before = other.parameters.flat.clone()
    for state, words in (
        (algorithm_of("box").state(), "of shape"),
        ({}, "nothing"),
        (algorithm_of(scale_rewards=True).state(), "some of 'reward_scale'"),
    ):
        with pytest.raises(ValueError, match=words):
            other.load_state(state)
    assert torch.equal(before, other.parameters.flat)


def test_published_weights_are_left_alone():
    algorithm = algorithm_of()
    weights = algorithm.policy_weights()
    kept = {name: array.copy() for name, array in weights.items()}
    step(algorithm, rollout_of(algorithm))
    assert all(np.array_equal(weights[name], kept[name]) for name in weights)


def test_networks_that_are_not_finite_end_the_run():
    algorithm = algorithm_of()
    algorithm.parameters.flat[:] = torch.nan
    with pytest.raises(RunFailed, match=r"lower algorithm\.learning_rate"):
        next(algorithm.minibatches(rollout_of(algorithm_of()), torch.Generator()))


def test_a_rollout_without_an_episodes_end():
    algorithm = algorithm_of()
    rollout = rollout_of(algorithm)
    nothing = np.zeros((12, 4), bool)
    whole = replace(
        rollout,
        terminated=nothing,
        truncated=nothing,
        final_index=np.zeros((0, 2), np.int32),
        final_observation={ARRAY: np.zeros((0, 3), "f4")},
    )
    assert torch.isfinite(step(algorithm, whole)["policy_loss"])


@pytest.mark.filterwarnings("error")
def test_a_rollout_that_cannot_be_written_to():
    """As it comes through Ray's object store, when it is one fragment."""
    algorithm = algorithm_of()
    rollout = rollout_of(algorithm)
    for array in (rollout.observation[ARRAY], rollout.reward, rollout.action, rollout.log_prob, rollout.terminated):
        array.flags.writeable = False
    assert torch.isfinite(step(algorithm, rollout)["policy_loss"])


def test_running_moments_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    parts = [rng.normal(5, 3, size=(size, 2)) for size in (1, 7, 40)]
    moments = RunningMoments(2)
    for part in parts:
        moments.add(part)
    every = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, every.mean(0))
    np.testing.assert_allclose(moments.std, every.std(0), rtol=1e-6)


def test_rewards_are_scaled_by_the_spread_of_discounted_returns_across_rollouts():
    """The second rollout has row 7 twice, one stretch after the other, and row 3, whose episode ended between; the
    third has row 7 at the start of an episode, the end of the one before having been lost."""
    scale = RewardScale(0.5)
    scale.scale(
        np.ones((2, 2), "f4"), np.array([[False, False], [False, True]]), np.zeros((3, 2), bool), np.array([7, 3])
    )
    reward = np.array([[2, 0, 0], [0, 0, 4]], "f4")
    scaled = scale.scale(reward, np.zeros((2, 3), bool), np.zeros((3, 3), bool), np.array([7, 7, 3]))
    returns = [1, 1.5, 1, 1.5, 0.75 + 2, 1.375, 0.6875, 0.34375, 0, 4]
    np.testing.assert_allclose(scaled, reward / np.std(returns), rtol=1e-5)
    scaled = scale.scale(np.ones((1, 1), "f4"), np.zeros((1, 1), bool), np.ones((2, 1), bool), np.array([7]))
    np.testing.assert_allclose(scaled, 1 / np.std([*returns, 1]), rtol=1e-5)


def test_registry_and_config():
    assert [algorithm_config(name) for name in ("ppo", "appo", "impala")] == [Config, APPO, IMPALA]
    for config in (Config, APPO, IMPALA):
        assert config.on_policy
        assert all(field.description for field in config.model_fields.values())
    for wrong in ({"clip": 0.0}, {"gamma": 1.5}, {"hidden": ()}, {"epoch": 3}, {"minibatches": 100, "batch_size": 50}):
        with pytest.raises(ValidationError):
            Config(**wrong)


@pytest.mark.parametrize("module", ["actor_policies", "inputs", "ppo_config"])
def test_light_modules_load_neither_torch_nor_ray(module):
    check = f"import sys, distrl.learners.{module}; assert not {{'torch', 'ray'}} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_ppo_learns_cartpole():
    rollouts = Rollouts(cartpole, 16)
    algorithm = Config(learning_rate=3e-3, epochs=4, minibatches=8).build(spec_of(rollouts.env))
    train(algorithm, rollouts, num_steps=128, until=450, max_steps=120_000)


@pytest.mark.parametrize(
    ("config", "num_steps"),
    [
        (APPO(learning_rate=3e-3, minibatches=8), 128),
        (IMPALA(learning_rate=1e-3, minibatches=4), 64),
    ],
    ids=["appo", "impala"],
)
def test_it_learns_from_rollouts_that_are_two_updates_old(config, num_steps):
    rollouts = Rollouts(cartpole, 16)
    algorithm = config.build(spec_of(rollouts.env))
    train(algorithm, rollouts, num_steps, until=150, max_steps=150_000, staleness=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ppo_learns_to_swing_up_a_pendulum(seed):
    rollouts = Rollouts(lambda: gymnasium.make("Pendulum-v1"), 16, seed)
    config = Config(gamma=0.9, learning_rate=1e-3, minibatches=16, normalize_observations=True, scale_rewards=True)
    train(config.build(spec_of(rollouts.env), seed=seed), rollouts, num_steps=128, until=-250, max_steps=150_000)


def test_the_drivers_rollouts_are_what_the_environment_did():
    rollouts = Rollouts(cartpole, 3)
    algorithm = Config().build(spec_of(rollouts.env))
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    rollout = rollouts.collect(policy, 60)
    assert len(rollout.final_index) == rollout.terminated.sum() > 0
    env = gymnasium.make("CartPole-v1").unwrapped
    index = {tuple(place): k for k, place in enumerate(rollout.final_index.tolist())}
    for t, n in np.ndindex(60, 3):
        env.state, env.steps_beyond_terminated = rollout.observation[ARRAY][t, n].astype("f8"), None
        following, *_ = env.step(int(rollout.action[t, n]))
        expected = (
            rollout.final_observation[ARRAY][index[t, n]] if (t, n) in index else rollout.observation[ARRAY][t + 1, n]
        )
        np.testing.assert_allclose(following, expected, atol=1e-5)
