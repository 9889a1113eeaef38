"""Ratings of simulated players come back, with errors that say how far off they are."""

import numpy as np
import pytest

from distrl.learners.league.ratings import elo, win_probability


def tournament(strengths, matches, draws, rng):
    """(wins, draws, losses) of all pairs; a share of the matches is drawn."""
    count = len(strengths)
    won, drawn = np.zeros((count, count)), np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            decided = rng.binomial(matches, 1 - draws)
            won[i, j] = rng.binomial(decided, win_probability(strengths[i] - strengths[j]))
            won[j, i] = decided - won[i, j]
            drawn[i, j] = drawn[j, i] = matches - decided
    return won, drawn, won.T


def test_two_players_differ_by_the_logarithm_of_their_odds():
    wins = np.array([[0, 10], [90, 0]])
    found = elo(["a", "b"], wins, np.zeros((2, 2)), wins.T, prior=0)
    assert found.rating == pytest.approx([0, 400 * np.log10(9)])
    assert found.error[1] == pytest.approx(400 / np.log(10) / np.sqrt(100 * 0.9 * 0.1))


def test_draws_are_half_a_win():
    wins, draws = np.array([[0, 10], [50, 0]]), np.array([[0, 40], [40, 0]])
    as_halves = wins + draws / 2
    with_draws = elo(["a", "b"], wins, draws, wins.T)
    assert with_draws.rating == pytest.approx(elo(["a", "b"], as_halves, 0 * draws, as_halves.T).rating)


def test_errors_cover_the_truth_as_often_as_they_say():
    """And those of differences too: 68 % within one, 95 % within two."""
    strengths, rng = np.array([0.0, 80, 150, -60, 300]), np.random.default_rng(0)
    names, off, off_between = list("abcde"), [], []
    for _ in range(150):
        found = elo(names, *tournament(strengths, 60, 0.0, rng))
        off.append((found.rating - strengths)[1:] / found.error[1:])
        difference = found.rating[4] - found.rating[2] - 150
        off_between.append(difference / found.error_between("c", "e"))
    assert np.mean(np.abs(off) < 1) == pytest.approx(0.68, abs=0.07)
    assert np.mean(np.abs(off) < 2) == pytest.approx(0.95, abs=0.04)
    assert np.mean(np.abs(off_between) < 1) == pytest.approx(0.68, abs=0.12)


def test_it_is_the_maximum_of_the_likelihood():
    """Nothing near is more likely, by the product of probabilities written out."""
    rng = np.random.default_rng(1)
    wins, draws, losses = tournament(np.array([0.0, 100, 50]), 30, 0.2, rng)
    found = elo(list("abc"), wins, draws, losses, prior=0)

    def likelihood(ratings):
        return sum(
            (wins[i, j] + draws[i, j] / 2) * np.log(win_probability(ratings[i] - ratings[j]))
            for i in range(3)
            for j in range(3)
        )

    for _ in range(50):
        assert likelihood(found.rating + rng.normal(size=3)) <= likelihood(found.rating)


def test_the_anchor_is_zero_and_shifts_nobody_else():
    counts = tournament(np.array([0.0, 100, 50]), 100, 0.1, np.random.default_rng(2))
    first, second = elo(list("abc"), *counts), elo(list("abc"), *counts, anchor="b")
    assert (second.rating[1], second.error[1]) == (0, 0)
    np.testing.assert_allclose(np.diff(first.rating), np.diff(second.rating), atol=1e-6)
    assert first.error_between("b", "c") == pytest.approx(second.error_between("b", "c"))


def test_who_only_wins_is_rated_finitely_and_who_never_met_anybody_not_at_all():
    wins = np.zeros((3, 3))
    wins[1, 0] = 20
    found = elo(["loser", "winner", "stranger"], wins, np.zeros((3, 3)), wins.T)
    assert 400 < found.rating[1] < 800
    assert np.isnan([found.rating[2], found.error[2]]).all()
