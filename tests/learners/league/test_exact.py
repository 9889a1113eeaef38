"""Exact numbers of tic-tac-toe, against PettingZoo's game and a search of its board without any of this code."""

from functools import cache

import numpy as np
import pytest
from pettingzoo.classic import tictactoe_v3
from pettingzoo.classic.tictactoe.board import TTT_GAME_NOT_OVER, TTT_TIE, Board

from distrl.core.errors import ConfigError
from distrl.learners.league.exact import acting, best_response, nash_conv, outcome, perfect, uniform


@cache
def slow_best_response(seat, squares=(0,) * 9, mover=0):
    """Payoff of the best player in ``seat`` against any legal move of the other with equal probability, by trying all
    games on PettingZoo's board."""
    values = []
    for move in [index for index, mark in enumerate(squares) if mark == 0]:
        board = Board()
        board.squares = list(squares)
        board.play_turn(mover, move)
        status = board.game_status()
        if status == TTT_GAME_NOT_OVER:
            values.append(slow_best_response(seat, tuple(board.squares), 1 - mover))
        else:
            values.append(0.0 if status == TTT_TIE else 1.0 if status == seat else -1.0)
    return max(values) if mover == seat else sum(values) / len(values)


def play(first, second, rng):
    """One game in PettingZoo's environment; the first player's reward."""
    env = tictactoe_v3.raw_env()
    env.reset()
    while not any(env.terminations.values()):
        seen = env.observe(env.agent_selection)
        policy = first if env.agent_selection == "player_1" else second
        chances = policy(seen["observation"][None], seen["action_mask"][None])[0]
        env.step(rng.choice(9, p=chances))
    return env.rewards["player_1"]


def test_perfect_play_cannot_be_exploited():
    assert nash_conv(perfect) == 0
    assert outcome(perfect, perfect) == (0, 1, 0), "every game is a draw"


@pytest.mark.parametrize("seat", [0, 1])
def test_uniform_play_is_exploited_as_much_as_a_search_of_pettingzoos_board_finds(seat):
    assert best_response(uniform, seat) == pytest.approx(slow_best_response(seat), abs=1e-12)


def test_nash_conv_adds_both_seats():
    assert nash_conv(uniform) == pytest.approx(slow_best_response(0) + slow_best_response(1))
    assert nash_conv(uniform) == pytest.approx(1.91966, abs=1e-5)
    assert nash_conv(perfect, uniform) == pytest.approx(slow_best_response(0))


def test_outcomes_are_those_of_games_in_the_environment():
    rng = np.random.default_rng(0)
    expected = outcome(uniform, perfect)
    assert expected.win == 0
    scores = [play(uniform, perfect, rng) for _ in range(300)]
    found = [scores.count(score) / 300 for score in (1, 0, -1)]
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_random_games_of_two_end_as_often_as_is_known():
    """Of moves made at random the first player wins 58.5 %, the second 28.8 %."""
    assert outcome(uniform, uniform) == pytest.approx((0.585, 0.127, 0.288), abs=5e-4)


def test_a_policy_that_makes_one_mistake_pays_for_it_in_one_seat():
    def careless(observation, action_mask):
        """Perfect, but answers a first mark in the corner at the side next to it."""
        chances = perfect(observation, action_mask)
        marks = observation.reshape(-1, 9, 2)
        blunder = (marks.sum((1, 2)) == 1) & (marks[:, 0, 1] == 1)
        chances[blunder] = np.eye(9)[1]
        return chances

    assert best_response(careless, seat=0) == pytest.approx(1)
    assert best_response(careless, seat=1) == 0
    assert outcome(perfect, careless).win > 0


class FirstAllowed:
    """Makes the first move that is allowed, as env workers' policies are called."""

    def initial_state(self, num_rows):
        return {}

    def step(self, observation, state, is_first):
        return observation["action_mask"].argmax(1), np.zeros(len(is_first)), state

    def env_action(self, action):
        return action


def test_what_acts_in_a_run_is_measured_by_what_it_does():
    """The first of two players who both take the first free square wins with its diagonal, the second gets no line."""
    policy = acting(FirstAllowed())
    assert outcome(policy, policy) == (1, 0, 0)
    assert best_response(policy, seat=0) == best_response(policy, seat=1) == 1


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda observation, mask: np.full((len(mask), 9), 1 / 9), "on others in one position"),
        (lambda observation, mask: mask * 0.5, "add up to 1"),
        (lambda observation, mask: np.full((len(mask), 9), np.nan), "finite"),
        (lambda observation, mask: mask[:, :8], "of the shape"),
    ],
)
def test_what_is_no_policy_is_refused(policy, message):
    with pytest.raises(ConfigError, match=message):
        nash_conv(policy)


def test_the_perfect_player_refuses_boards_that_no_game_leads_to():
    with pytest.raises(ConfigError, match="boards of tic-tac-toe"):
        perfect(np.ones((1, 3, 3, 2), np.int8), np.ones((1, 9), np.int8))
