"""RLModules under distrl's PPO: gradients against those of our own networks, what acts against what is trained."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from distrl.cluster.rllib.module import build_module
from distrl.core.errors import ConfigError
from distrl.core.policy_file import policy_files, read_policy
from distrl.core.types import ARRAY, EnvSpec
from distrl.learners.ppo import PPO
from distrl.learners.ppo_config import APPO, IMPALA
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.rollout import Rollout

torch.set_num_threads(1)
MODULES = "tests.fakes.rllib_modules"
TOWERS = {"module": f"{MODULES}:TwoTowers", "module_config": {"hidden": [8, 6]}}
CHOICES = EnvSpec("test", Box(-1, 1, (3,)), Discrete(4))
BOX = EnvSpec(
    "test",
    Dict({"place": Box(-1, 1, (2,), np.float64), "sub": Dict({"speed": Box(-9, 9, (3,))})}),
    Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4")),
)


def rollout_of(algorithm, spec, num_steps=12, num_rows=4, seed=0):
    """What the algorithm's newest policy does where observations and rewards are noise."""
    rng = np.random.default_rng(seed)
    policy = algorithm.policy_spec().build(seed=seed)
    policy.load(algorithm.policy_weights())

    def observations(*lead):
        if spec is CHOICES:
            return {ARRAY: rng.normal(size=(*lead, 3)).astype("f4")}
        return {"place": rng.normal(size=(*lead, 2)), "sub/speed": rng.normal(size=(*lead, 3)).astype("f4")}

    seen, steps = observations(num_steps + 1, num_rows), []
    for t in range(num_steps):
        now = {path: array[t] for path, array in seen.items()}
        steps.append(policy.step(now, {}, np.zeros(num_rows, bool))[:2])
    truncated = rng.random((num_steps, num_rows)) < 0.1
    return Rollout(
        observation=seen,
        final_observation=observations(int(truncated.sum())),
        final_index=np.argwhere(truncated).astype(np.int32),
        action=np.stack([action for action, _ in steps]),
        log_prob=np.stack([log_prob for _, log_prob in steps]),
        reward=rng.normal(size=(num_steps, num_rows)).astype("f4"),
        terminated=np.zeros_like(truncated),
        truncated=truncated,
        policy_version=np.zeros(truncated.shape, np.int64),
        is_first=np.concatenate([np.ones((1, num_rows), bool), truncated]),
        state={},
        row=np.arange(num_rows),
    )


def ours_with_the_parameters_of(module_ppo):
    """distrl's own networks with a TwoTowers' parameters, and the names of each layer in both."""
    ours = PPO(Config(hidden=(8, 6), entropy_cost=0.01), CHOICES)
    names = {}
    for tower in ("actor", "critic"):
        for i in range(3):
            for kind in ("weight", "bias"):
                mine, its = f"{tower}/{i}/{kind}", f"{tower}.{2 * i}.{kind}"
                names[mine] = its
                value = module_ppo.parameters.frozen[its]
                ours.parameters.frozen[mine].copy_(value.t() if kind == "weight" and i < 2 else value)
    return ours, names


def test_a_module_has_the_gradients_of_our_own_networks():
    theirs = Config(**TOWERS, entropy_cost=0.01).build(CHOICES, seed=3)
    ours, names = ours_with_the_parameters_of(theirs)
    rollout = rollout_of(theirs, CHOICES)
    found = []
    for algorithm in (theirs, ours):
        batch = next(iter(algorithm.minibatches(rollout, torch.Generator().manual_seed(0))))
        gradients, metrics = algorithm.gradients(batch)
        found.append((algorithm.parameters.split(gradients["parameters"]), metrics))
    (theirs_by_name, their_metrics), (ours_by_name, our_metrics) = found
    for mine, its in names.items():
        value = theirs_by_name[its].t() if "weight" in mine and "/2/" not in mine else theirs_by_name[its]
        torch.testing.assert_close(ours_by_name[mine], value, rtol=1e-4, atol=1e-6)
    for name in our_metrics:
        assert float(our_metrics[name]) == pytest.approx(float(their_metrics[name]), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("config", [Config, APPO, IMPALA])
@pytest.mark.parametrize(("module", "spec"), [(TOWERS, CHOICES), ({"module": f"{MODULES}:Shared"}, BOX)])
def test_what_acted_is_what_is_trained(config, module, spec):
    algorithm = config(**module, minibatches=2, batch_size=48).build(spec, seed=3)
    rollout = rollout_of(algorithm, spec)
    before = algorithm.parameters.flat.clone()
    for number, batch in enumerate(algorithm.minibatches(rollout, torch.Generator().manual_seed(0))):
        gradients, metrics = algorithm.gradients(batch)
        if number == 0:  # of the same parameters: the probabilities are those that were stored
            assert float(metrics["approx_kl"]) == pytest.approx(0.0, abs=1e-6)
            assert float(metrics["clip_share"]) == 0.0
        algorithm.apply(gradients)
    assert bool(((algorithm.parameters.flat - before) != 0).all())
    assert all(math.isfinite(float(value)) for value in metrics.values())


def test_a_policy_comes_back_from_its_files_and_keeps_box_actions_within_bounds():
    algorithm = Config(module=f"{MODULES}:Shared").build(BOX, seed=3)
    files = policy_files(algorithm.policy_weights(), algorithm.policy_spec())
    seen = {"place": np.ones((5, 2)), "sub/speed": np.ones((5, 3), "f4")}
    best, noisy = (read_policy(files, seed=1, deterministic=one) for one in (True, False))
    chosen = best.step(seen, {}, np.ones(5, bool))[0]
    assert chosen.shape == (5, 2)
    assert np.ptp(chosen, axis=0).max() == 0
    drawn = noisy.step(seen, {}, np.ones(5, bool))[0]
    np.testing.assert_array_equal(drawn, read_policy(files, 1, False).step(seen, {}, np.ones(5, bool))[0])
    assert np.ptp(drawn, axis=0).min() > 0
    # RLlib's meaning of Box actions: −1 … 1 are the bounds
    np.testing.assert_allclose(noisy.env_action(np.array([[0.0, 0.0], [9.0, -9.0]], "f4")), [[0, 5], [2, 0]])


def test_the_seed_decides_the_first_parameters():
    first, again, other = (Config(**TOWERS).build(CHOICES, seed=seed).parameters.flat for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_continues_bit_for_bit():
    one = Config(**TOWERS, minibatches=2).build(CHOICES, seed=3)
    rollout = rollout_of(one, CHOICES)
    other = Config(**TOWERS, minibatches=2).build(CHOICES, seed=4)
    other.load_state(one.state())
    for algorithm in (one, other):
        for batch in algorithm.minibatches(rollout, torch.Generator().manual_seed(0)):
            algorithm.apply(algorithm.gradients(batch)[0])
    assert torch.equal(one.parameters.flat, other.parameters.flat)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"module": "nowhere:Module"}, "algorithm.module = 'nowhere:Module' cannot be imported"),
        ({"module": f"{MODULES}:Valueless"}, "needs to name a TorchRLModule that implements ValueFunctionAPI"),
        ({"module": f"{MODULES}:TwoTowers"}, r"cannot be made with algorithm.module_config = \{\}: KeyError: 'hidden'"),
        ({**TOWERS, "module": f"{MODULES}:Remembers"}, "keeps a state between steps"),
        ({**TOWERS, "module": f"{MODULES}:Buffered"}, "its buffer 'mean' is in its state too"),
        ({**TOWERS, "module": f"{MODULES}:Silent"}, "must return 'action_dist_inputs' from _forward_train"),
    ],
)
def test_what_ppo_cannot_train_is_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Config(**options).policy_spec(CHOICES)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({**TOWERS, "memory_size": 8}, "algorithm.memory_size = 8 came"),
        ({**TOWERS, "hidden": [8]}, r"algorithm.hidden = \(8,\) came"),
        ({"module_config": {"hidden": [8]}}, "none was named"),
    ],
)
def test_options_of_our_networks_go_with_ours_alone(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)


def test_actions_that_do_not_begin_at_0_are_refused():
    with pytest.raises(ConfigError, match="numbers its actions from 0"):
        Config(**TOWERS).policy_spec(EnvSpec("test", Box(-1, 1, (3,)), Discrete(4, start=1)))


def test_a_module_is_built_apart_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_module(**Config(**TOWERS).policy_spec(CHOICES).kwargs)
    assert torch.equal(torch.rand(1), expected)
