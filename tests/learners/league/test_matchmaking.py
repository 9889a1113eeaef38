"""Probabilities of opponents: against the papers' formulas, and AlphaStar's league against its rules played as written,
match by match."""

import numpy as np
import pytest

from distrl.core.matchups import draw
from distrl.learners.league.matchmaking import (
    Pool,
    delta_uniform,
    fictitious,
    league_exploiter,
    least_played,
    main_exploiter,
    main_player,
    mixed,
    pfsp,
    without_monotonic_suffix,
)

RATES = np.array([0.0, 0.2, 0.5, 0.9])


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("squared", [1.0, 0.64, 0.25, 0.01]),
        ("linear", [1.0, 0.8, 0.5, 0.1]),
        ("linear_capped", [0.5, 0.5, 0.5, 0.1]),
        ("variance", [0.0, 0.16, 0.25, 0.09]),
    ],
)
def test_pfsp_prefers_opponents_by_how_often_they_are_beaten(weighting, weights):
    np.testing.assert_allclose(pfsp(RATES, weighting), np.array(weights) / sum(weights))


def test_pfsp_meets_anybody_where_all_are_always_beaten():
    assert pfsp(np.ones(4), "squared").tolist() == [0.25] * 4


def test_fictitious_self_play_meets_any_snapshot():
    assert fictitious(["a:1", "a:2"]) == {"a:1": 0.5, "a:2": 0.5}
    assert fictitious([]) == {}


@pytest.mark.parametrize(("delta", "names"), [(0, "a:1 a:5 a:10"), (0.5, "a:5 a:10"), (1, "a:10")])
def test_delta_uniform_leaves_out_the_old_ones(delta, names):
    assert delta_uniform({"a:1": 1, "a:5": 5, "a:10": 10}, delta) == pytest.approx(fictitious(names.split()))


def test_who_is_drawn_follows_the_table():
    rng = np.random.default_rng(0)
    table = mixed([(0.5, {"main": 1.0}), (0.5, {"main": 0.2, "main:000001": 0.8, "never": 0.0})])
    assert table == pytest.approx({"main": 0.6, "main:000001": 0.4})
    drawn = [draw(table, rng) for _ in range(2000)]
    assert drawn.count("main") / 2000 == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(
    ("rates", "kept"),
    [([0.9, 0.6, 0.65, 0.6], 3), ([0.9, 0.8, 0.7], 0), ([0.5, 0.6], 2), ([0.4], 0), ([], 0)],
)
def test_the_newest_snapshots_are_no_forgetting_as_far_as_they_only_get_harder(rates, kept):
    names = [f"main:{n}" for n in range(len(rates))]
    found, left = without_monotonic_suffix(np.array(rates), names)
    assert (found.tolist(), left) == (rates[:kept], names[:kept])


def test_an_evaluation_plays_the_newest_pair_that_has_played_least():
    matches = np.array([[0, 5, 3], [5, 0, 3], [3, 3, 0]])
    assert least_played(matches) == (1, 2)
    assert least_played(np.zeros((3, 3))) == (1, 2)
    assert least_played(np.zeros((1, 1))) is None


# -- AlphaStar's league ------------------------------------------------------------------------------------------------

ROLES = {"main": "main", "rival": "main", "hunter": "main_exploiter", "critic": "league_exploiter"}


def league(seed, num_snapshots):
    """A pool of chance, and how often each beats each."""
    rng = np.random.default_rng(seed)
    owners = rng.choice(list(ROLES), num_snapshots)
    snapshots = {f"{owner}:{number:06d}": str(owner) for number, owner in enumerate(owners)}
    names = [*ROLES, *snapshots]
    strength = dict(zip(names, rng.normal(size=len(names)) * rng.choice([0.1, 1.0, 3.0]), strict=True))

    def win_rates(player, opponents):
        return np.array([1 / (1 + np.exp(strength[other] - strength[player])) for other in opponents])

    return Pool(ROLES, snapshots), win_rates


def one_match(player, pool, win_rates, rng):
    """The rules of the supplement as sentences say them: one opponent, drawn step by step."""

    def prioritised(names, weight):
        weights = np.array([weight(win_rates(player, [name])[0]) for name in names])
        return names[rng.choice(len(names), p=weights / weights.sum())]

    def rate(name):
        return win_rates(player, [name])[0]

    def owned(*owners):
        return [name for name, owner in pool.snapshots.items() if owner in owners]

    everybody = list(pool.snapshots)
    if ROLES[player] == "league_exploiter":
        return prioritised(everybody, lambda x: min(0.5, 1 - x))
    if ROLES[player] == "main_exploiter":
        opponent = rng.choice(["main", "rival"])
        if rate(opponent) > 0.1 or not owned(opponent):
            return opponent
        return prioritised(owned(opponent), lambda x: x * (1 - x))
    coin = rng.random()
    if coin < 0.5:
        return prioritised(everybody, lambda x: (1 - x) ** 2)
    opponent = rng.choice(["main", "rival"])
    if coin < 0.65:
        exploits = owned("hunter")
        if any(rate(name) < 0.3 for name in exploits):
            return prioritised(exploits, lambda x: (1 - x) ** 2)
        history = owned(opponent)
        while len(history) > 1 and rate(history[-2]) >= rate(history[-1]):
            history.pop()
        if len(history) > 1 and min(map(rate, history)) < 0.7:
            return prioritised(history, lambda x: (1 - x) ** 2)
    if rate(opponent) > 0.3 or not owned(opponent):
        return opponent
    return prioritised(owned(opponent), lambda x: x * (1 - x))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("player", "table"), [("main", main_player), ("hunter", main_exploiter), ("critic", league_exploiter)]
)
def test_alphastars_tables_are_what_its_rules_draw(player, table, seed):
    pool, win_rates = league(seed, num_snapshots=8)
    found = table(player, pool, win_rates)
    assert sum(found.values()) == pytest.approx(1)
    rng = np.random.default_rng(seed)
    drawn = [one_match(player, pool, win_rates, rng) for _ in range(1500)]
    for name in {*found, *drawn}:
        expected = found.get(name, 0.0)
        error = np.sqrt(expected * (1 - expected) / 1500)
        assert abs(drawn.count(name) / 1500 - expected) <= 4.5 * error + 1e-9, name


def test_without_snapshots_everybody_meets_main_players():
    pool, win_rates = league(0, num_snapshots=0)
    for table, player in ((main_player, "main"), (main_exploiter, "hunter"), (league_exploiter, "critic")):
        assert table(player, pool, win_rates) == pytest.approx({"main": 0.5, "rival": 0.5})
