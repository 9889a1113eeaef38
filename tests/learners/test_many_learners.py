"""Several learners of one policy come to what one would: in step, and through the shards of a parameter server."""

import threading

import gymnasium
import numpy as np
import pytest
import torch

from distrl.core.published_version import PublishedVersion
from distrl.core.types import EnvSpec
from distrl.learners.optimizer import Optimizer, Rule, Trained
from distrl.learners.parameter_shards import ParameterShard, ShardOptions, gradient_staleness_bound, parts
from distrl.learners.ppo import PPO
from distrl.learners.ppo_config import PPO as PPOConfig
from distrl.learners.randomness import update_generator
from distrl.learners.rollout import Rollout
from distrl.learners.sac import SAC
from distrl.learners.sac_config import Config
from distrl.learners.sharded_optimizer import DirectLink, ShardedOptimizer
from distrl.learners.together import Group, LearnerLost, meeting
from tests.learners.test_ppo import rollout_of
from tests.learners.test_sac import random_batch

torch.set_num_threads(1)
Box = gymnasium.spaces.Box
SPEC = EnvSpec("test", Box(-1, 1, (3,)), Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4")))
CONFIG = Config(hidden=(40, 30), critic_learning_rate=0.01, actor_learning_rate=0.01, max_gradient_norm=1.0)


def side_by_side(work, count=2, timeout_s=30.0):
    """``work(rank)`` in a thread each; what they return."""
    found, failed = {}, []

    def run(rank):
        try:
            found[rank] = work(rank)
        except Exception as error:  # noqa: BLE001  raised again below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive(), "a learner waits for ever"
    if failed:
        raise failed[0]
    return [found[rank] for rank in range(count)]


def groups(size=2, timeout_s=20.0):
    """rank → its group, once all have come."""
    first = meeting("127.0.0.1")
    return lambda rank: Group(first if rank == 0 else meeting("127.0.0.1", first.port), rank, size, "cpu", timeout_s)


def sharded(algorithm, shards, name):
    algorithm.optimizer = ShardedOptimizer(algorithm.optimizer.trained, [DirectLink(shard) for shard in shards], name)
    return algorithm


def updates(algorithm, batches, seed=0):
    for number, batch in enumerate(batches):
        gradients, _ = algorithm.gradients(batch, update_generator(seed, number))
        algorithm.apply(gradients)
    return algorithm


def vectors(algorithm):
    trained = algorithm.optimizer.trained
    targets = {f"{name}/target": vector.target for name, vector in trained.items() if vector.target is not None}
    return {name: vector.flat for name, vector in trained.items()} | targets


def halves(batch):
    """A batch of twice the size as two."""
    size = len(batch.reward) // 2
    fields = {name: getattr(batch, name) for name in ("observation", "next_observation")}
    arrays = {name: value for name, value in vars(batch).items() if isinstance(value, np.ndarray)}
    return [
        type(batch)(
            **{path: {key: array[chosen] for key, array in found.items()} for path, found in fields.items()},
            **{name: array[chosen] for name, array in arrays.items()},
        )
        for chosen in (slice(None, size), slice(size, None))
    ]


def rows(rollout, rank):
    """The first or the second half of a rollout's rows."""
    half = rollout.reward.shape[1] // 2
    chosen = slice(rank * half, (rank + 1) * half)
    ends = (rollout.final_index[:, 1] >= chosen.start) & (rollout.final_index[:, 1] < chosen.stop)
    arrays = {name: value[:, chosen] for name, value in vars(rollout).items() if getattr(value, "ndim", 0) > 1}
    return Rollout(
        **arrays
        | {
            "observation": {path: array[:, chosen] for path, array in rollout.observation.items()},
            "final_observation": {path: array[ends] for path, array in rollout.final_observation.items()},
            "final_index": (rollout.final_index[ends] - np.array([0, chosen.start])).astype(np.int32),
            "state": {},
            "row": rollout.row[chosen],
        }
    )


def halved(rank, algorithm, batches):
    """Updates on this learner's half of each batch."""
    for batch in batches:
        gradients, _ = algorithm.gradients(halves(batch)[rank], torch.Generator().manual_seed(rank))
        algorithm.apply(gradients)
    return vectors(algorithm)


def whole(config, batches):
    """What one learner does with the whole of each batch: the mean over it is the mean of its halves' means."""
    algorithm = SAC(config, SPEC)
    for batch in batches:
        first, second = (
            algorithm.gradients(half, torch.Generator().manual_seed(rank))[0] for rank, half in enumerate(halves(batch))
        )
        algorithm.apply({name: (first[name] + second[name]) / 2 for name in first})
    return vectors(algorithm)


# -- in step ---------------------------------------------------------------------------------------------------------


def test_two_in_step_are_one_with_the_double_batch():
    batches = [random_batch(SPEC, 32, seed) for seed in range(6)]
    join = groups()

    def learner(rank):
        algorithm = SAC(CONFIG, SPEC)
        algorithm.optimizer.together = join(rank)
        return halved(rank, algorithm, batches)

    first, second = side_by_side(learner)
    for name, expected in whole(CONFIG, batches).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected)


@pytest.mark.parametrize("surrogate", ["clipped", "policy_gradient"])
def test_two_of_ppo_in_step_normalise_and_step_as_one_with_both_rollouts(surrogate):
    """Moments of observations and rewards, advantages and the early stop are those of all learners' transitions."""
    options = {"epochs": 2, "minibatches": 1, "learning_rate": 0.01, "hidden": (8,), "surrogate": surrogate}
    options |= {"normalize_observations": True, "scale_rewards": True, "batch_size": 64, "target_kl": 10.0}
    spec = EnvSpec("test", Box(-5, 5, (3,)), Box(-1, 1, (2,)))

    def trained(rollout, together=None):
        algorithm = PPO(PPOConfig(**options), spec, seed=1)
        if together is not None:
            algorithm.optimizer.together = together
        for minibatch in algorithm.minibatches(rollout, torch.Generator().manual_seed(0)):
            gradients, _ = algorithm.gradients(minibatch)
            algorithm.apply(gradients)
        return algorithm

    both = rollout_of(PPO(PPOConfig(**options), spec, seed=1), "box", num_rows=8)
    join = groups()
    first, second = side_by_side(lambda rank: trained(rows(both, rank), join(rank)))
    alone = trained(both)
    assert torch.equal(first.parameters.flat, second.parameters.flat)
    torch.testing.assert_close(first.parameters.flat, alone.parameters.flat, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(first._moments.mean, alone._moments.mean, rtol=1e-6)
    np.testing.assert_allclose(first._moments.variance, alone._moments.variance, rtol=1e-6)


def test_who_loses_the_other_learner_is_told():
    join = groups()

    def learner(rank):
        group = join(rank)
        if rank == 1:
            return None
        with pytest.raises(LearnerLost, match="learner 0 has lost one of the other 1"):
            group.sum(torch.zeros(1))
        return True

    assert side_by_side(learner)[0]


# -- through shards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_learner_through_shards_is_the_single_learner_bit_for_bit(count):
    batches = [random_batch(SPEC, 16, seed) for seed in range(20)]
    shards = [ParameterShard(ShardOptions()) for _ in range(count)]
    through, single = sharded(SAC(CONFIG, SPEC), shards, "0"), SAC(CONFIG, SPEC)
    for algorithm in (through, single):
        updates(algorithm, batches)
    for name, expected in vectors(single).items():
        assert torch.equal(vectors(through)[name], expected)
    state, expected = through.state()["optimizer"], single.state()["optimizer"]
    assert state.pop("updates") == expected.pop("updates") == 20 == through.optimizer.version
    for name, kinds in expected.items():
        assert all(torch.equal(torch.as_tensor(state[name][kind]), torch.as_tensor(kinds[kind])) for kind in kinds)


def test_two_learners_without_staleness_are_one_with_the_double_batch():
    batches = [random_batch(SPEC, 32, seed) for seed in range(6)]
    config = CONFIG.model_copy(update={"max_gradient_norm": None})  # which is of each learner's gradient
    shards = [ParameterShard(ShardOptions(bound=0)) for _ in range(2)]
    learners = [sharded(SAC(config, SPEC), shards, str(rank)) for rank in range(2)]
    first, second = side_by_side(lambda rank: halved(rank, learners[rank], batches))
    for name, expected in whole(config, batches).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected)
    assert [shard.version for shard in shards] == [6, 6]


def toy(size=200, **rule):
    return {"critic": Trained(torch.zeros(size), Rule(0.1, **rule))}


def test_each_part_has_about_as_many_bytes_and_begins_where_steps_come_out_the_same():
    found = parts({"actor": 70_000, "critic": 140_000, "log_temperature": 1}, 4)
    assert sum(end - begin for part in found for begin, end in part.values()) == 210_001
    for part in found:
        assert abs(sum(end - begin for begin, end in part.values()) - 210_001 / 4) < 130
        assert all(begin % 64 == 0 for begin, _ in part.values())
    assert parts({"actor": 10}, 2) == [{}, {"actor": (0, 10)}]


def test_a_push_that_is_repeated_is_applied_once():
    """An answer may be lost on its way."""
    shard = ParameterShard(ShardOptions())
    ShardedOptimizer(toy(3), [DirectLink(shard)], "0")
    gradient = {"critic": np.ones(3, np.float32)}
    first = shard.push("0", 1, 1, 0, gradient, 1.0)
    again = shard.push("0", 1, 1, 0, gradient, 1.0)
    assert (first.version, again.version, shard.num_pushes) == (1, 1, 1)
    assert np.array_equal(first.flat["critic"], again.flat["critic"])


@pytest.mark.parametrize("bound", [1, 2])
def test_gradients_are_never_staler_than_the_bound_says(bound):
    """Three learners of very different speeds."""
    shard = ParameterShard(ShardOptions(bound=bound))
    optimizers = [ShardedOptimizer(toy(), [DirectLink(shard)], str(rank)) for rank in range(3)]
    pause = threading.Event()

    def learner(rank):
        found = []
        for _ in range(12):
            pause.wait((0.0, 0.001, 0.01)[rank])
            optimizers[rank].step({"critic": torch.ones(200)})
            found.append(optimizers[rank].staleness)
        optimizers[rank].rest()
        return max(found)

    found = side_by_side(learner, 3)
    assert 0 < max(found) <= gradient_staleness_bound(bound, 3)
    assert shard.version == 36


@pytest.mark.parametrize("bound", [0, 1])
def test_a_shard_that_begins_again_lets_nobody_wait_for_ever(bound):
    """It does not know how often each learner has pushed to the others."""
    options = ShardOptions(bound=bound)
    shards = [ParameterShard(options) for _ in range(2)]
    links = {name: [DirectLink(shard) for shard in shards] for name in "ab"}
    optimizers = [ShardedOptimizer(toy(), links[name], name) for name in "ab"]
    state, pause = shards[0].state(), threading.Event()

    def learner(rank):
        for number in range(30):
            pause.wait((0.0, 0.002)[rank])
            optimizers[rank].step({"critic": torch.ones(200)})
            if (rank, number) == (0, 10):
                successor = ParameterShard(options)
                successor.load_state(state)
                for name in "ab":
                    links[name][0]._shard = successor
                    shards[0].rest(name)  # whoever waits in the dead one
        optimizers[rank].rest()
        return True

    assert side_by_side(learner) == [True, True]


def test_nobody_waits_for_a_learner_that_rests():
    shard = ParameterShard(ShardOptions(bound=0))
    here, there = (ShardedOptimizer(toy(), [DirectLink(shard)], name) for name in "ab")
    there.rest()
    here.step({"critic": torch.ones(200)})  # returns
    assert here.version == 1
    there.refresh()
    assert there.version == 1
    assert torch.equal(here.trained["critic"].flat, there.trained["critic"].flat)


def test_a_stale_gradient_takes_a_smaller_step():
    """lr / (1 + τ), at least a quarter of lr."""
    plain, slowed = ParameterShard(ShardOptions()), ParameterShard(ShardOptions(rate_limit=4.0))
    steps = {}
    for name, shard in (("plain", plain), ("slowed", slowed)):
        ShardedOptimizer(toy(3), [DirectLink(shard)], "0")
        for number in range(1, 8):
            before = shard.join("0").flat["critic"]
            # always of the first version: τ = 0, 1, 2, …
            steps[name, number] = (
                shard.push("0", number, number, 0, {"critic": np.ones(3, np.float32)}, 1.0).flat["critic"] - before
            )
    for number in range(1, 8):
        np.testing.assert_allclose(steps["slowed", number], steps["plain", number] / min(number, 4), rtol=1e-4)


def test_delay_compensation_corrects_along_what_has_changed_since_the_pull():
    shard, reference = ParameterShard(ShardOptions(compensation=0.5)), Optimizer(toy(3))
    ShardedOptimizer(toy(3), [DirectLink(shard)], "late")
    gradient = np.array([1.0, -2.0, 3.0], np.float32)
    pulled = shard.join("late")
    shard.push("other", 1, 1, 0, {"critic": np.ones(3, np.float32)}, 1.0)
    after = shard.push("late", 1, 1, pulled.version, {"critic": gradient}, 1.0)
    reference.step({"critic": torch.ones(3)})
    moved = reference.trained["critic"].flat.numpy() - pulled.flat["critic"]
    reference.step({"critic": torch.from_numpy(gradient + 0.5 * gradient**2 * moved)})
    assert np.array_equal(after.flat["critic"], reference.trained["critic"].flat.numpy())


def test_a_shard_goes_on_from_its_state_and_its_version_never_decreases(tmp_path):
    shard = ParameterShard(ShardOptions(), PublishedVersion(tmp_path / "version"))
    optimizer = ShardedOptimizer(toy(), [DirectLink(shard)], "0")
    for _ in range(3):
        optimizer.step({"critic": torch.ones(200)})
    state = shard.state()
    for _ in range(2):
        optimizer.step({"critic": torch.ones(200)})
    successor = ParameterShard(ShardOptions(), PublishedVersion(tmp_path / "version"))
    successor.load_state(state)
    answer = successor.push("0", 5, 5, 4, {"critic": np.ones(200, np.float32)}, 1.0)
    assert answer.version == 6
    assert successor.push("0", 5, 5, 4, {"critic": np.ones(200, np.float32)}, 1.0).version == 6
