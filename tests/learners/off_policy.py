"""What tests of algorithms with a replay share: batches, slow networks, and checks that hold for each of them."""

import pickle
from dataclasses import replace

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete

from distrl.core.types import EnvSpec
from distrl.learners import actor_critic
from distrl.learners.randomness import update_generator
from distrl.learners.replay import SampleBatch
from tests.learners.tape import instead_of_graphs

LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
BOX = EnvSpec("test", Box(-1, 1, (3,)), Box(LOW.astype("f4"), HIGH.astype("f4")))


def batch_of(spec: EnvSpec, size: int, seed: int = 0, alike: bool = True) -> SampleBatch:
    """Random transitions of observations [3]; some terminate. ``alike``: in what they count."""
    rng = np.random.default_rng(seed)
    space, zeros = spec.action_space, np.zeros(size, np.float32)
    if isinstance(space, Discrete):
        action = space.start + rng.integers(space.n, size=size)
    else:
        action = (space.low + (space.high - space.low) * rng.random((size, *space.shape))).astype("f4")
    return SampleBatch(
        observation={"array": rng.normal(size=(size, 3)).astype("f4")},
        action=action,
        reward=rng.normal(size=size).astype("f4"),
        discount=rng.choice([0.0, 0.9], size).astype("f4"),
        next_observation={"array": rng.normal(size=(size, 3)).astype("f4")},
        horizon=zeros,
        log_prob=zeros,
        policy_version=zeros,
        duration_s=zeros,
        fidelity=zeros,
        number=rng.integers(1000, size=size),
        weight=None if alike else rng.exponential(size=size).astype("f4"),
    )


def observing(batch, space):
    """The batch with observations of a space."""
    if space is BOX.observation_space:
        return batch

    def drawn():
        found = [space.sample() for _ in batch.reward]
        if not isinstance(space, Dict):
            return {"array": np.stack(found)}
        return {path: np.stack([each[path] for each in found]) for path in space}

    space.seed(0)
    seen, after = drawn(), drawn()
    for part in (seen, after):
        if "action_mask" in part:
            part["action_mask"][:, 0] = 1
    return replace(batch, observation=seen, next_observation=after)


def shares_of(batch):
    """What each sample counts in a mean over them, [S]."""
    weight = np.ones(len(batch.reward)) if batch.weight is None else batch.weight
    return weight / len(batch.reward)


def trained(config, spec=BOX, updates=20, seed=3):
    """A little, so that target networks differ from the networks and no output is near zero."""
    algorithm = config.build(spec, seed=seed)
    for i in range(updates):
        gradients, _ = algorithm.gradients(batch_of(spec, 16, i), update_generator(0, i))
        algorithm.apply(gradients)
    return algorithm


def slow_mlp(parameters, x, index=None):
    """One row through linear layers with ReLU between, in float64; ``index``: which of an ensemble."""
    layers = sorted({int(name.split("/")[0]) for name in parameters})
    for i in layers:
        weight, bias = parameters[f"{i}/weight"], parameters[f"{i}/bias"]
        if index is not None:
            weight, bias = weight[index], bias[index, 0]
        x = x @ weight + bias
        if i != layers[-1]:
            x = np.maximum(x, 0)
    return x


def split(parameters, vector):
    """A vector's parts by name, float64."""
    return {
        name: part.numpy() for name, part in parameters.split(torch.from_numpy(np.asarray(vector, np.float64))).items()
    }


def vectors(algorithm):
    """name → float64 vector, and ``<name> target`` of those that have one."""
    found = {}
    for name, vector in algorithm.optimizer.trained.items():
        found[name] = vector.flat.numpy().astype("f8")
        if vector.target is not None:
            found[f"{name} target"] = vector.target.numpy().astype("f8")
    return found


def check_slopes(gradients, losses, flat, rtol=2e-3):
    """Gradients are the slopes of ``losses(name, vector)[name]``: each loss of the vector it trains alone."""
    rng = np.random.default_rng(0)
    for name, gradient in gradients.items():
        assert gradient.shape == flat[name].shape
        for _ in range(3):
            direction = rng.normal(size=flat[name].shape)
            step = 1e-5 * direction  # small, or a ReLU changes sides
            up, down = losses(name, flat[name] + step), losses(name, flat[name] - step)
            np.testing.assert_allclose(
                gradient.numpy().astype("f8") @ direction, (up - down) / 2e-5, rtol=rtol, atol=1e-4, err_msg=name
            )


def leaves(state, path=""):
    """path → tensor, array or number of a nested state."""
    if not isinstance(state, dict):
        return {path: state}
    return {name: leaf for key, part in state.items() for name, leaf in leaves(part, f"{path}/{key}").items()}


def assert_same(left, right):
    """Two states, bit for bit."""
    left, right = leaves(left), leaves(right)
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(right[name]), err_msg=name)


def check_gradients_change_nothing(algorithm, spec=BOX):
    """Only ``apply`` does."""
    before = algorithm.state()
    algorithm.gradients(batch_of(spec, 8), update_generator(0, 0))
    assert_same(before, algorithm.state())


def check_round_trip(algorithm, spec=BOX):
    """Another one with its state goes on bit for bit."""
    other = algorithm.config.build(spec, seed=99)
    other.load_state(pickle.loads(pickle.dumps(algorithm.state())))
    for i in range(100, 110):
        for one in (algorithm, other):
            gradients, _ = one.gradients(batch_of(spec, 16, i), update_generator(0, i))
            one.apply(gradients)
    assert_same(algorithm.state(), other.state())
    weights, others = algorithm.policy_weights(), other.policy_weights()
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)


def check_published_weights_are_left_alone(algorithm, spec=BOX):
    """Later updates do not change what has been handed out."""
    weights = algorithm.policy_weights()
    kept = {name: array.copy() for name, array in weights.items()}
    gradients, _ = algorithm.gradients(batch_of(spec, 8), update_generator(0, 0))
    algorithm.apply(gradients)
    assert all(np.array_equal(weights[name], kept[name]) for name in weights)
    assert all(array.dtype == np.float32 for array in weights.values())


def check_replayed_updates(monkeypatch, new, batch_of, updates=20):
    """Gradients and steps as a GPU makes them are those of calls, bit for bit: see ``tests.learners.tape``, which does
    not see what numpy does. ``new``: makes the algorithm; ``batch_of``: of an update, by number."""
    monkeypatch.setattr(actor_critic, "_tanh_", torch.tanh_)

    def run():
        algorithm, found = new(), {}
        algorithm.optimizer.look_period = 5
        for update in range(updates):
            batch = batch_of(update)
            gradients, metrics = algorithm.gradients(batch, update_generator(0, update))
            algorithm.apply(gradients)
            found[update] = {name: float(value) for name, value in metrics.items()}
            if batch.error is not None:
                found[update]["error"] = batch.error.numpy().copy()
        return {"state": algorithm.state(), "metrics": found}

    called, tapes = run(), instead_of_graphs(monkeypatch)
    assert_same(called, run())
    recorded = [tape.replays for tape in tapes if tape.replays]
    assert len(recorded) >= 2  # gradients, and their steps
    assert sum(recorded) >= updates
