"""Equilibria of small games: against closed forms, and against the definition written out with loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.core.errors import ConfigError
from distrl.learners.league.meta_solver import exploitability, nash, nash_conv, risk_averse

ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
ENTRY = st.integers(-20, 20).map(lambda number: number / 10)


def tables(rows, columns):
    """Payoff tables of that shape."""
    return st.lists(ENTRY, min_size=rows * columns, max_size=rows * columns).map(
        lambda entries: np.array(entries).reshape(rows, columns)
    )


def worth(table, mine, theirs, aversion):
    """Mean less variance over the opponents, as the paper's words say it."""
    paid = [sum(mine[i] * table[i, j] for i in range(len(mine))) for j in range(len(theirs))]
    mean = sum(theirs[j] * paid[j] for j in range(len(theirs)))
    return mean - aversion * sum(theirs[j] * (paid[j] - mean) ** 2 for j in range(len(theirs)))


def test_rock_paper_scissors_is_played_evenly():
    found = nash(ROCK_PAPER_SCISSORS)
    np.testing.assert_allclose([*found.rows, *found.columns], 1 / 3)
    assert found.value == pytest.approx(0)
    assert exploitability(ROCK_PAPER_SCISSORS, found.rows) == pytest.approx(0, abs=1e-12)
    assert exploitability(ROCK_PAPER_SCISSORS, np.array([1.0, 0, 0])) == 1, "paper beats rock"


@settings(deadline=None)
@given(tables(2, 2))
def test_nash_of_two_by_two_has_the_value_of_the_textbook(payoff):
    """A saddle point where there is one, else (ad − bc) / (a + d − b − c) (von Neumann and Morgenstern 1944)."""
    (a, b), (c, d) = payoff
    lower, upper = payoff.min(1).max(), payoff.max(0).min()
    value = lower if lower == upper else (a * d - b * c) / (a + d - b - c)
    assert nash(payoff).value == pytest.approx(value, abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 6).flatmap(lambda rows: st.integers(1, 6).flatmap(lambda columns: tables(rows, columns))))
def test_nobody_gains_by_leaving_a_nash_equilibrium(payoff):
    found = nash(payoff)
    for i, j in itertools.product(range(payoff.shape[0]), range(payoff.shape[1])):
        assert payoff[i] @ found.columns <= found.value + 1e-9
        assert found.rows @ payoff[:, j] >= found.value - 1e-9
    assert found.gap == pytest.approx(0, abs=1e-9)


def test_nash_conv_adds_what_both_sides_could_gain():
    """Prisoners' dilemma, both cooperate: each would gain 2 by defecting."""
    payoff = np.array([[3.0, 0], [5, 1]])
    cooperate = np.array([1.0, 0])
    assert nash_conv(payoff, cooperate, cooperate, other=payoff.T) == 4
    assert nash_conv(payoff, cooperate[::-1], cooperate[::-1], other=payoff.T) == 0


@settings(max_examples=15, deadline=None)
@given(tables(3, 3), st.sampled_from([0.1, 0.5, 2.0]), st.sampled_from([0.0, 0.1]))
def test_no_mixture_is_worth_more_than_a_risk_averse_equilibrium(payoff, aversion, floor):
    """Of a population against itself, where it always arrived; by the definition, at many mixtures."""
    payoff = payoff - payoff.T
    found = risk_averse(payoff, aversion, floor)
    assert found.gap < 1e-2
    for side, others, table in ((found.rows, found.columns, payoff), (found.columns, found.rows, -payoff.T)):
        assert side.min() >= floor / 3 - 1e-12
        assert side.sum() == pytest.approx(1)
        here = worth(table, side, others, aversion)
        for mixture in np.random.default_rng(0).dirichlet(np.full(3, 0.5), 100):
            allowed = floor / 3 + (1 - floor) * mixture
            assert worth(table, allowed, others, aversion) <= here + found.gap + 1e-9


def test_who_dislikes_risk_hunts_the_hare():
    """Stag hunt: the stag pays more on average where the other is as likely to come as not, but nothing if he does
    not."""
    stag_hunt = np.array([[7.0, 0.0], [3.0, 3.0]])
    bold = risk_averse(stag_hunt, aversion=0.0, floor=0.1, other=stag_hunt.T)
    careful = risk_averse(stag_hunt, aversion=0.2, floor=0.1, other=stag_hunt.T)
    assert bold.rows[0] == pytest.approx(0.95)
    assert careful.rows[1] == pytest.approx(0.95)
    assert max(bold.gap, careful.gap) < 1e-3


def test_a_gamble_is_left_out_though_nash_does_not_mind():
    """Two players equal on average, of whom the second wins or loses by whom it meets: against the even mixture of
    opponents the first is worth more."""
    payoff = np.array([[0.0, 0.0], [1.0, -1.0]])
    assert nash(payoff).value == pytest.approx(0)
    found = risk_averse(payoff, aversion=1.0, floor=0.2, other=np.zeros((2, 2)))
    np.testing.assert_allclose(found.rows, [0.9, 0.1], atol=1e-3)
    np.testing.assert_allclose(found.columns, [0.5, 0.5], atol=1e-3)


@pytest.mark.parametrize("solve", [nash, lambda payoff: risk_averse(payoff, 1.0, 0.0)])
@pytest.mark.parametrize("payoff", [np.zeros((0, 0)), np.array([[np.nan]])])
def test_pairs_that_have_not_played_are_refused(solve, payoff):
    with pytest.raises(ConfigError, match="table of finite payoffs"):
        solve(payoff)
