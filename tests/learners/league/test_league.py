"""The learner's side of a league: opponents' tables follow from matches and snapshots, also after a death."""

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.core.matchups import MATCHUPS, Matchups
from distrl.core.types import PolicySpec
from distrl.learners.league.config import LeagueConfig
from distrl.learners.league.league import League
from distrl.learners.league.meta_solver import exploitability
from distrl.learners.league.payoffs import Match, MatchWriter


def weights():
    return {"w": np.zeros(1)}


def spec():
    return PolicySpec("module:policy")


def update(league, policy, version):
    return league.after_update(policy, version, weights, spec)


def play(directory, first, second, wins=0, draws=0, losses=0):
    """Games of two, seen from the first."""
    writer = MatchWriter(directory, "supervisor")
    for score, count in ((1.0, wins), (0.0, draws), (-1.0, losses)):
        for _ in range(count):
            writer.add(Match((first, second), (score, -score), env_steps=5, end_s=0.0))
    writer.close()


def with_three_snapshots(directory, **options):
    """main:000010, main:000020, main:000030; the policy beats the first always, loses to the second."""
    league = League(directory, LeagueConfig(snapshot_period=10, window=1000, **options), ["main"])
    for version in (10, 20, 30):
        assert update(league, "main", version).snapshot.version == version
    play(directory, "main", "main:000010", wins=98)
    play(directory, "main", "main:000020", losses=98)
    return league


def test_before_the_first_snapshot_everybody_plays_itself(tmp_path):
    for kind in ("self_play", "fictitious", "delta_uniform", "pfsp", "psro", "alphastar"):
        league = League(tmp_path, LeagueConfig(matchmaking=kind), ["main"])
        assert league.matchups().opponents == {"main": {"main": 1.0}}


@pytest.mark.parametrize(
    ("options", "past"),
    [
        ({"matchmaking": "fictitious"}, [1, 1, 1]),
        ({"matchmaking": "delta_uniform", "delta": 0.6}, [0, 1, 1]),
        ({"matchmaking": "pfsp"}, [0.01**2, 0.99**2, 0.5**2]),
        ({"matchmaking": "psro"}, [1, 1, 1]),
    ],
)
def test_the_rest_of_the_matches_is_against_the_past(tmp_path, options, past):
    league = with_three_snapshots(tmp_path, self_play_share=0.4, **options)
    table = league.matchups().opponents["main"]
    assert table.pop("main") == pytest.approx(0.4)
    expected = 0.6 * np.array(past) / np.sum(past)
    found = [table.get(name, 0.0) for name in ("main:000010", "main:000020", "main:000030")]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("solver", ["nash", "risk_averse"])
def test_psro_meets_the_equilibrium_of_what_snapshots_did_among_each_other(tmp_path, solver):
    """Rock, paper, scissors and a player that loses to all of them."""
    league = League(
        tmp_path,
        LeagueConfig(matchmaking="psro", meta_solver=solver, self_play_share=0.0, snapshot_period=1, risk_floor=0.0),
        ["main"],
    )
    rock, paper, scissors, loser = (update(league, "main", version).snapshot.name for version in (1, 2, 3, 4))
    for winner, other in ((paper, rock), (scissors, paper), (rock, scissors)):
        play(tmp_path, winner, other, wins=8)
    for winner in (rock, paper, scissors):
        play(tmp_path, winner, loser, wins=8)
    table = league.matchups().opponents["main"]
    assert [table[name] for name in (rock, paper, scissors)] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert table.get(loser, 0.0) < 1e-3
    assert league.report()["gap"] < 1e-3


def test_psro_finds_the_equilibrium_of_a_game_by_answering_itself(tmp_path):
    """Double oracle (McMahan et al. 2003): a policy is one of 12 pure strategies, each update makes it the best answer
    to its table, and all snapshots meet. At the end nobody gains against the table in the whole game."""
    rng = np.random.default_rng(0)
    game = rng.integers(-1, 2, (12, 12))
    game = np.triu(game, 1) - np.triu(game, 1).T
    league = League(tmp_path, LeagueConfig(matchmaking="psro", self_play_share=0.0, snapshot_period=1), ["main"])
    kept: dict[str, int] = {}  # snapshot → its strategy
    strategy = 0
    for version in range(1, 20):
        name = league.after_update("main", version, weights, spec).snapshot.name
        for other, its in kept.items():
            score = float(game[strategy, its])
            outcomes = {1.0: {"wins": 200}, 0.0: {"draws": 200}, -1.0: {"losses": 200}}
            play(tmp_path, name, other, **outcomes[score])
        kept[name] = strategy
        mixture = np.zeros(12)
        for other, probability in league.matchups().opponents["main"].items():
            mixture[kept[other]] += probability
        strategy = int((game @ mixture).argmax())
        if exploitability(game, mixture) < 0.01:
            break
    assert exploitability(game, mixture) < 0.01
    assert exploitability(game, np.full(12, 1 / 12)) > 0.1


def test_a_snapshot_waits_for_the_win_rate(tmp_path):
    league = League(tmp_path, LeagueConfig(snapshot_period=10, snapshot_win_rate=0.7), ["main"])
    assert update(league, "main", 9).snapshot is None
    first = update(league, "main", 10).snapshot.name
    play(tmp_path, "main", first, wins=5, losses=5)
    assert update(league, "main", 25).snapshot is None
    play(tmp_path, "main", first, wins=40)
    assert update(league, "main", 26).snapshot is not None


def test_an_exploiter_begins_again_without_a_past(tmp_path):
    config = LeagueConfig(snapshot_period=10, roles={"hunter": "main_exploiter"})
    league = League(tmp_path, config, ["main", "hunter"])
    play(tmp_path, "hunter", "main", wins=50)
    change = update(league, "hunter", 10)
    assert (change.snapshot.name, change.reset) == ("hunter:000010", True)
    assert not update(league, "main", 10).reset
    league.matchups()  # reads what has been played
    assert league.payoffs.win_rates("hunter", ["main"]) == 0.5
    assert league.matchups().opponents["hunter"] == {"main": 1.0}
    assert set(league.matchups().opponents["main"]) == {"main", "hunter:000010", "main:000010"}


def test_a_league_goes_on_after_a_death(tmp_path):
    league = with_three_snapshots(tmp_path, matchmaking="pfsp")
    before = league.matchups().opponents
    again = League(tmp_path, LeagueConfig(snapshot_period=10, window=1000), ["main"])
    assert again.matchups().opponents == before
    assert update(again, "main", 39).snapshot is None, "the newest snapshot was at update 30"
    report = again.report()
    assert (report["matches"], report["snapshots"]) == (196, 3)
    assert report["main/win_rate_min"] == pytest.approx(0.01, abs=1e-3)


def test_a_policy_against_itself_says_nothing(tmp_path):
    league = League(tmp_path, LeagueConfig(), ["main"])
    play(tmp_path, "main", "main", wins=3)
    assert league.matchups().opponents == {"main": {"main": 1.0}}
    assert league.report()["matches"] == 0


def test_two_sides_meet_each_other_alone(tmp_path):
    sides = {"victim": ["adversary"], "adversary": ["victim"]}
    league = League(
        tmp_path,
        LeagueConfig(matchmaking="psro", snapshot_period=1, self_play_share=0.25),
        ["victim", "adversary"],
        rivals=sides,
    )
    assert league.matchups().opponents == {"victim": {"adversary": 1.0}, "adversary": {"victim": 1.0}}
    for policy in sides:
        for version in (1, 2):
            update(league, policy, version)
    # matching pennies: each adversary beats one victim
    for number in (1, 2):
        play(tmp_path, f"victim:00000{number}", f"adversary:00000{number}", losses=20)
        play(tmp_path, f"victim:00000{number}", f"adversary:00000{3 - number}", wins=20)
    found = league.matchups().opponents["victim"]
    assert found == pytest.approx({"adversary": 0.25, "adversary:000001": 0.375, "adversary:000002": 0.375})
    players = league.matchups().players
    assert players["victim"] == players["adversary"] == pytest.approx(0.45)


def test_psro_measures_the_pair_that_has_met_least_often(tmp_path):
    league = League(tmp_path, LeagueConfig(matchmaking="psro", payoff_share=0.2, snapshot_period=1), ["main"])
    names = [update(league, "main", version).snapshot.name for version in (1, 2, 3)]
    play(tmp_path, names[2], names[0], wins=1)
    matchups = league.matchups()
    assert matchups.players == pytest.approx({"main": 0.8, names[2]: 0.2})
    assert matchups.opponents[names[2]] == {names[1]: 1.0}


def test_snapshots_and_matchups_are_published_also_after_a_death(tmp_path):
    held = {}

    def publish(version, weights, player):
        if version > held.get(player, (-1,))[0]:
            held[player] = version, weights

    league = League(tmp_path, LeagueConfig(snapshot_period=10), ["main"], publish=publish)
    league.publish()
    assert Matchups.of_weights(held[MATCHUPS][1]) == league.matchups()
    update(league, "main", 10)
    play(tmp_path, "main", "main:000010", wins=3)
    before = league.matchups()
    held.clear()
    League(tmp_path, LeagueConfig(snapshot_period=10), ["main"], publish=publish).publish()
    assert (held["main:000010"][0], held["main:000010"][1]["w"].tolist()) == (10, [0.0])
    assert Matchups.of_weights(held[MATCHUPS][1]) == before


def test_everybody_needs_somebody_to_meet(tmp_path):
    with pytest.raises(ConfigError, match="'victim' needs a main player to meet"):
        League(tmp_path, LeagueConfig(), ["victim", "adversary"], rivals={"adversary": ["victim"]})
