"""Snapshots are kept whole or not at all, and AlphaStar's rules decide when."""

import numpy as np
import pytest

from distrl.core.errors import ConfigError, StorageError
from distrl.core.types import PolicySpec
from distrl.learners.league.config import LeagueConfig, roles_of
from distrl.learners.league.players import Players, Snapshot, begins_again, is_due


class BiasPolicy:
    """Its action is its bias, scaled."""

    def __init__(self, seed, deterministic, scale):
        self._scale = scale

    def load(self, weights):
        self._action = self._scale * weights["head/bias"]

    def step(self, observation, state, is_first):
        return np.tile(self._action, (len(is_first), 1)), np.zeros(len(is_first)), {}


SPEC = PolicySpec(f"{__name__}:BiasPolicy", {"scale": 2.0})
ROLES = {"main": "main"}
WEIGHTS = {"head/bias": np.arange(3.0)}


def test_a_snapshot_acts_with_the_weights_of_its_time(tmp_path):
    players = Players(tmp_path, ROLES)
    assert players.add("main", 123, WEIGHTS, SPEC) == Snapshot("main", 123)
    again = Players(tmp_path, ROLES)
    (name,) = again.pool(["main"]).snapshots
    assert name == "main:000123"
    recipe, weights = again.parts(name)
    policy = recipe.build(seed=0)
    policy.load(weights)
    action, _, _ = policy.step({"array": np.zeros((1, 2))}, {}, np.ones(1, bool))
    np.testing.assert_array_equal(action, [[0.0, 2.0, 4.0]])


def test_snapshots_stay_in_order_and_by_their_policy(tmp_path):
    players = Players(tmp_path, {"main": "main", "hunter": "main_exploiter"})
    for policy, version in (("main", 1000), ("hunter", 400), ("main", 1_000_000)):
        players.add(policy, version, WEIGHTS, SPEC)
    players.reset("hunter", 450)
    again = Players(tmp_path, {"main": "main", "hunter": "main_exploiter"})
    assert list(again.pool(["main", "hunter"]).snapshots) == ["main:001000", "hunter:000400", "main:1000000"]
    assert list(again.pool(["hunter"]).snapshots) == ["hunter:000400"]
    assert again.pool(["main"]).roles == {"main": "main"}
    assert again.began == {"main": 1_000_000, "hunter": 450}


def test_a_snapshot_that_a_death_interrupts_was_never_there(tmp_path, monkeypatch):
    players = Players(tmp_path, ROLES)
    monkeypatch.setattr("os.replace", lambda source, target: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(StorageError, match=r"main:000005\.npz cannot be written: no space left"):
        players.add("main", 5, WEIGHTS, SPEC)
    assert players.snapshots == Players(tmp_path, ROLES).snapshots == []
    with (tmp_path / "players.jsonl").open("a") as file:
        file.write('{"kind": "snap')
    again = Players(tmp_path, ROLES)
    assert again.snapshots == []
    monkeypatch.undo()
    again.add("main", 6, WEIGHTS, SPEC)
    assert Players(tmp_path, ROLES).snapshots == [Snapshot("main", 6)]


def test_whoever_looks_changes_nothing(tmp_path):
    assert Players(tmp_path / "league", ROLES).snapshots == []
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="'main:000007' cannot be read"):
        Players(tmp_path, ROLES).parts("main:000007")


def test_roles_are_of_policies_and_each_has_a_main_player_to_meet():
    with pytest.raises(ConfigError, match="names of policies, main, but hunter came"):
        roles_of(LeagueConfig(roles={"hunter": "main_exploiter"}), {"main": ["main"]})
    with pytest.raises(
        ConfigError, match="'main' needs a main player to meet, but its rivals are main, with the roles"
    ):
        roles_of(LeagueConfig(roles={"main": "main_exploiter"}), {"main": ["main"]})


@pytest.mark.parametrize(
    ("updates", "rates", "due_by_period", "due_by_rate"),
    [
        (99, [0.9], False, False),
        (100, [0.9, 0.8], True, True),
        (100, [0.9, 0.6], True, False),
        (199, [0.9, 0.6], True, False),
        (200, [0.9, 0.6], True, True),
        (100, [], True, True),
    ],
)
def test_a_snapshot_is_due_after_a_period_or_once_everybody_is_beaten(updates, rates, due_by_period, due_by_rate):
    period, rate = (LeagueConfig(snapshot_period=100, snapshot_win_rate=threshold) for threshold in (None, 0.7))
    assert is_due(updates, np.array(rates), period) == due_by_period
    assert is_due(updates, np.array(rates), rate) == due_by_rate


def test_main_exploiters_always_begin_again_and_league_exploiters_sometimes():
    config, rng = LeagueConfig(exploiter_reset=0.25), np.random.default_rng(0)
    share = {
        role: np.mean([begins_again(role, config, rng) for _ in range(2000)])
        for role in ("main", "main_exploiter", "league_exploiter")
    }
    assert (share["main"], share["main_exploiter"]) == (0, 1)
    assert share["league_exploiter"] == pytest.approx(0.25, abs=0.04)
