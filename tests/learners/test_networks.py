"""Policies with memory and policies that see images: actors and learner agree, and they learn what needs either."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.inline_pool import InlinePool
from distrl.core.errors import ConfigError
from distrl.core.fragments import part
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import ARRAY, EnvRecipe, EnvSpec
from distrl.learners.actor_policies import MEMORY, MLPNetwork
from distrl.learners.ppo_config import APPO
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.queue import Queue
from distrl.learners.recurrent import Memory, RecurrentLayer
from distrl.learners.rollout import Rollout
from tests.fakes.problems import Recall
from tests.learners.on_policy import Rollouts, check_replayed_updates, spec_of, step, train

torch.set_num_threads(1)


class BrightSide(gymnasium.Env):
    """Which half of a noisy image is brighter?"""

    observation_space, action_space = Box(0, 255, (36, 36, 1), np.uint8), Discrete(2)

    def _image(self):
        self._side = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 160, (36, 36, 1), dtype=np.uint8)
        image[:, 18 * self._side : 18 * self._side + 18] += 60
        return image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action):
        right = float(action == self._side)
        return self._image(), right, True, False, {}


CENTRAL = Dict({"state": Box(-1, 1, (4,)), "z": Box(-1, 1, (3,))})
MIXED = Dict({"camera": Box(0, 255, (3, 40, 36), np.uint8), "speed": Box(-1, 1, (2,))})
KINDS = {
    "gru": (Box(-1, 1, (3,)), {"memory_size": 5}),
    "lstm": (Box(-1, 1, (3,)), {"memory_size": 5, "memory": "lstm"}),
    "gru_and_central_critic": (CENTRAL, {"memory_size": 5, "central_critic": True, "normalize_observations": True}),
    "image": (Box(0, 255, (36, 40, 2), np.uint8), {}),
    "image_and_gru": (MIXED, {"memory_size": 5, "normalize_observations": True}),
    "image_and_lstm": (MIXED, {"memory_size": 5, "memory": "lstm"}),
}


def algorithm_of(kind, config=Config, **options):
    space, extra = KINDS[kind]
    algorithm = config(hidden=(8, 6), **extra, **options).build(EnvSpec("test", space, Discrete(3)), seed=1)
    noise = torch.randn(algorithm.parameters.flat.shape, generator=torch.Generator().manual_seed(0))
    algorithm.parameters.flat += 0.2 * noise
    return algorithm


def rollout_of(algorithm, kind, num_steps=9, num_rows=4, seed=0) -> Rollout:
    """The policy where observations are noise; episodes end inside, and rows begin in the middle of one."""
    rng = np.random.default_rng(seed)
    policy = pickle.loads(pickle.dumps(algorithm.policy_spec())).build(seed=seed)
    policy.load(algorithm.policy_weights())

    def observations(*lead):
        spaces = KINDS[kind][0]
        parts = spaces.spaces if isinstance(spaces, Dict) else {ARRAY: spaces}
        return {
            path: rng.integers(0, 256, (*lead, *part.shape)).astype("u1")
            if part.dtype == np.uint8
            else rng.normal(size=(*lead, *part.shape)).astype("f4")
            for path, part in parts.items()
        }

    shape = (num_steps, num_rows)
    observation = observations(num_steps + 1, num_rows)
    truncated = rng.random(shape) < 0.2
    is_first = np.concatenate([rng.random((1, num_rows)) < 0.5, truncated])
    state = {path: rng.normal(size=array.shape).astype("f4") for path, array in policy.initial_state(num_rows).items()}
    before = {path: np.empty((*shape, array.shape[1]), "f4") for path, array in state.items()}
    action, log_prob = np.empty(shape, np.int64), np.empty(shape, np.float32)
    for t in range(num_steps):
        state = {path: np.where(is_first[t][:, None], np.float32(0), array) for path, array in state.items()}
        for path, array in state.items():
            before[path][t] = array
        now = {path: array[t] for path, array in observation.items()}
        action[t], log_prob[t], state = policy.step(now, state, is_first[t])
    index = np.argwhere(truncated).astype(np.int32)
    return Rollout(
        observation=observation,
        final_observation=observations(len(index)),
        final_index=index,
        action=action,
        reward=rng.normal(size=shape).astype("f4"),
        terminated=np.zeros(shape, bool),
        truncated=truncated,
        log_prob=log_prob,
        policy_version=np.zeros(shape, np.int64),
        is_first=is_first,
        state=before,
        row=np.arange(num_rows),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_actors_and_learner_agree_step_by_step(kind):
    """Through episodes that begin inside a rollout, and from a state that is not zero."""
    algorithm = algorithm_of(kind, minibatches=2, epochs=1)
    if algorithm.config.normalize_observations:  # with the moments that the actors have: none have been seen
        algorithm._moments.add = lambda samples, together: None
    rollout = rollout_of(algorithm, kind)
    for minibatch in algorithm.minibatches(rollout, torch.Generator().manual_seed(0)):
        _, metrics = algorithm.gradients(minibatch)
        assert abs(metrics["approx_kl"]) < 1e-6
        assert metrics["clip_share"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_lead_downhill(kind):
    """Along the gradient the loss changes as the gradient says."""
    algorithm = algorithm_of(kind, minibatches=1, entropy_cost=0.1, normalize_advantages=False)
    batch = next(algorithm.minibatches(rollout_of(algorithm, kind), torch.Generator()))

    def loss_and_gradient():
        gradients, metrics = algorithm.gradients(batch)
        loss = metrics["policy_loss"] + 0.5 * metrics["value_loss"] - 0.1 * metrics["entropy"]
        return float(loss), gradients["parameters"]

    _, gradient = loss_and_gradient()
    direction = gradient / gradient.norm()
    algorithm.parameters.flat += 1e-3 * direction
    above, _ = loss_and_gradient()
    algorithm.parameters.flat -= 2e-3 * direction
    below, _ = loss_and_gradient()
    np.testing.assert_allclose((above - below) / 2e-3, gradient.norm(), rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_updates_are_those_of_calls(monkeypatch, kind):
    check_replayed_updates(
        monkeypatch,
        lambda: algorithm_of(kind, minibatches=2, epochs=3),
        lambda algorithm, seed: rollout_of(algorithm, kind, seed=seed),
    )


@pytest.mark.parametrize("kind", ["gru", "lstm", "gru_and_central_critic"])
def test_a_final_observation_is_valued_with_the_memory_of_its_own_episode(kind):
    algorithm = algorithm_of(kind)
    rollout = rollout_of(algorithm, kind)
    network, parameters = algorithm.network, algorithm.parameters
    flat, final = algorithm._inputs(rollout)
    memory = algorithm._memory(rollout)
    index = torch.from_numpy(rollout.final_index.astype(np.int64))
    _, value, final_value = network.evaluate(parameters, flat, final, index, memory, False)
    for k, (t, n) in enumerate(rollout.final_index):
        state = memory.state[0, [n]]
        for step_, observation in enumerate(flat[0].view(10, 4, -1)[: t + 1, [n]]):
            if rollout.is_first[step_, n]:
                state = torch.zeros_like(state)
            _, state = network.act(parameters.frozen, (observation,), state)
        expected = network._values(parameters.frozen, state[:, :5], (observation,))
        assert torch.allclose(value.view(10, 4)[t, n], expected, atol=1e-5)
        _, state = network.act(parameters.frozen, (final[0][[k]],), state)
        expected = network._values(parameters.frozen, state[:, :5], (final[0][[k]],))
        assert torch.allclose(final_value[k], expected, atol=1e-5)


def test_a_central_critic_sees_the_state_and_what_the_actor_remembers():
    algorithm = algorithm_of("gru_and_central_critic")
    rollout = rollout_of(algorithm, "gru_and_central_critic")
    (flat,), (final,) = algorithm._inputs(rollout)
    index = torch.from_numpy(rollout.final_index.astype(np.int64))
    memory = algorithm._memory(rollout)

    def found(inputs, memory):
        outputs, value, _ = algorithm.network.evaluate(
            algorithm.parameters, (inputs,), (final,), index, memory, with_outputs=True
        )
        return outputs, value

    outputs, value = found(flat, memory)
    other_state = flat.clone()
    other_state[:, 3:] += 1.0  # the last of the inputs
    others, other_value = found(other_state, memory)
    assert torch.equal(outputs, others)
    assert not (value == other_value).any()
    others, other_value = found(flat, memory._replace(state=memory.state + 1.0))
    first = slice(0, 4)  # steps that begin from the state that was stored
    assert not (outputs[:, first] == others[:, first]).any()
    assert not (value[first] == other_value[first]).any()
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    policy.step({"z": rollout.observation["z"][0]}, policy.initial_state(4), rollout.is_first[0])  # needs no state


def test_minibatches_of_a_policy_with_memory_are_whole_rows():
    algorithm = algorithm_of("gru", minibatches=3, epochs=1)
    rollout = rollout_of(algorithm, "gru")
    rows = []
    for batch in algorithm.minibatches(rollout, torch.Generator().manual_seed(0)):
        seen = batch.inputs[0].view(9, -1, 3)
        for column, state in zip(seen.unbind(1), batch.memory.state.unbind(1), strict=True):
            row = next(n for n in range(4) if np.array_equal(column, rollout.observation[ARRAY][:9, n]))
            assert np.array_equal(state, rollout.state[MEMORY][:, row])
            rows.append(row)
    assert sorted(rows) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="whole rows"):
        next(algorithm_of("gru", minibatches=5).minibatches(rollout, torch.Generator()))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_layers_are_torchs(kind):
    """With torch's own modules, to which the same weights are given gate by gate; actors, in numpy, agree as well."""
    layer, (steps, rows) = RecurrentLayer(kind, 4), (6, 3)
    named = layer.initial(5, torch.Generator().manual_seed(0))
    named |= {name: value + 0.3 * torch.randn_like(value) for name, value in named.items()}
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](5, 4)
    order = {"gru": [0, 1, 2], "lstm": [0, 1, 3, 2]}[kind]  # torch has the LSTM's gates as i, f, g, o
    for side, name in (("input", "ih"), ("hidden", "hh")):
        for ours, theirs in (("weight", f"weight_{name}_l0"), ("bias", f"bias_{name}_l0")):
            gates = named[f"memory/{side}/{ours}"].t().chunk(len(order))
            getattr(module, theirs).data = torch.cat([gates[i] for i in order])
    x, start = torch.randn(steps, rows, 5), torch.randn(rows, layer.state_size)
    given = torch.zeros(steps, rows, dtype=torch.bool)
    given[0] = True
    stored = torch.full((steps, rows, layer.state_size), torch.nan)  # nobody may look at what is not given
    stored[0] = start
    states = layer.unroll(named, x.reshape(-1, 5), Memory(given, stored))
    split = tuple(part.unsqueeze(0).contiguous() for part in start.split(4, 1))
    expected, _ = module(x, split if kind == "lstm" else split[0])
    torch.testing.assert_close(states[:, :4], expected.reshape(-1, 4))

    head = {"actor/0/weight": torch.eye(4), "actor/0/bias": torch.zeros(4)}
    actor = MLPNetwork({ARRAY: None}, 1, (kind, 4))
    prepared = actor.prepared({name: value.detach().numpy() for name, value in (named | head).items()})
    state = {MEMORY: start.numpy()}
    for now, then in zip(x.numpy(), states.view(steps, rows, -1).detach().numpy(), strict=True):
        outputs, state = actor.outputs(prepared, {ARRAY: now}, state)
        np.testing.assert_allclose(outputs, then[:, :4], atol=1e-5)
        np.testing.assert_allclose(state[MEMORY], then, atol=1e-5)


class _Sink:
    """Every fragment goes into the queue, in pieces of at most three steps of one row."""

    def __init__(self, queue):
        self.add = queue.add

    def publish(self, fragment, secured):
        for row in range(fragment.num_rows):
            for start in range(0, fragment.num_steps, 3):
                self.add(part(fragment, row, start, min(start + 3, fragment.num_steps)))


class _Source:
    def __init__(self, weights):
        self._weights = weights

    def pull_if_newer(self, version, wait_s=0.0):
        return (0, self._weights) if version < 0 else None


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_where_stretches_are_chained_the_learner_goes_on_from_the_actors_own_memory(kind):
    """Stretches of 3, 3 and 1 steps of three rows become rows of 4: at each joint, and where one was cut in two, the
    learner's probabilities are still those that the actor acted with."""
    recipe = EnvRecipe("tests.fakes.problems:Recall", {"num_cues": 2, "delay": 8})
    algorithm = algorithm_of(kind, minibatches=1, epochs=1)
    queue = Queue(batch_size=72, steps=4)
    pool = InlinePool(recipe, 3, TrainingSeeds(5))
    source, policy = _Source(algorithm.policy_weights()), algorithm.policy_spec().build(seed=0)
    worker = build_env_worker(pool, one_policy(policy, source), _Sink(queue), fragment_steps=7, fragment_max_age_s=None)
    worker.pull()
    while not queue.allows_update():
        worker.run_once(0.0)
    rollout = queue.sample(72, np.random.default_rng(0))
    worker.close()
    assert (rollout.is_first[1:-1] & (rollout.state[MEMORY][1:] != 0).any(2)).sum() > 10, "there are joints"
    batch = next(algorithm.minibatches(rollout, torch.Generator()))
    outputs, _, _ = algorithm.network.forward(algorithm.parameters, batch.inputs, batch.memory)
    learners, _, _ = algorithm._distribution.forward(algorithm.parameters.frozen, outputs, batch.action, None)
    np.testing.assert_allclose(learners, batch.log_prob, atol=1e-6)


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_memory_learns_what_a_policy_without_it_cannot(memory):
    rollouts = Rollouts(Recall, 32)
    algorithm = Config(hidden=(16,), memory=memory, memory_size=16, learning_rate=5e-3, epochs=4, minibatches=4).build(
        spec_of(rollouts.env)
    )
    train(algorithm, rollouts, num_steps=16, until=0.95, max_steps=40_000)


def test_images_are_learned_from():
    rollouts = Rollouts(BrightSide, 16)
    algorithm = APPO(learning_rate=1e-3, minibatches=4).build(spec_of(rollouts.env))
    train(algorithm, rollouts, num_steps=16, until=0.95, max_steps=10_000)


def test_state_round_trip_with_memory():
    first, other = algorithm_of("gru", minibatches=2), algorithm_of("gru", minibatches=2)
    step(first, rollout_of(first, "gru"))
    other.load_state(pickle.loads(pickle.dumps(first.state())))
    for algorithm in (first, other):
        step(algorithm, rollout_of(algorithm, "gru", seed=2), 1)
    assert torch.equal(first.parameters.flat, other.parameters.flat)
