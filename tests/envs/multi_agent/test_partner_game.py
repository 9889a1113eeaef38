"""A population that plays in pairs: who meets whom, what is paid, what is known, mechanism by mechanism."""

import itertools
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import MASK
from distrl.envs.multi_agent.partner_game import NOBODY, PartnerGame

COOPERATE, DEFECT = 0, 1


def all_do(env: PartnerGame, action: int) -> dict[str, int]:
    return dict.fromkeys(env.agents, action)


def play(env: PartnerGame, moves: list[int]) -> tuple[Any, ...]:
    """One step of the players' actions, in their order."""
    return env.step({f"player_{player}": move for player, move in enumerate(moves)})


def seen(env: PartnerGame, observations: Any, player: int) -> dict[str, float]:
    return dict(zip(env.observation_names, observations[f"player_{player}"]["observation"].tolist(), strict=True))


def begin(**options: Any) -> PartnerGame:
    env = PartnerGame(**{"num_players": 4, "partner_selection": False, "rounds": 2, "turns": 3} | options)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("switches", itertools.product((False, True), repeat=4))
@pytest.mark.filterwarnings("ignore:Agent was given info but was dead")  # the entry that all share
def test_pettingzoos_tests_are_content_with_every_mechanism(switches: tuple[bool, ...]) -> None:
    names = ("partner_selection", "reputation", "direct_punishment", "third_party_punishment")

    def make() -> PartnerGame:
        return PartnerGame(num_players=5, turns=2, rounds=2, **dict(zip(names, switches, strict=True)))

    parallel_api_test(make(), num_cycles=30)
    parallel_seed_test(make, num_cycles=30)


def test_a_turn_is_selection_then_rounds_of_play_and_punishment() -> None:
    env = begin(partner_selection=True, direct_punishment=True, third_party_punishment=True)
    phases, truncated = [], {}
    while env.agents:
        phases.append(env.phase)
        *_, truncated, infos = env.step(all_do(env, 0))
    assert phases == 3 * ["select", *2 * ["play", "direct", "third_party"]]
    assert all(truncated.values())
    assert infos["common"] == {
        "cooperation": 1.0, "episode_cooperation": 1.0, "episode_just": 0.0, "episode_unjust": 0.0,
    }  # fmt: skip
    with pytest.raises(EnvironmentFault, match=r"needs reset\(\) before step\(\)"):
        env.step({})


def test_payoffs_are_the_matrix_of_both_moves() -> None:
    env = begin()
    moves = [DEFECT] * 4
    moves[0] = COOPERATE
    _, rewards, *_ = play(env, moves)
    deceived, exploits = 0, int(env.partner[0])
    for player in range(4):
        assert rewards[f"player_{player}"] == {deceived: 0.0, exploits: 4.0}.get(player, 1.0)
    stag_hunt = begin(payoffs=[[4, 0, 0], [3, 2, 1], [0, 0, 5]])
    _, rewards, *_ = play(stag_hunt, [2, 2, 2, 2])
    assert set(rewards.values()) == {5.0}


def test_the_selected_partner_is_met_for_the_turn() -> None:
    env = begin(partner_selection=True, num_players=6)
    for turn in range(3):
        assert env.phase == "select"
        wanted = [1, 0, 3, 2, 5, 4]
        observations, rewards, *_ = play(env, [(wanted[p] - p) % 6 - 1 for p in range(6)])
        assert env.partner.tolist() == wanted
        assert set(rewards.values()) == {0.0}
        for _ in range(2):
            observations, *_ = play(env, [COOPERATE, *[DEFECT] * 5])
        if turn < 2:
            known = seen(env, observations, 3)  # its candidates are 4, 5, 0, 1, 2
            assert [known[f"candidate_{c}_move_0"] for c in range(5)] == [0, 0, 1, 0, 0]
            assert [known[f"candidate_{c}_reputation"] for c in range(5)] == [-1, -1, 1, -1, -1]


def test_who_is_not_free_is_met_by_one_and_the_others_are_paired() -> None:
    """Everybody names player 0: in every pairing of an even number of players each has one partner."""
    partners = set()
    for seed in range(20):
        env = PartnerGame(num_players=6)
        env.reset(seed=seed)
        play(env, [0] + [(0 - p) % 6 - 1 for p in range(1, 6)])
        assert (env.partner[env.partner] == np.arange(6)).all()
        assert (env.partner != np.arange(6)).all()
        partners.add(int(env.partner[0]))
    assert partners == {1, 2, 3, 4, 5}, "who gets the one that all want is drawn"


def test_of_an_odd_number_one_sits_out_with_nothing_to_decide() -> None:
    env = PartnerGame(num_players=5, direct_punishment=True, partner_selection=False)
    observations, _ = env.reset(seed=0)
    (out,) = np.flatnonzero(env.partner == NOBODY)
    assert observations[f"player_{out}"][MASK].tolist() == [1, 0]
    assert all(observations[f"player_{p}"][MASK].tolist() == [1, 1] for p in range(5) if p != out)
    _, rewards, *_ = env.step(all_do(env, DEFECT))
    assert rewards.pop(f"player_{out}") == 0.0
    assert set(rewards.values()) == {1.0}
    assert env.moves[out] == -1
    assert env.reputations[out] == 0


def test_direct_punishment_and_what_it_does_to_a_reputation() -> None:
    """−3 for the punished; 2 for who punishes a defection, −10 for who punishes cooperation (Dasgupta & Musolesi)."""
    env = begin(direct_punishment=True)
    one, other = 0, int(env.partner[0])
    moves = [DEFECT] * 4
    moves[one] = COOPERATE
    observations, *_ = play(env, moves)
    judged = seen(env, observations, one)
    assert (judged["judged_move_1"], judged["against_move_0"]) == (1, 1)
    punishes = [0] * 4
    punishes[one] = punishes[other] = 1
    _, rewards, *_ = play(env, punishes)
    assert (rewards[f"player_{one}"], rewards[f"player_{other}"]) == (2.0 - 3.0, -10.0 - 3.0)
    assert (env.reputations[one], env.reputations[other]) == (1 + 2, -1 - 3)
    bystander = next(p for p in range(4) if p not in (one, other))
    assert (rewards[f"player_{bystander}"], env.reputations[bystander]) == (0.0, -1)
    costly = begin(direct_punishment=True, just=-1.0, penalty=4.0)
    play(costly, [DEFECT] * 4)
    _, rewards, *_ = play(costly, [1] * 4)
    assert set(rewards.values()) == {-5.0}


def test_third_parties_judge_players_of_other_pairs_one_each() -> None:
    env = begin(num_players=8, third_party_punishment=True)
    judged_by_0 = set()
    for _ in range(6):
        moves = [p % 2 for p in range(8)]
        observations, *_ = play(env, moves)
        victims = env._judged
        assert sorted(victims.tolist()) == list(range(8))
        assert not (victims == np.arange(8)).any() | (victims == env.partner).any()
        for player in range(8):
            assert seen(env, observations, player)["judged_move_1"] == moves[victims[player]]
        _, rewards, *_ = play(env, [1] * 8)
        for player in range(8):
            assert rewards[f"player_{player}"] == (2.0 if moves[victims[player]] else -10.0) - 3.0
        judged_by_0.add(int(victims[0]))
    assert len(judged_by_0) > 1, "drawn anew each round"


def test_without_reputation_only_last_moves_are_known() -> None:
    env = begin(reputation=False, partner_selection=True)
    assert not [name for name in env.observation_names if "reputation" in name]
    assert env.state().shape == (4 + 4 * 2,)


def test_the_state_is_what_everybody_did_and_is_known_for() -> None:
    env = begin()
    assert not env.state()[4:].any(), "nothing is known yet"
    play(env, [COOPERATE, DEFECT, DEFECT, DEFECT])
    np.testing.assert_array_equal(env.state(), [0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, -1, -1, -1])
    assert env.state_space.contains(env.state())


def test_actions_beyond_the_choices_are_their_remainders() -> None:
    env = begin(partner_selection=True, num_players=6)
    observations, _ = env.reset(seed=0)
    assert observations["player_0"][MASK].tolist() == [1, 1, 1, 1, 1]
    observations, *_ = env.step(all_do(env, 0))
    assert observations["player_0"][MASK].tolist() == [1, 1, 0, 0, 0]
    env.step(all_do(env, 3))
    assert env.moves.tolist() == [DEFECT] * 6


def test_cooperation_pays_where_partners_are_selected_by_reputation() -> None:
    """Half of the players always cooperate; selecting the best reputation makes theirs the better return."""

    def advantage(partner_selection: bool) -> float:
        env = PartnerGame(num_players=12, partner_selection=partner_selection, turns=20, rounds=2)
        observations, _ = env.reset(seed=0)
        by_reputation = [
            env.observation_names.index(f"candidate_{c}_reputation") for c in range(11) if partner_selection
        ]
        returns = np.zeros(12)
        while env.agents:
            actions = [int(player >= 6) for player in range(12)]
            if env.phase == "select":
                best = [observations[f"player_{player}"]["observation"][by_reputation] for player in range(12)]
                actions = [int(reputations.argmax()) for reputations in best]
            observations, rewards, *_ = play(env, actions)
            returns += list(rewards.values())
        return float(returns[:6].mean() - returns[6:].mean())

    assert advantage(partner_selection=False) < 0 < advantage(partner_selection=True)


def test_many_players_with_a_few_candidates_each() -> None:
    env = PartnerGame(num_players=256, candidates=8, direct_punishment=True, turns=2, rounds=3, render_mode="rgb_array")
    observations, _ = env.reset(seed=0)
    assert env.action_space("player_0").n == 8
    choices = {agent: env.action_space(agent).sample(observations[agent][MASK]) for agent in env.agents}
    wanted = [env._candidates[p, choices[f"player_{p}"]] for p in range(256)]
    assert all(len(set(row)) == 8 and p not in row for p, row in enumerate(env._candidates.tolist()))
    env.step(choices)
    assert np.mean(env.partner == wanted) > 0.3
    while env.agents:
        observations, *_ = env.step({a: env.action_space(a).sample(observations[a][MASK]) for a in env.agents})
    image = env.render()
    assert image is not None
    assert image.shape[0] % 2 == image.shape[1] % 2 == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_players": 3, "third_party_punishment": True}, "num_players to be a whole number >= 4, got 3"),
        ({"candidates": 5}, "candidates to be at most the other 4 players, got 5"),
        ({"payoffs": [[1, 2], [3]]}, "payoffs to be a square matrix of finite numbers, at least 2 by 2"),
        ({"payoffs": [[1, 2, 3], [4, 5, 6]]}, "payoffs to be a square matrix"),
        ({"reputation": 1}, "reputation to be true or false"),
        ({"rounds": 0}, "rounds to be a whole number >= 1"),
        ({"render_mode": "human"}, "render_mode to be one of rgb_array"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"PartnerGame needs {sentence}"):
        PartnerGame(**options)


def test_bad_actions_are_refused_naming_the_player() -> None:
    env = begin()
    for actions, sentence in (
        ({"player_0": 0, "player_1": 0, "player_2": 0}, "'player_3' a whole number from 0 to 1, got None"),
        (all_do(env, 0) | {"player_2": 2}, "'player_2' a whole number from 0 to 1, got 2"),
        (all_do(env, 0) | {"player_9": 0}, "got an action of 'player_9': its agents are player_0 … player_3"),
    ):
        with pytest.raises(EnvironmentFault, match=sentence):
            env.step(actions)
