"""Bonuses against slow transcriptions of the papers' formulas, that they fade, and that they find a hidden reward."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec
from distrl.learners.bonus import Bonus
from distrl.learners.bonus_config import BonusConfig
from distrl.learners.dqn_config import Config as DQN
from distrl.learners.dsact_config import Config as DSACT
from distrl.learners.episodic_bonus import EpisodicBonus
from distrl.learners.parameter_shards import ParameterShard, ShardOptions
from distrl.learners.ppo_config import PPO
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.sac_config import Config as SAC
from distrl.learners.sequence_config import Config as Sequence
from distrl.learners.td3_config import Config as TD3
from distrl.learners.together import ALONE
from tests.fakes.problems import DeepSea
from tests.learners import off_policy
from tests.learners.off_policy import BOX, slow_mlp, split
from tests.learners.on_policy import Rollouts, spec_of
from tests.learners.test_many_learners import groups, sharded, side_by_side, updates

torch.set_num_threads(1)

CPU = torch.device("cpu")
RND = BonusConfig(hidden=(7,), num_features=5, learning_rate=1e-2)
DRND = RND.model_copy(update={"kind": "drnd", "num_targets": 4})


def inputs_of(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3.0, 2.0, (size, 3)).astype("f4"))


def followed(config: BonusConfig, updates: int = 30) -> Bonus:
    """A bonus that has been trained a little."""
    bonus = Bonus(config, 3, CPU, seed=1)
    for update in range(updates):
        bonus.trained.step(bonus.gradient(inputs_of(16, update), update_generator(0, update)))
        bonus.follow(ALONE)
    return bonus


def slow_bonus(bonus: Bonus, flat: np.ndarray, x: np.ndarray) -> tuple[float, list[np.ndarray], np.ndarray]:
    """b of one input by the module's formulas, what each fixed network says, and what the trained one says."""
    x = np.clip((x - bonus._inputs.mean) / bonus._inputs.std, -5, 5)
    fixed = [slow_mlp(split(bonus._fixed, bonus._fixed.flat), x, i) for i in range(4 if bonus.config == DRND else 1)]
    learned = slow_mlp(split(bonus._learned, flat), x)
    mean, second = np.mean(fixed, axis=0), np.mean(np.square(fixed), axis=0)
    distance = np.mean((learned - mean) ** 2)
    if bonus.config == RND:
        return distance, fixed, learned
    seldom = np.sqrt(np.clip((learned**2 - mean**2) / (second - mean**2), 0, 1)).mean()
    return 0.9 * distance + 0.1 * seldom, fixed, learned


@pytest.mark.parametrize("config", [RND, DRND], ids=lambda config: config.kind)
def test_rewards_and_gradient_are_the_papers(config):
    bonus, inputs = followed(config), inputs_of(6, 99)
    flat = bonus.trained.flat.numpy().astype("f8")
    slow = np.array([slow_bonus(bonus, flat, x)[0] for x in inputs.numpy().astype("f8")])
    np.testing.assert_allclose(bonus.rewards(inputs), 0.1 * slow / bonus._bonuses.std[0], rtol=1e-3)

    gradient = bonus.gradient(inputs, update_generator(0, 7))
    drawn = torch.randint(4 if config == DRND else 1, (6,), generator=update_generator(0, 7)).tolist()

    def loss(name, vector):
        found = [slow_bonus(bonus, vector, x)[1:] for x in inputs.numpy().astype("f8")]
        return np.mean([(learned - fixed[k]) ** 2 for (fixed, learned), k in zip(found, drawn, strict=True)])

    off_policy.check_slopes({"bonus": gradient}, loss, {"bonus": flat})


@pytest.mark.parametrize("config", [RND, DRND], ids=lambda config: config.kind)
def test_what_is_seen_again_and_again_is_less_and_less_new(config):
    bonus = Bonus(config.model_copy(update={"hidden": (32,), "learning_rate": 1e-3}), 3, CPU, seed=1)
    known, unknown = inputs_of(64), inputs_of(64, 1) * torch.tensor([1.0, -1.0, 1.0])
    bonus.gradient(known, update_generator(0, 0))
    bonus.follow(ALONE)
    at_first = bonus._raw(known).mean()
    for update in range(500):
        bonus.trained.step(bonus.gradient(known, update_generator(0, update)))
        bonus.follow(ALONE)
    now, elsewhere = bonus._raw(known).mean(), bonus._raw(unknown).mean()
    assert now < 0.1 * at_first
    assert elsewhere > (2.0 if config == RND else 1.0) * now


def test_an_episodic_bonus_is_the_papers():
    rng = np.random.default_rng(0)
    features, first = rng.normal(size=(6, 3, 4)), np.zeros((6, 3), bool)
    first[0], first[4, 1] = True, True
    row = np.array([7, 9, 7])  # the third column is row 7's again, later
    first[0, 2] = False
    bonus = EpisodicBonus(4, CPU)
    found = bonus.bonuses(torch.from_numpy(features).float(), first, row)
    inverse = {}
    expected = np.zeros((6, 3))
    for column in range(3):
        for t in range(6):
            if first[t, column]:
                inverse[row[column]] = 0.1 * np.eye(4)
            c, phi = inverse[row[column]], features[t, column]
            expected[t, column] = phi @ np.linalg.inv(c) @ phi
            inverse[row[column]] = c + np.outer(phi, phi)
    np.testing.assert_allclose(found, expected, rtol=1e-3)

    other = EpisodicBonus(4, CPU)
    other.load_state(bonus.state())
    going_on = torch.from_numpy(rng.normal(size=(2, 2, 4))).float(), np.zeros((2, 2), bool), np.array([9, 7])
    assert torch.equal(bonus.bonuses(*going_on), other.bonuses(*going_on))


@pytest.mark.parametrize("model", [SAC, TD3, DSACT, Sequence])
def test_actor_critics_with_a_bonus(model):
    """Its reward is in the target, its network in the optimizer, its moments in the state."""
    config = model(hidden=(8,), bonus=RND)
    algorithm = off_policy.trained(config)
    off_policy.check_gradients_change_nothing(algorithm)
    off_policy.check_round_trip(algorithm)
    assert "bonus" in algorithm.gradients(off_policy.batch_of(BOX, 8), update_generator(0, 0))[0]
    with pytest.raises(ValueError, match="'bonus' of shape"):
        algorithm.load_state(model(hidden=(8,)).build(BOX).state())


ALL = [(SAC, BOX), (TD3, BOX), (DSACT, BOX), (Sequence, BOX), (DQN, replace(BOX, action_space=Discrete(3)))]


@pytest.mark.parametrize(("model", "spec"), ALL)
def test_a_learner_through_shards_is_the_single_one_bit_for_bit(model, spec):
    """Also where a vector waits for its turn, and beside one of a bonus."""
    config, shards = model(hidden=(40, 30), bonus=RND), [ParameterShard(ShardOptions()) for _ in range(2)]
    through, single = sharded(config.build(spec), shards, "0"), config.build(spec)
    for algorithm in (through, single):
        updates(algorithm, [off_policy.batch_of(spec, 16, seed) for seed in range(7)])
    off_policy.assert_same(off_policy.vectors(through), off_policy.vectors(single))


@pytest.mark.parametrize(("model", "spec"), ALL)
def test_two_learners_in_step_have_one_bonus_and_one_model(model, spec):
    join = groups()

    def learner(rank):
        algorithm = model(hidden=(8,), bonus=RND).build(spec)
        algorithm.optimizer.together = join(rank)
        return updates(algorithm, [off_policy.batch_of(spec, 16, 2 * seed + rank) for seed in range(6)]).state()

    first, second = side_by_side(learner)
    for state in (first, second):
        state.pop("transitions", None)  # each has seen its own
    off_policy.assert_same(first, second)


def test_the_target_has_the_bonus_of_where_it_leads():
    batch = off_policy.batch_of(BOX, 32)
    with_it, without = TD3(hidden=(8,), bonus=RND).build(BOX), TD3(hidden=(8,)).build(BOX)
    rewards = with_it._bonus.rewards(torch.from_numpy(batch.next_observation["array"]))
    (_, metrics), (_, plain) = (
        one.gradients(each, update_generator(0, 0))
        for one, each in ((with_it, batch), (without, replace(batch, reward=batch.reward + rewards.numpy())))
    )
    assert float(metrics["target_max"]) == pytest.approx(float(plain["target_max"]), rel=1e-5)


SEA = DQN(hidden=(64,), learning_rate=3e-3, tau=0.1, value_loss="squared", initial_epsilon=0.2, final_epsilon=0.2)


def best_return(config: DQN, episodes: int, seed: int = 0) -> float:
    """Of what has been learned in a sea of 8 rows, with 16 updates behind each episode, from all that has happened."""
    env = DeepSea(8)
    algorithm = config.build(EnvSpec("sea", env.observation_space, env.action_space), seed=seed)
    spec = replace(BOX, action_space=Discrete(2))
    steps: list[tuple] = []

    def episode(policy) -> float:
        (seen, _), over, total = env.reset(), False, 0.0
        while not over:
            action = int(policy.step({"array": seen[None]}, {}, np.zeros(1, bool))[0][0])
            following, reward, over, _, _ = env.step(action)
            steps.append((seen, action, reward, 0.0 if over else 0.99, following))
            seen, total = following, total + reward
        return total

    explorer = algorithm.policy_spec().build(seed=seed)
    for number in range(episodes):
        explorer.load(algorithm.policy_weights())
        episode(explorer)
        for update in range(16 * number, 16 * number + 16):
            drawn = [steps[i] for i in sample_generator(seed, update).integers(len(steps), size=64)]
            seen, action, reward, discount, following = (np.array(part) for part in zip(*drawn, strict=True))
            batch = replace(
                off_policy.batch_of(spec, 64),
                observation={"array": seen},
                action=action,
                reward=reward.astype("f4"),
                discount=discount.astype("f4"),
                next_observation={"array": following},
            )
            algorithm.apply(algorithm.gradients(batch, update_generator(seed, update))[0])
    greedy = algorithm.policy_spec().build(seed=0, deterministic=True)
    greedy.load(algorithm.policy_weights())
    return episode(greedy)


def test_it_finds_the_treasure_that_chance_does_not():
    """One action in five is random; chance finds it once in 256 episodes. Without a bonus: tests/learning."""
    bonus = BonusConfig(hidden=(64,), learning_rate=1e-3, weight=1.0)
    assert best_return(SEA.model_copy(update={"bonus": bonus}), 150) == pytest.approx(0.99)


@pytest.mark.parametrize("scope", ["global", "episodic", "both"])
def test_on_policy_rewards_move_by_the_bonus(scope):
    """Its network learns with each minibatch, and its state goes on bit for bit."""
    options = {"batch_size": 64, "minibatches": 2, "epochs": 1, "hidden": (8,)}
    config = PPO(**options, bonus=RND.model_copy(update={"scope": scope}))
    rollouts = Rollouts(DeepSea, num_rows=4)
    algorithm = config.build(spec_of(rollouts.env), seed=0)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    collected = [rollouts.collect(policy, 16) for _ in range(3)]

    def train(one, index):
        for minibatch in one.minibatches(collected[index], update_generator(0, index)):
            gradients, _ = one.gradients(minibatch, update_generator(1, index))
            assert set(gradients) == {"parameters", "bonus"}
            one.apply(gradients)

    train(algorithm, 0)
    other = config.build(spec_of(rollouts.env), seed=9)
    other.load_state(pickle.loads(pickle.dumps(algorithm.state())))
    for index in (1, 2):
        train(algorithm, index)
        train(other, index)
    off_policy.assert_same(algorithm.state(), other.state())
    with pytest.raises(ValueError, match="none of 'bonus'"):
        algorithm.load_state(PPO(**options).build(spec_of(rollouts.env)).state())


def test_what_it_cannot_have_is_refused():
    with pytest.raises(ValidationError, match="needs whole episodes"):
        TD3(bonus={"scope": "episodic"})
    image = EnvSpec("test", Box(0, 255, (36, 36, 1), np.uint8), Discrete(2))
    for config in (DQN(bonus=RND), PPO(bonus=RND, batch_size=64)):
        with pytest.raises(ConfigError, match="without images"):
            config.build(image)
    with pytest.raises(ValidationError, match="no bonus"):
        PPO(switching_cost=0.1, central_critic=True, bonus=RND)
    assert all(field.description for field in BonusConfig.model_fields.values())
