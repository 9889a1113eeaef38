"""The ledger of matches: what several writers append comes back as counts, also after deaths and resets."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.core.errors import StorageError
from distrl.learners.league.payoffs import Match, MatchWriter, Payoffs

OLD, NEW = "main:000100", "main:000200"


def match(first, second, score, at=0.0, seats_score=None):
    """One zero-sum game, or one with the scores ``seats_score``."""
    return Match((first, second), seats_score or (score, -score), env_steps=5, end_s=at)


def test_wins_draws_and_losses_count_from_both_seats(tmp_path):
    writer = MatchWriter(tmp_path, "learner")
    for game in (match(OLD, NEW, 1), match(NEW, OLD, 1), match(NEW, OLD, 1), match(OLD, NEW, 0)):
        writer.add(game)
    payoffs = Payoffs(tmp_path)
    assert payoffs.read() == 4
    assert payoffs.players() == [OLD, NEW]
    assert [array.item() for array in payoffs.counts([NEW], [OLD])] == [2, 1, 1]
    assert [array.item() for array in payoffs.counts([NEW], [OLD], seats=True)] == [2, 0, 0]
    assert payoffs.mean_scores([NEW, OLD], [OLD]).tolist()[0] == [0.25]
    assert np.isnan(payoffs.mean_scores([OLD], [OLD])), "a player that has not met itself"


def test_a_win_rate_is_drawn_to_one_half_by_two_draws(tmp_path):
    writer = MatchWriter(tmp_path, "learner")
    for _ in range(8):
        writer.add(match(NEW, OLD, 1))
    payoffs = Payoffs(tmp_path)
    payoffs.read()
    assert payoffs.win_rates(NEW, [OLD, "main:000300"]).tolist() == [0.9, 0.5]
    assert payoffs.win_rates(NEW, [OLD, "main:000300"], prior=0).tolist() == [1.0, 0.5]


def test_more_than_two_players_are_compared_pair_by_pair(tmp_path):
    MatchWriter(tmp_path, "learner").add(Match(("a:1", "b:1", "c:1"), (3.0, 1.0, 3.0), env_steps=9, end_s=0.0))
    payoffs = Payoffs(tmp_path)
    payoffs.read()
    wins, draws, losses = payoffs.counts(["a:1"], ["b:1", "c:1"])
    assert (wins.tolist(), draws.tolist(), losses.tolist()) == ([[1, 0]], [[0, 1]], [[0, 0]])
    assert payoffs.mean_scores(["b:1"], ["a:1", "c:1"]).tolist() == [[1.0, 1.0]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([-1, 0, 1])), min_size=1, max_size=60), st.integers(1, 20))
def test_a_policy_that_learns_is_judged_by_its_newest_matches(tmp_path_factory, games, window):
    """Against the weighted sum written out: match k of n counts (1 − 1/window)^(n − 1 − k)."""
    directory = tmp_path_factory.mktemp("league")
    writer = MatchWriter(directory, "learner")
    for first, score in games:
        writer.add(match("main", OLD, score) if first else match(OLD, "main", -score))
    payoffs = Payoffs(directory, window)
    payoffs.read()
    weights = (1 - 1 / window) ** np.arange(len(games))[::-1]
    scores = np.array([score for _, score in games])
    expected = [weights[scores == kind].sum() for kind in (1, 0, -1)]
    np.testing.assert_allclose([array.item() for array in payoffs.counts(["main"], [OLD])], expected, atol=1e-9)


def test_reading_goes_on_where_it_ended_and_leaves_torn_lines_to_their_writer(tmp_path):
    writer, payoffs = MatchWriter(tmp_path, "a"), Payoffs(tmp_path)
    assert payoffs.read() == 0
    writer.add(match(OLD, NEW, 1))
    MatchWriter(tmp_path, "b").add(match(OLD, NEW, 0))
    assert (payoffs.read(), payoffs.read()) == (2, 0)
    writer.close()
    with (tmp_path / "matches-a.jsonl").open("a") as file:
        file.write('{"players": ["main:0')  # killed within the write
    assert payoffs.read() == 0
    MatchWriter(tmp_path, "a").add(match(OLD, NEW, -1))
    assert payoffs.read() == 1
    assert [array.item() for array in payoffs.counts([OLD], [NEW])] == [1, 1, 1]


def test_a_new_reader_takes_the_matches_of_all_writers_in_the_order_of_time(tmp_path):
    """What is newest decides about a policy that learns, whoever wrote it."""
    early, late = MatchWriter(tmp_path, "z"), MatchWriter(tmp_path, "a")
    for second in range(50):
        early.add(match("main", OLD, -1, at=second))
        late.add(match("main", OLD, 1, at=1000 + second))
    payoffs = Payoffs(tmp_path, window=10)
    payoffs.read()
    assert payoffs.win_rates("main", [OLD], prior=0).item() > 0.99


def test_a_player_that_begins_again_has_no_past(tmp_path):
    writer = MatchWriter(tmp_path, "learner")
    writer.add(match("exploiter", "main", -1, at=1.0))
    writer.add(match("exploiter:000100", "main", 1, at=2.0))
    writer.forget("exploiter", end_s=3.0)
    writer.add(match("exploiter", "main", 1, at=4.0))
    payoffs = Payoffs(tmp_path)
    assert payoffs.read() == 3
    assert [array.item() for array in payoffs.counts(["exploiter"], ["main"])] == [1, 0, 0]
    assert payoffs.counts(["exploiter:000100"], ["main"])[0].item() == 1


def write_many(directory, writer):
    lines = MatchWriter(directory, writer)
    for _ in range(500):
        lines.add(match(OLD, NEW, 1))


def test_processes_write_side_by_side(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(tmp_path, f"worker-{n}")) for n in range(2)]
    for process in processes:
        process.start()
    payoffs = Payoffs(tmp_path)
    while any(process.is_alive() for process in processes):
        payoffs.read()
    for process in processes:
        process.join()
    payoffs.read()
    assert payoffs.num_matches == 1000
    assert payoffs.counts([OLD], [NEW])[0].item() == 1000


def write_until_killed(directory, written):
    lines = MatchWriter(directory, "a")
    while True:
        lines.add(match(OLD, NEW, 1))
        written.value += 1


def test_what_was_added_survives_a_kill(tmp_path):
    context = multiprocessing.get_context("fork")
    written = context.Value("i", 0, lock=False)  # whoever is killed must not hold one
    for _ in range(3):
        process = context.Process(target=write_until_killed, args=(tmp_path, written))
        before = written.value
        process.start()
        while written.value < before + 100:
            pass
        process.kill()
        process.join()
    payoffs = Payoffs(tmp_path)
    assert written.value <= payoffs.read() <= written.value + 3, "at most one each that was not counted yet"


@pytest.mark.parametrize("line", ["nonsense", '{"players": ["a"], "scores": [1], "env_steps": 1, "end_s": 0}', "[]"])
def test_a_line_that_is_no_match_is_named(tmp_path, line):
    (tmp_path / "matches-a.jsonl").write_text(line + "\n")
    with pytest.raises(StorageError, match=r"matches-a.jsonl holds a line that is not a match"):
        Payoffs(tmp_path).read()


def test_a_match_has_a_finite_score_for_each_player():
    with pytest.raises(ValueError, match="a score for each"):
        Match(("a", "b"), (1.0,), env_steps=1, end_s=0.0)
    with pytest.raises(ValueError, match="scores that are numbers"):
        Match(("a", "b"), (1.0, float("nan")), env_steps=1, end_s=0.0)
