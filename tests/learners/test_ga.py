"""The genetic algorithm: what seeds stand for, who acts, who becomes a parent, and that it finds its way."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from pydantic import ValidationError

from distrl.api import load_policy, train
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.run_directory import RunDirectory
from distrl.core.types import ARRAY, OBSERVATION, STATE, EnvSpec, Fragment
from distrl.learners.episode_queue import EpisodeQueue
from distrl.learners.ga import GA, novelties, ranks
from distrl.learners.ga_config import Config
from distrl.learners.lineage_policy import INDIVIDUAL, SEEDS, LineagePolicy
from distrl.learners.lineages import ROOT, Lineages, child_id, lineage_ids, noise
from distrl.learners.queue import Queue
from distrl.reproduce import reproduce
from tests.cluster.test_local import balanced
from tests.fakes.problems import Cup

BOX = EnvSpec("box", Box(-1, 1, (3,)), Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 10.0], "f4")))
CUP = EnvSpec("cup", Cup().observation_space, Cup().action_space)


def policy_of(algorithm, seed=1, deterministic=False):
    policy = algorithm.policy_spec().build(seed=seed, deterministic=deterministic)
    policy.load(algorithm.policy_weights())
    return policy


def episodes(rewards, individuals, uids, ended=True, first_step=0, final=None):
    """Stretches of episodes side by side as a fragment: rewards [T, B], individuals [B, 2], uids [B]."""
    rewards = np.asarray(rewards, np.float32)
    shape = rewards.shape
    ends = np.zeros(shape, bool)
    ends[-1] = ended
    observation = np.zeros((shape[0] + 1, shape[1], 3), np.float32)
    if final is not None:
        observation[-1] = final
    return Fragment(
        {
            "reward": rewards,
            "terminated": ends,
            "truncated": np.zeros(shape, bool),
            "step": np.broadcast_to(first_step + np.arange(shape[0], dtype=np.int32)[:, None], shape),
            "episode_uid": np.broadcast_to(np.asarray(uids, np.uint64), shape),
            "env_index": np.arange(shape[1], dtype=np.int32),
            "agent_index": np.zeros(shape[1], np.int32),
            "final_index": np.zeros((0, 2), np.int32),
            OBSERVATION + ARRAY: observation,
            f"final_observation/{ARRAY}": np.zeros((0, 3), np.float32),
            STATE + INDIVIDUAL: np.broadcast_to(np.asarray(individuals, np.int64), (*shape, 2)),
        }
    )


def generation(algorithm, *fragments):
    """One update; its metrics."""
    found, metrics = algorithm.gradients(fragments)
    algorithm.apply(found)
    return metrics


def seeds(algorithm):
    """The parents' lists of seeds, the elite's first."""
    return [[seed for seed in row if seed] for row in algorithm.policy_weights()[SEEDS].tolist()]


# -- what seeds stand for ----------------------------------------------------------------------------------------------


def test_an_individual_is_the_sum_of_its_seeds_noise():
    lineages = Lineages([3, 4, 2], sigma=0.5)
    scale = np.repeat(np.float32([3**-0.5, 0, 0.5, 0]), [12, 4, 8, 2])  # weights and biases of both layers
    found = lineages.decoded([7, 8, 9], {})
    assert lineages.num_parameters == 26
    np.testing.assert_allclose(found, scale * noise(7, 26) + 0.5 * (noise(8, 26) + noise(9, 26)), rtol=1e-6)
    assert not lineages.decoded([], {}).any()


def test_from_a_known_ancestor_the_same_individual_comes_bit_for_bit():
    lineages = Lineages([3, 4, 2], sigma=0.1)
    ids = lineage_ids([7, 8, 9, 10])
    known = {ids[2]: lineages.decoded([7, 8], {})}
    assert np.array_equal(lineages.decoded([7, 8, 9, 10], known), lineages.decoded([7, 8, 9, 10], {}))
    assert ids[0] == ROOT
    assert ids[4] == child_id(ids[3], 10)


def test_a_lineage_is_the_same_in_another_process():
    code = "from distrl.learners.lineages import *; import json; "
    code += "print(json.dumps([Lineages([3, 4, 2], 0.1).decoded([7, 2**63 - 2], {}).tolist(), lineage_ids([7, 8])]))"
    there = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert there == [Lineages([3, 4, 2], 0.1).decoded([7, 2**63 - 2], {}).tolist(), lineage_ids([7, 8])]


def test_rows_go_through_networks_of_their_own():
    lineages = Lineages([3, 5, 2], sigma=0.1)
    inputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    each = np.stack([lineages.decoded([seed], {}) for seed in (1, 2, 3, 4)])
    beside = lineages.outputs(each, inputs)
    for n in range(4):
        first, b1, second, b2 = np.split(each[n], [15, 20, 30])
        alone = np.tanh(inputs[n] @ first.reshape(3, 5) + b1) @ second.reshape(5, 2) + b2
        np.testing.assert_allclose(beside[n], alone, rtol=1e-4, atol=1e-6)


# -- who acts ----------------------------------------------------------------------------------------------------------


def test_an_episode_has_one_individual_from_its_first_step_on_whatever_is_published_meanwhile():
    algorithm = GA(Config(parents=2), BOX)
    policy = policy_of(algorithm)
    observation = {ARRAY: np.ones((3, 3), np.float32)}
    state, first = policy.initial_state(3), np.ones(3, bool)
    action, log_prob, following = policy.step(observation, state, first)
    assert np.array_equal(state[INDIVIDUAL], following[INDIVIDUAL])  # the first step's fragment says it, too
    assert len(set(following[INDIVIDUAL][:, 1].tolist())) == 3
    assert not log_prob.any()
    for seed in (5, 6, 7):
        policy.load({SEEDS: np.array([[seed, seed]])})
    again, _, last = policy.step(observation, following, ~first)
    assert np.array_equal(action, again)
    assert np.array_equal(following[INDIVIDUAL], last[INDIVIDUAL])
    fresh, _, _ = policy.step(observation, policy.initial_state(3), first)
    assert not np.array_equal(action, fresh)


def test_a_child_acts_as_its_seeds_say_and_actions_are_in_the_box():
    policy = LineagePolicy(0, False, {ARRAY: None}, [3, 2], 0.1, 0.0, {"low": [-2, 0], "high": [2, 10], "dtype": "<f4"})
    policy.load({SEEDS: np.array([[4, 5]])})
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    action, _, state = policy.step({ARRAY: x}, policy.initial_state(2), np.ones(2, bool))
    lineages = Lineages([3, 2], 0.1)
    for n, (parent, seed) in enumerate(state[INDIVIDUAL].tolist()):
        assert parent == lineage_ids([4, 5])[-1]
        outputs = lineages.outputs(lineages.decoded([4, 5, seed], {})[None], x[[n]])[0]
        np.testing.assert_allclose(action[n], np.array([0, 5]) + np.array([2, 5]) * np.tanh(outputs), rtol=1e-5)
    assert BOX.action_space.contains(policy.step({ARRAY: 1e6 * x}, state, np.zeros(2, bool))[0][0])


def test_parents_act_themselves_in_some_episodes_and_the_elite_in_evaluations():
    algorithm = GA(Config(reevaluated=0.5, parents=2, population=2), BOX)
    generation(algorithm, episodes([[1.0, 2.0]], [(ROOT, 5), (ROOT, 6)], [1, 2]))
    policy, observation = policy_of(algorithm), {ARRAY: np.ones((400, 3), np.float32)}
    _, _, state = policy.step(observation, policy.initial_state(400), np.ones(400, bool))
    themselves = [birth in [[ROOT, 5], [ROOT, 6]] for birth in state[INDIVIDUAL].tolist()]
    assert 150 < sum(themselves) < 250
    elite = policy_of(algorithm, deterministic=True)
    action, _, state = elite.step(observation, elite.initial_state(400), np.ones(400, bool))
    lineages = Lineages(algorithm.policy_spec().kwargs["sizes"], algorithm.config.sigma)
    outputs = lineages.outputs(lineages.decoded([6], {})[None], observation[ARRAY][:1])
    np.testing.assert_allclose(action[0], np.array([0, 5]) + np.array([2, 5]) * np.tanh(outputs[0]), rtol=1e-5)
    assert not state[INDIVIDUAL].any()


def test_who_is_not_known_any_more_is_replaced_and_not_counted():
    algorithm = GA(Config(), BOX)
    policy = policy_of(algorithm)
    state = {INDIVIDUAL: np.array([[12345, 6], [0, 0]])}  # of a parent never heard of; of a life before
    _, _, state = policy.step({ARRAY: np.ones((2, 3), np.float32)}, state, np.zeros(2, bool))
    assert not state[INDIVIDUAL].any()
    found = episodes([[1.0, 1.0], [1.0, 1.0]], [(12345, 6), (0, 0)], [1, 2])
    assert generation(algorithm, found)["episodes_not_counted"] == 2
    assert seeds(algorithm) == [[]]


# -- who becomes a parent ----------------------------------------------------------------------------------------------


def test_selection_keeps_the_best_of_the_children_and_of_the_parents():
    algorithm = GA(Config(parents=2, doubt=0.0), BOX)
    metrics = generation(
        algorithm, episodes([[1.0, 4.0, 3.0, 2.0]] * 2, [(ROOT, seed) for seed in (5, 6, 7, 8)], range(4))
    )
    assert metrics["return_mean"] == 5.0
    assert metrics["return_max"] == metrics["elite_return"] == 8.0
    assert seeds(algorithm) == [[6], [7]]
    parent = child_id(ROOT, 7)
    generation(algorithm, episodes([[7.0, 9.0]], [(parent, 11), (parent, 12)], [5, 6]))
    assert seeds(algorithm) == [[7, 12], [6]]  # the parent of 8 is better than the child of 7
    generation(algorithm, episodes([[10.0]], [(child_id(ROOT, 7), 13)], [7]))  # a child of one that is none any more
    assert seeds(algorithm) == [[7, 13], [7, 12]]


def test_a_lucky_child_is_not_the_elite_before_it_has_been_measured_again():
    algorithm = GA(Config(population=2, parents=2, doubt=1.0), BOX)
    metrics = generation(
        algorithm, episodes([[6.0, 6.0, 9.0, 3.0]], [(ROOT, 5), (ROOT, 5), (ROOT, 6), (ROOT, 7)], range(4))
    )
    assert metrics["elite_return"] == 9.0  # believed to be (9 + 6) / 2
    generation(algorithm, episodes([[6.0, 1.0]], [(ROOT, 5), (ROOT, 7)], [5, 6]))
    assert seeds(algorithm) == [[6], [5]]  # (9 + 3.5) / 2 and (3 · 6 + 3.5) / 4
    metrics = generation(algorithm, episodes([[2.0, 6.0]], [(ROOT, 6), (ROOT, 8)], [7, 8]))
    assert seeds(algorithm)[0] == [5]  # (9 + 2 + 4) / 3 and (3 · 6 + 4) / 4
    assert metrics["elite_return"] == 6.0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_an_episode_is_added_up_over_fragments_in_any_order(order):
    """Env workers cut long episodes; what a dead one's spool held comes late."""
    algorithm = GA(Config(novelty_weight=0.5), BOX)
    parts = [
        episodes([[1.0], [2.0]], [(ROOT, 5)], [7], ended=False),
        episodes([[3.0]], [(ROOT, 5)], [7], ended=False, first_step=2),
        episodes([[4.0]], [(ROOT, 5)], [7], first_step=3, final=[1, 2, 3]),
    ]
    for part in [parts[n] for n in order[:2]]:
        assert generation(algorithm, part)["episodes"] == 0
    assert generation(algorithm, parts[order[2]])["return_mean"] == 10.0
    np.testing.assert_array_equal(algorithm.generation.archive, [[1, 2, 3]])
    assert not algorithm.generation.running


def test_an_episode_of_several_individuals_does_not_count_and_an_abandoned_one_is_forgotten():
    algorithm = GA(Config(), BOX)
    generation(algorithm, episodes([[1.0]], [(ROOT, 5)], [1], ended=False))
    metrics = generation(algorithm, episodes([[1.0]], [(0, 0)], [1], first_step=1))
    assert (metrics["episodes"], metrics["episodes_not_counted"]) == (0, 1)
    generation(algorithm, episodes([[1.0]], [(ROOT, 6)], [2], ended=False))
    assert len(algorithm.generation.running) == 1
    generation(algorithm, episodes([[1.0]], [(ROOT, 7)], [3]))  # in the same environment
    assert not algorithm.generation.running


def test_an_inference_server_says_who_acts_from_the_second_step_on():
    algorithm = GA(Config(), BOX)
    fragment = episodes([[1.0], [2.0]], [(ROOT, 5)], [1])
    told = fragment.columns[STATE + INDIVIDUAL].copy()
    told[0] = 0
    fragment.columns[STATE + INDIVIDUAL] = told
    assert generation(algorithm, fragment)["return_mean"] == 3.0


def test_ranks_and_novelty_are_what_they_say():
    np.testing.assert_allclose(ranks(np.array([3.0, 1.0, 3.0, 7.0])), [1 / 3, 0, 1 / 3, 1])
    archive = np.array([[0.0], [1.0], [3.0], [10.0]])
    slow = [np.sort(np.abs(archive[:, 0] - x))[1:3].mean() / archive.std() for x in archive[:, 0]]
    np.testing.assert_allclose(novelties(archive, archive, 2), slow)
    assert np.isfinite(novelties(np.zeros((2, 1)), np.zeros((1, 1)), 10)).all()


def test_a_queue_hands_out_a_generation_of_whole_fragments_and_goes_on_where_it_was():
    parts = [episodes([[1.0, 2.0]], [(ROOT, 5)] * 2, [n, n + 1], ended=n != 2) for n in (0, 2, 4, 6)]
    queue = EpisodeQueue(batch_size=3)
    for part in parts[:2]:
        queue.add(part)
    assert not queue.allows_update()
    assert "2 of the 3 episodes" in queue.waits_for()
    queue.add(parts[2])
    queue.add(parts[3])
    assert queue.sample(3, np.random.default_rng(0)) == parts[:3]
    assert (queue.num_sampled, queue.num_unsampled) == (6, 2)
    again = EpisodeQueue(batch_size=2)
    for part in parts:
        again.add(part)
    again.restore_sampled(queue.sampled_state())
    assert again.sample(2, np.random.default_rng(0)) == parts[3:]
    assert isinstance(queue, Queue)


# -- that it finds its way ---------------------------------------------------------------------------------------------


def play(policy, envs, uid):
    """An episode in each of ``envs`` at once, as a fragment."""
    x = np.stack([env.reset()[0] for env in envs])
    state, first = policy.initial_state(len(envs)), np.ones(len(envs), bool)
    rewards, seen, states = [], [x], []
    over = False
    while not over:
        action, _, following = policy.step({ARRAY: x}, state, first)
        states.append(state[INDIVIDUAL].copy())
        outcomes = [env.step(its) for env, its in zip(envs, action, strict=True)]
        x = np.stack([outcome[0] for outcome in outcomes])
        rewards.append([outcome[1] for outcome in outcomes])
        seen.append(x)
        over, state, first = outcomes[0][2], following, np.zeros(len(envs), bool)
    fragment = episodes(rewards, states[-1], uid + np.arange(len(envs)))
    fragment.columns |= {OBSERVATION + ARRAY: np.stack(seen), STATE + INDIVIDUAL: np.stack(states)}
    return fragment


def best_way_out(novelty_weight, seed, generations=60):
    config = Config(
        hidden=(8,),
        population=40,
        parents=8,
        sigma=0.3,
        doubt=0.0,
        novelty_weight=novelty_weight,
        reevaluated=0,
    )
    algorithm = GA(config, CUP)
    policy, envs = policy_of(algorithm, seed), [Cup() for _ in range(40)]
    for number in range(generations):
        metrics = generation(algorithm, play(policy, envs, 40 * number))
        policy.load(algorithm.policy_weights())
    return metrics["elite_return"]


def test_novelty_finds_the_way_round_that_the_return_alone_does_not():
    assert best_way_out(0.0, seed=0) < -0.55  # under the cup
    assert best_way_out(0.8, seed=0) > -0.3


def genetic(out, population=32, **sections):
    found = {
        "run": {"out": str(out), "steps": 12_000},
        "env": {"id": "CartPole-v1"},
        "actors": {"envs_per_worker": 8, "env_workers": 2, "fragment_steps": 16},
        "algorithm": {"name": "ga", "population": population, "hidden": [16], "sigma": 0.3},
        "evaluation": {"period": 6000, "episodes": 5, "final_episodes": 5},
        "checkpoint": {"period": 5},
    }
    return RunConfig.validated({name: found.get(name, {}) | sections.get(name, {}) for name in {**found, **sections}})


def test_a_run_accounts_for_every_transition_and_improves(tmp_path):
    result = train(genetic(tmp_path / "run"), local=True)
    assert balanced(result.summary)
    assert result.summary["transitions_evicted"] == 0
    assert result.summary["final_return_mean"] > 80  # at random 22
    policy, env = load_policy(tmp_path / "run"), gymnasium.make("CartPole-v1")
    assert env.action_space.contains(policy.act(env.reset(seed=0)[0]))


def test_a_run_that_is_continued_goes_on_bit_for_bit(tmp_path):
    out, inline = tmp_path / "run", {"hosting": "inline"}
    for steps, resume in ((1500, None), (3000, out)):
        logged = {"steps": steps, "experience_log": "on"}
        whole = train(genetic(out, population=8, run=logged, env=inline), local=True, resume=resume)
    assert balanced(whole.summary)
    found = reproduce(RunDirectory.open(tmp_path / "run"))  # from the log alone, also across the two sessions
    assert found.difference is None
    assert found.updates == whole.summary["updates"] > 6


def test_a_state_goes_on_bit_for_bit_and_fits_no_other_network():
    config = Config(hidden=(8,), population=40, novelty_weight=0.5, sigma=0.3)
    algorithm, again, envs = GA(config, CUP), GA(config, CUP), [Cup() for _ in range(40)]
    fragments = [play(policy_of(algorithm, seed=n), envs, 40 * n) for n in range(2)]
    generation(algorithm, fragments[0])
    again.load_state(algorithm.state())
    for one in (algorithm, again):
        generation(one, fragments[1])
    assert np.array_equal(algorithm.policy_weights()[SEEDS], again.policy_weights()[SEEDS])
    assert str(algorithm.state()) == str(again.state())
    with pytest.raises(ValueError, match=r"keep algorithm.hidden and algorithm.sigma"):
        GA(Config(hidden=(8,), sigma=0.1), CUP).load_state(algorithm.state())


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "action", "sentence"),
    [
        (
            Box(0, 255, (8, 8, 3), np.uint8),
            Discrete(2),
            "ga takes observations that are numbers, but array is an image",
        ),
        (Box(-1, 1, (3,)), Box(-np.inf, np.inf, (2,)), "ga needs action bounds that are finite"),
        (Box(-1, 1, (3,)), Box(0, 5, (2,), np.int64), "Box of floats"),
    ],
)
def test_what_networks_of_seeds_cannot_take_is_refused(observation, action, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Config().policy_spec(EnvSpec("test", observation, action))


def test_parents_are_some_of_the_population():
    with pytest.raises(ValidationError, match="must not exceed"):
        Config(population=4, parents=5)


def test_masked_actions_are_never_taken():
    spec = EnvSpec("masked", Dict({"action_mask": MultiBinary(4), "seen": Box(-1, 1, (3,))}), Discrete(4, start=2))
    policy = policy_of(GA(Config(), spec))
    mask = np.eye(4, dtype=np.int8)[[0, 1, 2, 3] * 5]
    observation = {"action_mask": mask, "seen": np.ones((20, 3), np.float32)}
    action, _, _ = policy.step(observation, policy.initial_state(20), np.ones(20, bool))
    assert np.array_equal(action, 2 + mask.argmax(axis=1))


def test_weights_of_transitions_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no transition has a weight, but learner.duration_weight_limit = 2.0 came"):
        train(genetic(tmp_path / "run", learner={"duration_weight_limit": 2.0}), local=True)


def test_a_replay_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(
        ConfigError, match=r"ga is on-policy and has no replay, but replay.min_size = 5 came: leave it out$"
    ):
        train(genetic(tmp_path / "run", replay={"min_size": 5}), local=True)
