"""A central critic that has to be paid for: what each learner learns from, and where the switch pays."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.ppo_config import APPO
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.rollout import Rollout
from distrl.learners.switching import SwitchingPPO
from tests.learners.on_policy import step

torch.set_num_threads(1)

CHOICES, LOWEST = 4, 3
SPACE = Dict({"state": Box(-1, 1, (2,)), "z": Box(-1, 1, (CHOICES + 2,))})
SPEC = EnvSpec("signs", SPACE, Discrete(CHOICES, start=LOWEST))
MASKED = EnvSpec("masked", Dict({**SPACE.spaces, "action_mask": MultiBinary(CHOICES)}), SPEC.action_space)


def algorithm_of(cost=0.1, spec=SPEC, **options) -> SwitchingPPO:
    config = Config(central_critic=True, switching_cost=cost, hidden=(CHOICES,), gamma=0.5, **options)
    return config.build(spec)


def rollout_of(algorithm, seed=0, num_steps=8, num_rows=64, masked=False, ends=1.0) -> Rollout:
    """What its policy does where one of four signs is seen, and beside it one of two colours: it is to name the sign,
    for a reward of 1. Each step ends its episode with probability ``ends``."""
    rng = np.random.default_rng(seed)
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=seed)
    policy.load(algorithm.policy_weights())

    def seen(*lead):
        parts = [np.eye(number)[rng.integers(number, size=lead)] for number in (CHOICES, 2)]
        found = {"state": rng.normal(size=(*lead, 2)).astype("f4"), "z": np.concatenate(parts, -1).astype("f4")}
        return found | ({"action_mask": found["z"][..., 1 : 1 + CHOICES].astype("i1") | 1} if masked else {})

    observation = seen(num_steps + 1, num_rows)
    steps = [
        policy.step({path: array[t] for path, array in observation.items()}, {}, np.zeros(0)) for t in range(num_steps)
    ]
    action = np.stack([action for action, _, _ in steps])
    named = policy.env_action(action) - LOWEST
    terminated = rng.random((num_steps, num_rows)) < ends
    index = np.argwhere(terminated).astype("i4")
    return Rollout(
        observation=observation,
        final_observation=seen(len(index)),
        final_index=index,
        action=action,
        reward=(named == observation["z"][:-1, :, :CHOICES].argmax(-1)).astype("f4"),
        terminated=terminated,
        truncated=np.zeros_like(terminated),
        log_prob=np.stack([log_prob for _, log_prob, _ in steps]),
        policy_version=np.zeros((num_steps, num_rows), np.int64),
        is_first=np.concatenate([np.ones((1, num_rows), bool), terminated]),
        state={},
        row=np.arange(num_rows),
    )


def called(rollout):
    """g, [T, N]."""
    return (rollout.action - LOWEST) // CHOICES


def shares(rollout):
    """Of steps that were centralised: where the colour is the first, where it is the second."""
    second = rollout.observation["z"][:-1, :, -1] == 1
    return called(rollout)[~second].mean(), called(rollout)[second].mean()


def test_the_learners_policies_are_those_that_acted():
    algorithm = algorithm_of(minibatches=1, epochs=1, normalize_observations=True)
    for seed in range(3):
        step(algorithm, rollout_of(algorithm, seed))
    for part in algorithm._parts.values():  # with the moments that the actors have
        part._moments.add = lambda samples, together: None
    rollout = rollout_of(algorithm, 9)
    (batch,) = algorithm.minibatches(rollout, torch.Generator())
    _, metrics = algorithm.gradients(batch)
    assert metrics["central_approx_kl"] < 1e-8
    assert metrics["switch_approx_kl"] < 1e-8
    assert metrics["centralised_share"] == pytest.approx(called(rollout).mean())
    assert 0 < len(batch["central"].advantage) == called(rollout).sum() < len(batch["own"].advantage) == 8 * 64
    others = called(rollout) == 1  # where the other one acted, weights say how probable that was
    weight = algorithm._own._begin(algorithm._apart(rollout)["own"]).weight.view(8, 64).numpy()
    np.testing.assert_allclose(weight[~others], 1.0, atol=1e-5)
    assert (weight[others] < 0.999).any()


def test_the_switch_is_paid_less_by_the_cost_of_each_call():
    rollout = rollout_of(algorithm_of())
    apart = algorithm_of(cost=0.25)._apart(rollout)
    np.testing.assert_allclose(apart["switch"].reward, rollout.reward - 0.25 * called(rollout))
    np.testing.assert_array_equal(apart["own"].reward, rollout.reward)
    assert (apart["own"].action + CHOICES * apart["switch"].action == rollout.action).all()
    np.testing.assert_allclose(apart["own"].log_prob + apart["switch"].log_prob, rollout.log_prob, atol=1e-6)


def test_the_central_critic_is_not_asked_where_it_is_not_paid_for():
    """Whatever the state is there, advantages of the centralised actor are the same; V₀ is in its place."""
    algorithm = algorithm_of(minibatches=1)
    apart = algorithm._apart(rollout_of(algorithm, ends=0.2))["central"]
    state = apart.observation["state"].copy()
    state[apart.observation["/called"] == 0] = np.nan
    poisoned = replace(apart, observation=apart.observation | {"state": state})
    whole, other = (algorithm._central._begin(rollout) for rollout in (apart, poisoned))
    assert torch.equal(whole.advantage, other.advantage)
    assert torch.isfinite(other.inputs[0]).all()
    seen = torch.from_numpy(state[:-1].reshape(-1, 2))
    assert torch.equal(whole.inputs[0][:, -2:], seen[~seen.isnan().any(1)])


@pytest.mark.parametrize("cost", [0.0, 0.1, 1.0])
def test_the_switch_pays_where_the_centralised_actor_is_worth_it(cost):
    """The one knows the sign where the colour is the second, and guesses elsewhere; the other always guesses: a call is
    worth ¾ − c there and −c elsewhere, against an entropy that is worth 0.3 c."""
    algorithm = algorithm_of(cost, learning_rate=0.03, epochs=4, minibatches=2)
    central = algorithm._central.parameters.frozen
    central["actor/0/weight"].zero_()[:CHOICES] = 5 * torch.eye(CHOICES)
    central["actor/0/weight"][-1] = 5.0
    central["actor/0/bias"][:] = -7.5
    central["actor/1/weight"][:] = 5 * torch.eye(CHOICES)
    for update in range(50):
        rollout = rollout_of(algorithm, update)
        for batch in algorithm.minibatches(rollout, torch.Generator().manual_seed(update)):
            algorithm.apply(algorithm.gradients({"switch": batch["switch"]})[0])
    if cost == 0:
        assert min(shares(rollout)) > 0.4, "what is free is not avoided"
    else:
        worth = np.array([-cost, 0.75 - cost])
        np.testing.assert_allclose(shares(rollout), 1 / (1 + np.exp(-worth / (0.3 * cost))), atol=0.12)


def test_what_never_helps_is_not_paid_for():
    """A sign says all: agents learn it alone."""
    algorithm = algorithm_of(0.1, learning_rate=0.02, epochs=4, minibatches=2)
    for update in range(30):
        rollout = rollout_of(algorithm, update)
        metrics = step(algorithm, rollout, update)
    assert rollout.reward.mean() > 0.9
    assert metrics["centralised_share"] < 0.1


def test_a_step_that_nobody_called_for_trains_the_others():
    algorithm = algorithm_of(minibatches=4, epochs=2)
    rollout = rollout_of(algorithm)
    own = replace(rollout, action=LOWEST + (rollout.action - LOWEST) % CHOICES)
    before = algorithm._central.parameters.flat.clone()
    metrics = step(algorithm, own)
    assert metrics["centralised_share"] == 0
    assert torch.equal(before, algorithm._central.parameters.flat)
    assert [part.optimizer.updates for part in (algorithm._own, algorithm._switch, algorithm._central)] == [8, 8, 0]


def test_minibatches_of_what_was_called_for_are_as_large_but_fewer():
    algorithm = algorithm_of(minibatches=8, epochs=1)
    rollout = rollout_of(algorithm)
    rollout.action[2:] = LOWEST + (rollout.action[2:] - LOWEST) % CHOICES  # nobody called later
    sizes = [batch["central"] and len(batch["central"].advantage) for batch in algorithm.minibatches(rollout, None)]
    number = called(rollout).sum()
    assert 0 < number < 128
    assert sum(filter(None, sizes)) == number
    assert max(filter(None, sizes)) <= 64
    assert sizes.count(None) == 8 - -(-number // 64)


def test_actions_are_in_the_space_and_allowed_and_masks_pass_the_switch():
    algorithm = algorithm_of(spec=MASKED)
    rollout = rollout_of(algorithm, masked=True)
    policy = algorithm.policy_spec().build(seed=0)
    chosen = policy.env_action(rollout.action)
    assert set(np.unique(called(rollout))) == {0, 1}
    assert all(action in SPEC.action_space for action in chosen.ravel())
    mask = rollout.observation["action_mask"][:-1]
    assert np.take_along_axis(mask, chosen[..., None] - LOWEST, -1).all()
    assert torch.isfinite(step(algorithm, rollout)["own_policy_loss"])
    assert not policy.ready
    greedy = algorithm.policy_spec().build(seed=0, deterministic=True)
    greedy.load(algorithm.policy_weights())
    seen = {path: array[0] for path, array in rollout.observation.items()}
    first, second = (greedy.step(seen, {}, np.zeros(0))[0] for _ in range(2))
    assert (first == second).all()


def test_state_round_trip_continues_bit_for_bit():
    first, other = algorithm_of(minibatches=2, epochs=2), algorithm_of(minibatches=2, epochs=2)
    step(first, rollout_of(first))
    other.load_state(pickle.loads(pickle.dumps(first.state())))
    for algorithm in (first, other):
        step(algorithm, rollout_of(algorithm, 3), 3)
    weights, others = first.policy_weights(), other.policy_weights()
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert not any("critic" in name for name in weights)
    with pytest.raises(ValueError, match="nothing"):
        other.load_state({})


def test_what_a_switch_needs():
    with pytest.raises(ValidationError, match=r"set algorithm\.central_critic"):
        Config(switching_cost=0.1)
    for wrong in (
        lambda: Config(central_critic=True, switching_cost=0.1, memory_size=8),
        lambda: Config(central_critic=True, switching_cost=0.1, max_staleness=1),
        lambda: APPO(central_critic=True, switching_cost=0.1),
    ):
        with pytest.raises(ValidationError, match="needs plain PPO"):
            wrong()
    with pytest.raises(ConfigError, match="needs Discrete actions"):
        algorithm_of(spec=EnvSpec("t", SPACE, MultiDiscrete([2, 2])))
    with pytest.raises(ConfigError, match=r"set env\.agents\.state"):
        algorithm_of(spec=EnvSpec("t", Box(-1, 1, (3,)), Discrete(2)))
