"""Self-play in runs: who meets whom follows from what was played, and goes on after a resume."""

import json

import numpy as np
import pytest

from distrl.api import load_policy, train
from distrl.cluster.checks import policy_specs
from distrl.cluster.components import build_learner
from distrl.core.config import RunConfig, to_toml
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.matchups import is_snapshot, policy_of
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvRecipe
from distrl.envs.resolve import make, spec_of
from distrl.learners.league.payoffs import Payoffs

TIC_TAC_TOE = "pettingzoo.classic.tictactoe_v3"
HUNTED = {"policies": {"main": {}, "hunter": {}}, "league": {"roles": {"hunter": "main_exploiter"}}}
SOME = {
    "observation": np.zeros((1, 3, 3, 2), np.int8),
    "action_mask": np.ones((1, 9), np.int8),
}


def small(out, *overrides, **sections):
    settings = {
        "run": {"out": str(out), "steps": 1600, "experience_log": "on"},
        "env": {"id": TIC_TAC_TOE, "hosting": "inline"},
        "actors": {"env_workers": 2, "envs_per_worker": 2, "fragment_steps": 8},
        "algorithm": {"name": "ppo", "batch_size": 64, "hidden": [16], "minibatches": 2, "epochs": 1},
        "evaluation": {"period": 500, "episodes": 2, "final_episodes": 2},
        "checkpoint": {"period": 3},
        **sections,
    }
    settings.setdefault("league", {})
    settings["league"] = {"snapshot_period": 4} | settings["league"]
    toml = out.parent / f"{out.name}.toml"
    toml.write_text(to_toml(RunConfig.validated(settings)))
    return RunConfig.load(toml, overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("distrl.results.final_evaluation", lambda run, config: {})
        patched.setattr("distrl.plots.film", lambda *arguments: None)
        return train(small(tmp_path_factory.mktemp("runs") / "hunted", **HUNTED), local=True)


def accounted(summary):
    """Every transition is in one state; env steps are moves, of which a player's last is finished by the other's."""
    states = [summary[f"transitions_{state}"] for state in ("trained", "queued", "evicted")]
    return summary["transitions_produced"] == sum(states) + sum(summary["transitions_rejected"].values())


def records(result, kind):
    return [record for record in read_json_lines(result.directory / "metrics.jsonl") if record["kind"] == kind]


def test_what_opponents_did_is_counted_and_not_trained_on(finished):
    assert accounted(finished.summary)
    frozen = finished.summary["transitions_rejected"]["frozen"]
    logged = [fragment for _, fragment in read_log(finished.directory / "log")]
    assert sum(fragment.num_transitions for fragment in logged) + frozen == finished.summary["transitions_produced"]
    assert {fragment.policy_id for fragment in logged} == {"main", "hunter"}
    episodes = records(finished, "episode")
    assert all(sum(episode["scores"]) == 0 for episode in episodes)
    against = {player for episode in episodes for player in episode["players"]}
    assert {"main", "hunter", "main:000004", "hunter:000004"} <= against
    assert all("main" in episode["players"] or "main:" in str(episode["players"]) for episode in episodes)


def test_matches_decide_who_is_met_and_are_reported(finished):
    payoffs = Payoffs(finished.directory / "league")
    payoffs.read()
    between_others = [episode for episode in records(finished, "episode") if len(set(episode["players"])) == 2]
    assert payoffs.num_matches == len(between_others)
    newest = records(finished, "learner")[-1]
    assert newest["league/matches"] > 0
    assert 0.0 < newest["league/main/win_rate_min"] <= newest["league/main/win_rate_mean"] < 1.0
    assert (finished.directory / "league.png").exists()


def test_the_same_seed_gives_the_same_league_byte_for_byte(tmp_path, finished):
    again = train(small(tmp_path / "again", **HUNTED), local=True)
    for name in ("metrics.jsonl", "league/players.jsonl"):
        assert (again.directory / name).read_bytes() == (finished.directory / name).read_bytes()


def test_snapshots_can_be_loaded_and_the_newest_policies_are_the_best(finished):
    assert 0 <= int(load_policy(finished.directory, "main:000004").act({p: a[0] for p, a in SOME.items()})) < 9
    with pytest.raises(StorageError, match="'main:000005' cannot be read"):
        load_policy(finished.directory, "main:000005")
    evaluations = records(finished, "evaluation")
    assert len(evaluations) > 1
    assert all(evaluation["best"] for evaluation in evaluations)


def test_a_league_goes_on_where_it_was(tmp_path):
    """By PSRO, in which snapshots meet each other too."""
    psro = {"matchmaking": "psro", "meta_solver": "risk_averse", "payoff_share": 0.3, "self_play_share": 0.2}
    first = train(small(tmp_path / "run", "run.steps=800", league=psro), local=True)
    players = [one["version"] for one in read_json_lines(first.directory / "league" / "players.jsonl")]
    before = len(records(first, "episode"))
    again = train(small(tmp_path / "run", "run.steps=1600", league=psro), local=True, resume=first.directory)
    assert accounted(again.summary)
    since = [tuple(episode["players"]) for episode in records(again, "episode")[before + 8 :]]
    oldest = f"default:{players[0]:06d}"
    assert {("default", oldest), (oldest, "default")} <= set(since)
    assert any(one != other and is_snapshot(one) and is_snapshot(other) for one, other in since)
    assert records(again, "learner")[-1]["league/gap"] < 2.0
    later = [one["version"] for one in read_json_lines(again.directory / "league" / "players.jsonl")]
    assert later[: len(players)] == players
    assert (np.diff(later) >= 4).all()


def test_a_side_may_have_several_agents(tmp_path):
    """One hunts two, who are one side with one policy."""
    two = {"hunter": {"agents": ["adversary_*"]}, "prey": {"agents": ["agent_*"]}}
    config = small(
        tmp_path / "run",
        "run.steps=600",
        "league.sides=[['agent_*'], ['adversary_*']]",
        env={"id": "mpe2.simple_adversary_v3", "hosting": "inline"},
        policies=two,
    )
    result = train(config, local=True)
    assert accounted(result.summary)
    agents = {"hunter": {0}, "prey": {1, 2}}
    for _, fragment in read_log(result.directory / "log"):
        assert set(fragment.columns["agent_index"].tolist()) <= agents[fragment.policy_id]
    for episode in records(result, "episode"):
        prey, hunter = episode["players"]
        assert (policy_of(prey), policy_of(hunter)) == ("prey", "hunter")
        learned = [player for player in (prey, hunter) if player in episode["returns"]]
        assert len(learned) == 1, "they take turns in learning"
        assert episode["return"] == pytest.approx(2 * episode["scores"][0] + episode["scores"][1])


def test_an_exploiter_that_had_begun_again_after_the_checkpoint_does_so_again(tmp_path):
    def hunter(directory, config):
        recipe = EnvRecipe(TIC_TAC_TOE)
        learner = build_learner(config, spec_of(make(recipe), recipe), directory, lambda version, weights, policy_id: 0)
        learner.close()
        return learner.trainers["hunter"].policy_weights()

    config = small(tmp_path / "run", "run.steps=800", **HUNTED)
    run = train(config, local=True)
    learned = hunter(run.directory, config)
    with (run.directory / "league" / "players.jsonl").open("a") as file:  # and then it was killed
        file.write(json.dumps({"kind": "reset", "policy_id": "hunter", "version": 1000}) + "\n")
    found = hunter(run.directory, config)
    first = hunter(RunDirectory.create(tmp_path / "new", config).path, config)
    assert all((found[name] == first[name]).all() for name in first)
    assert any((found[name] != learned[name]).any() for name in first)


def specs(*overrides, env=TIC_TAC_TOE, **sections):
    data = {"env": {"id": env}, "algorithm": {"name": "ppo", "batch_size": 4096}, "league": {}, **sections}
    recipe = EnvRecipe(env)
    return policy_specs(RunConfig.validated(data), spec_of(make(recipe), recipe))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"env": "CartPole-v1"}, r"needs an environment of several agents, who meet each other: CartPole-v1"),
        ({"league": {"delt": 1}}, r"unknown key league\.delt; did you mean league\.delta\?"),
        ({"league": {"roles": {"hunter": "main"}}}, r"needs names of policies, default, but hunter came"),
        ({"league": {"sides": [["*"]]}}, r"two sides or more, each with an agent, but league\.sides = \[\['\*'\]\]"),
        ({"league": {"sides": [["player_1"]]}}, r"league\.sides has 0 that name agent 'player_2'"),
        (
            {"policies": {"one": {"agents": ["player_1"]}}},
            r"every agent needs a policy, but no policies\.….agents gives agent 'player_2' none",
        ),
        (
            {
                "env": "mpe2.simple_adversary_v3",
                "policies": {"hunter": {"agents": ["adversary_0"]}, "one": {"agents": ["agent_0"]}, "other": {}},
                "league": {"sides": [["adversary_*"], ["agent_*"]]},
            },
            r"agents of one policy need equal spaces",
        ),
        ({"actors": {"inference": "server"}}, r"serves one policy, and a league has many: use local"),
    ],
)
def test_leagues_that_make_no_sense_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        specs(**sections)
