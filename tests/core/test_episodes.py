"""Returns of whole episodes from whatever parts of them come."""

from distrl.core.episodes import EpisodeReturns
from tests.fakes.fragments import fragment


def test_an_episode_is_whole_when_no_step_of_any_of_its_agents_is_missing():
    """reward = step, so an episode of n steps returns n (n − 1) / 2 for each agent."""
    both = fragment(3, rows=2, terminated=True)  # two agents of one episode, side by side
    both.columns["episode_uid"][:] = 5
    both.columns["agent_index"][:] = [0, 1]
    parts = [
        both,
        fragment(2, episode_uid=6, first_step=3, terminated=True),  # its end comes before its beginning
        fragment(3, episode_uid=6),
        fragment(4, episode_uid=7),  # it does not end
        fragment(2, episode_uid=8, first_step=2, terminated=True),  # its beginning is missing
    ]
    returns = EpisodeReturns()
    for part in parts:
        returns.add(part)
    assert returns.whole() == {5: 6.0, 6: 10.0}


def test_an_agent_that_goes_on_keeps_the_episode_open():
    both = fragment(3, rows=2)
    both.columns["episode_uid"][:] = 5
    both.columns["agent_index"][:] = [0, 1]
    both.columns["terminated"][-1, 0] = True
    returns = EpisodeReturns()
    returns.add(both)
    assert returns.whole() == {}
