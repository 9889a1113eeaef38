"""The picture of a league shows everybody who has played, also where pairs have never met."""

import imageio.v3 as imageio
import numpy as np

from distrl.league_plots import draw, league
from distrl.learners.league.payoffs import Match, MatchWriter
from distrl.learners.league.ratings import win_probability
from distrl.report.league import standing


def write_matches(directory, names, strengths, pairs, matches=20, seed=0):
    """Matches of these pairs, won by chance as their strengths in Elo points say."""
    rng, writer = np.random.default_rng(seed), MatchWriter(directory / "league", "learner")
    for i, j in pairs:
        for _ in range(matches):
            score = 1.0 if rng.random() < win_probability(strengths[i] - strengths[j]) else -1.0
            writer.add(Match((names[i], names[j]), (score, -score), env_steps=5, end_s=0.0))
    writer.close()


def test_a_league_is_drawn_from_its_matches(tmp_path):
    names = ["main", "main:000100", "main:000200", "main:001000", "hunter:000150"]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (4, 3)]
    write_matches(tmp_path, names, [400, 0, 150, 300, 250], pairs)
    path = league(tmp_path)
    assert path == tmp_path / "league.png"
    image = imageio.imread(path)[..., :3]
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100


def test_of_very_many_players_some_are_shown(tmp_path):
    names = [f"main:{100 * number:06d}" for number in range(120)]
    pairs = [(i, j) for i in range(120) for j in (i - 1, i - 3) if j >= 0]
    write_matches(tmp_path, names, np.arange(120) * 5, pairs, matches=2)
    assert league(tmp_path) is not None


def test_nobody_has_played(tmp_path):
    assert league(tmp_path) is None


def test_one_that_nobody_has_met_has_no_rating(tmp_path):
    wins = np.array([[0, 3, 0], [7, 0, 0], [0, 0, 0.0]])
    found = standing(["a:1", "a:2", "b:1"], wins, np.zeros((3, 3)), wins.T)
    assert np.isnan(found.ratings.rating[2])
    assert found.ratings.rating[1] > 0
    assert draw(tmp_path / "x.png", found).exists()
