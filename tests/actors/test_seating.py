"""Leagues in an env worker: who acts is drawn with each episode, and only whose turn it is learns from it."""

import numpy as np
import pytest

from distrl.actors.env_worker import PolicyPart, build_env_worker
from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.actors.seating import Seating
from distrl.core.matchups import MATCHUPS, Matchups
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.parameter_server import ParameterServer, PolicySource
from tests.actors.test_fragment_builder import Recorded

EVERYBODY = {"main": (0, 1)}
SIDES = {"victim": (0,), "adversary": (1,)}


class Marked:
    """Plays the first free square; tells by its log-probabilities whose weights they were, in its state how often it
    has been asked in the episode."""

    ready = False

    def load(self, weights):
        self.mark, self.ready = weights["mark"], True

    def initial_state(self, num_rows):
        return {"asked": np.zeros((num_rows, 1), np.int64)}

    def step(self, observation, state, is_first):
        assert (state["asked"][is_first] == 0).all(), "an episode begins without a past"
        action = observation["action_mask"].argmax(1)
        return action, np.full(len(action), self.mark, np.float32), {"asked": state["asked"] + 1}

    def env_action(self, action):
        return action


def league_of(server, hosting, tmp_path, policies=EVERYBODY, num_envs=3):
    """An env worker over games of tic-tac-toe that has pulled, and where its fragments go."""
    recipe, seeds, sink = EnvRecipe("pettingzoo.classic.tictactoe_v3"), TrainingSeeds(0), Recorded()
    if hosting == "inline":
        pool = InlinePool(recipe, num_envs, seeds)
    else:
        pool = ProcessPool(recipe, num_envs, seeds, scratch_dir=str(tmp_path), step_timeout_s=60.0)
    seating = Seating(
        [(0,), (1,)],
        policies,
        lambda policy_id: Marked(),
        lambda player: PolicySource(server, player),
        num_envs,
        seed=0,
    )
    parts = {name: PolicyPart(Marked(), PolicySource(server, name), agents=agents) for name, agents in policies.items()}
    worker = build_env_worker(pool, parts, sink, fragment_steps=7, fragment_max_age_s=None, seating=seating)
    worker.pull()
    return worker, sink


def publish(server, marks, players=None, **opponents):
    """Weights of everybody, and matchups: each opponent as likely."""
    for player, mark in marks.items():
        server.publish(mark, {"mark": mark}, player)
    tables = {player.replace("_", ":"): dict.fromkeys(its, 1 / len(its)) for player, its in opponents.items()}
    matchups = Matchups(players or dict.fromkeys(tables, 1 / len(tables)), tables)
    server.publish(sum(marks.values()), matchups.weights(), MATCHUPS)


def play(worker, steps):
    """So many env steps, and the end; all episodes that finished and the last report."""
    done = 0
    while done < steps:
        done += worker.run_once(timeout_s=1.0)
    worker.finish()
    report = worker.report()
    worker.close()
    return report


def learned(sink):
    """(episode, agent, mark of the weights, policy) of every transition in the fragments."""
    found = []
    for fragment in sink.fragments:
        columns = fragment.columns
        agents = np.broadcast_to(columns["agent_index"], columns["reward"].shape)
        for uid, agent, mark in zip(
            columns["episode_uid"].ravel(), agents.ravel(), columns["log_prob"].ravel(), strict=True
        ):
            found.append((int(uid), int(agent), int(mark), fragment.policy_id))
    return found


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_one_seat_learns_and_the_past_sits_opposite(hosting, tmp_path):
    server = ParameterServer()
    publish(server, {"main": 9, "main:000001": 1, "main:000002": 2}, main=["main:000001", "main:000002"])
    worker, sink = league_of(server, hosting, tmp_path)
    report = play(worker, 400)
    transitions = learned(sink)
    assert {mark for _, _, mark, _ in transitions} == {9}
    seats = {uid: {agent for other, agent, _, _ in transitions if other == uid} for uid, _, _, _ in transitions}
    assert {len(agents) for agents in seats.values()} == {1}, "never both"
    assert {agent for agents in seats.values() for agent in agents} == {0, 1}, "the first player as well as the second"
    assert len(transitions) + report["frozen"] == report["produced"]
    met = {episode["players"] for episode in report["episodes"]}
    assert met == {("main", old) for old in ("main:000001", "main:000002")} | {
        (old, "main") for old in ("main:000001", "main:000002")
    }
    assert all(episode["scores"] == (1.0, -1.0) for episode in report["episodes"]), "who begins wins with a diagonal"
    own = [episode["players"].index("main") for episode in report["episodes"]]
    assert [episode["returns"] for episode in report["episodes"]] == [{"main": 1.0 - 2.0 * seat} for seat in own]


def test_in_self_play_both_seats_learn(tmp_path):
    server = ParameterServer()
    publish(server, {"main": 9}, main=["main"])
    worker, sink = league_of(server, "inline", tmp_path)
    report = play(worker, 200)
    assert report["frozen"] == 0
    assert len(learned(sink)) == report["produced"]
    assert {episode["players"] for episode in report["episodes"]} == {("main", "main")}


@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_two_sides_take_turns_in_learning_and_meet_the_newest_of_the_other(hosting, tmp_path):
    server = ParameterServer()
    publish(server, {"victim": 8, "adversary": 9}, victim=["adversary"], adversary=["victim"])
    worker, sink = league_of(server, hosting, tmp_path, SIDES)
    report = play(worker, 300)
    transitions = learned(sink)
    assert {(agent, mark, policy) for _, agent, mark, policy in transitions} == {
        (0, 8, "victim"),
        (1, 9, "adversary"),
    }
    learners = [{policy for other, _, _, policy in transitions if other == uid} for uid, *_ in transitions]
    assert {len(its) for its in learners} == {1}, "one of them in an episode"
    assert len(transitions) + report["frozen"] == report["produced"]


def test_snapshots_that_meet_to_be_measured_teach_nobody(tmp_path):
    server = ParameterServer()
    marks = {"main": 9, "main:000001": 1, "main:000002": 2}
    publish(server, marks, {"main": 1e-9, "main:000002": 1.0}, main=["main"], main_000002=["main:000001"])
    worker, sink = league_of(server, "inline", tmp_path)
    report = play(worker, 100)
    assert learned(sink) == []
    assert report["frozen"] == report["produced"] > 0
    assert {frozenset(episode["players"]) for episode in report["episodes"]} == {
        frozenset({"main:000001", "main:000002"})
    }


def test_matchups_are_followed_once_the_weights_of_everybody_in_them_are_here(tmp_path):
    server = ParameterServer()
    publish(server, {"main": 1}, main=["main"])
    worker, _ = league_of(server, "inline", tmp_path)
    server.publish(5, Matchups({"main": 1.0}, {"main": {"main:000002": 1.0}}).weights(), MATCHUPS)
    worker.pull()  # as from a new parameter server that the learner is still filling
    for _ in range(30):
        worker.run_once(0.0)
    assert {episode["players"] for episode in worker.report()["episodes"]} == {("main", "main")}
    server.publish(2, {"mark": 2}, "main:000002")
    worker.pull()
    report = play(worker, 100)
    assert {frozenset(episode["players"]) for episode in report["episodes"][3:]} == {frozenset({"main", "main:000002"})}


def test_of_many_opponents_some_are_held_at_a_time(tmp_path):
    server = ParameterServer()
    names = [f"main:{version:06d}" for version in range(1, 200)]
    publish(server, {"main": 9} | dict.fromkeys(names, 1), main=names)
    worker, _ = league_of(server, "inline", tmp_path)
    for version in range(1000, 1050):
        server.publish(version, Matchups({"main": 1.0}, {"main": dict.fromkeys(names, 1 / 199)}).weights(), MATCHUPS)
        worker.pull()
        worker.run_once(0.0)
    assert len(worker._seating._opponents) < 120
    report = play(worker, 200)
    assert len({name for episode in report["episodes"] for name in episode["players"]}) > 20
