"""Runs with several agents: the same dataflow, each policy with a stream, a trainer and versions of its own."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from distrl.api import load_policies, load_policy, train
from distrl.cluster.checks import policy_specs
from distrl.cluster.offline import read_data
from distrl.cluster.policies import plan_policies
from distrl.core.config import RunConfig, to_toml
from distrl.core.config_input import apply_override
from distrl.core.episodes import Quality
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.learning_sections import PolicySection
from distrl.core.metrics import read_json_lines
from distrl.core.types import EnvRecipe
from distrl.envs.resolve import make, spec_of
from distrl.experience import open_log
from distrl.export import to_minari, to_parquet
from distrl.mixes import mix
from tests.cluster.test_local import balanced

ADVERSARY = "mpe2.simple_adversary_v3"  # adversary_0 sees 8 numbers, agent_0 and agent_1 see 10
TWO = ["policies.hunter.agents=['adversary_*']", "policies.prey.agents=['agent_*']"]


def small(out, *overrides, env=ADVERSARY):
    settings = {
        "run": {"out": str(out), "steps": 1500, "experience_log": "on"},
        "env": {"id": env, "hosting": "inline"},
        "actors": {"env_workers": 2, "envs_per_worker": 4, "fragment_steps": 10},
        "algorithm": {"name": "ppo", "batch_size": 160, "hidden": [16], "minibatches": 2},
        "evaluation": {"period": 1000, "episodes": 2, "final_episodes": 2},
        "checkpoint": {"period": 3},
    }
    toml = out.parent / f"{out.name}.toml"
    toml.write_text(to_toml(RunConfig.validated(settings)))
    return RunConfig.load(toml, overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(small(tmp_path_factory.mktemp("runs") / "two", *TWO), local=True)


def test_every_agents_transition_is_trained_on_by_its_own_policy(finished):
    summary = finished.summary
    assert balanced(summary, agents=3)
    seen = {"hunter": (set(), 8), "prey": (set(), 10)}
    for _, fragment in read_log(finished.directory / "log"):
        agents, size = seen[fragment.policy_id]
        agents.update(fragment.columns["agent_index"].tolist())
        assert fragment.columns["observation/array"].shape[2:] == (size,)
    assert [agents for agents, _ in seen.values()] == [{0}, {1, 2}]


def test_what_is_reported_says_whose_it_is(finished):
    records = list(read_json_lines(finished.directory / "metrics.jsonl"))
    *_, learner = (record for record in records if record["kind"] == "learner")
    assert {"hunter/entropy", "prey/entropy"} <= set(learner)
    episode = next(record for record in records if record["kind"] == "episode")
    assert episode["length"] == 25
    hunter, prey = episode["returns"]["hunter"], episode["returns"]["prey"]
    assert episode["return"] == pytest.approx(hunter + 2 * prey)  # the mean of a policy's agents; there are two of prey
    by_policy = {name: dict(one["staleness_counts"]) for name, one in finished.summary["staleness_by_policy"].items()}
    assert sum(by_policy["prey"].values()) == 2 * sum(by_policy["hunter"].values()) > 0
    together = Counter(by_policy["hunter"]) + Counter(by_policy["prey"])
    assert sorted(together.items()) == [tuple(bin) for bin in finished.summary["staleness_counts"]]


def test_each_policy_of_a_run_can_be_loaded_and_acts_for_one_agent(finished):
    assert set(load_policies(finished.directory)) == {"hunter", "prey"}
    assert 0 <= int(load_policy(finished.directory, "prey").act(np.zeros(10, np.float32))) < 5
    with pytest.raises(ConfigError, match=r"has the policies hunter, prey, but none was named"):
        load_policy(finished.directory)


def test_the_same_seed_gives_the_same_metrics_byte_for_byte(tmp_path, finished):
    again = train(small(tmp_path / "again", *TWO), local=True)
    first, second = ((run.directory / "metrics.jsonl").read_bytes() for run in (finished, again))
    assert first == second


def test_a_run_continues_with_all_its_policies(tmp_path):
    run = train(small(tmp_path / "run", *TWO, "run.steps=600"), local=True)
    again = train(small(tmp_path / "run", *TWO, "run.steps=1200"), local=True, resume=run.directory)
    assert balanced(again.summary, agents=3)
    assert again.summary["env_steps"] >= 1200
    others = ["policies.first.agents=['adversary_*']", "policies.second.agents=['agent_*']", "run.steps=1400"]
    with pytest.raises(StorageError, match=r"trained the policies hunter, prey, but the configuration has first, sec"):
        train(small(tmp_path / "run", *others), local=True, resume=run.directory)


def test_a_frozen_policy_acts_and_does_not_learn(tmp_path, finished):
    hunter = f"policies.hunter.frozen='{finished.directory}:hunter'"
    result = train(small(tmp_path / "run", *TWO, hunter, "run.steps=600"), local=True)
    summary = result.summary
    assert balanced(summary, agents=3)
    assert summary["transitions_rejected"] == {"frozen": summary["env_steps"]}
    assert {fragment.policy_id for _, fragment in read_log(result.directory / "log")} == {"prey"}
    before, after = (load_policies(run.directory)["hunter"] for run in (finished, result))
    seen = {"array": np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)}
    actions = [policy.step(seen, {}, np.ones(64, bool))[0] for policy in (before, after)]
    assert (actions[0] == actions[1]).all()


def test_the_log_of_several_policies_is_exported_with_agent_ids(tmp_path, finished):
    log = open_log(finished.directory)
    assert [agent.name for agent in log.facts.agents] == ["adversary_0", "agent_0", "agent_1"]
    written = to_parquet(log, tmp_path / "log.parquet")
    tables = {path.name: pq.read_table(path).to_pydict() for path in written.paths}
    assert set(tables) == {"log-hunter.parquet", "log-prey.parquet"}
    hunter, prey = (tables[f"log-{policy}.parquet"] for policy in ("hunter", "prey"))
    assert (set(hunter["agent_index"]), set(prey["agent_index"])) == ({0}, {1, 2})
    assert len(prey["reward"]) == 2 * len(hunter["reward"])
    assert set(hunter["episode_uid"]) == set(prey["episode_uid"])


def test_minari_has_a_dataset_for_each_policy_with_its_agents_episodes(tmp_path, finished, monkeypatch):
    minari = pytest.importorskip("minari")
    few = mix([finished.directory], Quality.REPLAY, 3, tmp_path / "few")
    assert (few.num_episodes, few.num_transitions, few.coverage) == (3, 3 * 3 * 25, 1.0)
    log = open_log(few.path)
    written = to_minari(log, tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    names = [f"distrl/mpe2-simple_adversary_v3-{log.facts.run_id}-{policy}-v0" for policy in ("hunter", "prey")]
    assert sorted(str(path.relative_to(tmp_path)) for path in written.paths) == names
    hunter, prey = (minari.load_dataset(name) for name in names)
    assert (hunter.observation_space.shape, prey.observation_space.shape) == ((8,), (10,))
    assert prey.total_steps == 2 * hunter.total_steps
    agents = {int(episode.infos["agent_index"][0]) for episode in prey.iterate_episodes()}
    assert agents == {1, 2}
    with pytest.raises(ConfigError, match="exists already"):
        to_minari(log, tmp_path)


def test_offline_an_agents_data_goes_to_the_policy_that_acts_for_it(tmp_path, finished):
    """The log has what "hunter" and "prey" did; here each of the three agents has a policy of its own, one of them
    frozen."""
    names = ("adversary_0", "agent_0", "agent_1")
    settings = {
        "run": {"out": str(tmp_path / "run")},
        "env": {"id": ADVERSARY},
        "policies": {name: {"agents": [name]} for name in names},
        "algorithm": {"name": "bc", "hidden": [16], "batch_size": 32},
        "offline": {"data": [str(finished.directory)], "updates": 20},
        "evaluation": {"period": 20, "episodes": 2, "final_episodes": 2},
    }
    config = RunConfig.validated(settings)
    spec = spec_of(make(config.env.recipe()), config.env.recipe())
    steps = finished.summary["env_steps"]
    assert read_data(config, spec, None).transitions == dict.fromkeys(names, steps)
    config.policies["agent_1"] = PolicySection(agents=["agent_1"], frozen=f"{finished.directory}:prey")
    result = train(config)
    assert (result.summary["updates"], result.summary["transitions_warm"]) == (2 * 20, 2 * steps)
    assert set(load_policies(result.directory)) == set(names)
    *_, learner = (r for r in read_json_lines(result.directory / "metrics.jsonl") if r["kind"] == "learner")
    assert {name for name in learner if name.endswith("/loss")} == {"adversary_0/loss", "agent_0/loss"}


def plans(*overrides, env=ADVERSARY):
    data = {
        "env": {"id": env},
        "algorithm": {"name": "ppo", "batch_size": 128},
        "actors": {"env_workers": 1, "envs_per_worker": 1, "fragment_steps": 64},
    }
    for override in overrides:
        apply_override(data, override)
    recipe = EnvRecipe(env)
    return RunConfig.validated(data), spec_of(make(recipe), recipe)


def test_policies_have_the_algorithm_of_the_run_but_for_what_is_their_own():
    config, spec = plans(*TWO, "policies.prey.algorithm.learning_rate=0.01")
    hunter, prey = plan_policies(config, spec)
    assert (hunter.agents, prey.agents) == ((0,), (1, 2))
    assert hunter.config.algorithm.options == {"batch_size": 128}
    assert prey.config.algorithm.options == {"batch_size": 128, "learning_rate": 0.01}
    assert (hunter.spec.observation_space.shape, prey.spec.observation_space.shape) == ((8,), (10,))


def by_first_letter(agent):
    return "hunter" if agent[:2] == "ad" else "prey"


@pytest.mark.parametrize("option", ["memory_size=8", "switching_cost=0.1"])
def test_agents_of_one_policy_that_know_who_they_are_need_not_do_the_same(tmp_path, option):
    """Three agents see the same, and each has to do something else: at most one of them would be right without."""
    config = small(
        tmp_path / "run",
        "env.agents={identity=true, state='joint'}",
        "algorithm.learning_rate=1e-2",
        "algorithm.batch_size=240",
        "algorithm.central_critic=true",
        f"algorithm.{option}",
        "run.experience_log='off'",
        "run.steps=1000",
        env="tests.fakes.teams:Roles",
    )
    result = train(config, local=True)
    assert result.summary["best_return_mean"] == 3.0
    *_, learner = (
        record for record in read_json_lines(result.directory / "metrics.jsonl") if record["kind"] == "learner"
    )
    assert (learner.get("centralised_share", 1.0) < 0.5) == option.startswith("switching")
    recipe = config.env.recipe()
    kwargs = policy_specs(config, spec_of(make(recipe), recipe))["default"].kwargs
    actor = kwargs["network"] if "network" in kwargs else kwargs["own"]["network"]
    assert list(actor["inputs"]) == ["agent", "observation"]  # the critic sees the state as well


SPREAD = {"id": "mpe2.simple_spread_v3", "hosting": "inline", "kwargs": {"continuous_actions": True}}
JETS = {"id": "distrl/ShkadovAgents-v0", "hosting": "inline", "max_episode_steps": 20}


@pytest.mark.parametrize(
    ("env", "name", "rows"),
    [
        pytest.param(SPREAD | {"agents": {"identity": True}}, "sac", 3, id="isac"),
        pytest.param(SPREAD | {"agents": {"team": True, "state": "env"}}, "masac", 1, id="masac"),
        pytest.param(JETS, "sac", 5, marks=pytest.mark.slow, id="isac of jets"),
        pytest.param(JETS | {"agents": {"team": True}}, "masac", 1, marks=pytest.mark.slow, id="masac of jets"),
    ],
)
def test_continuous_actions_of_each_agent_or_of_the_team(tmp_path, env, name, rows):
    config = RunConfig.validated(
        {
            "run": {"out": str(tmp_path / "run"), "steps": 240},
            "env": env,
            "actors": {"envs_per_worker": 4, "fragment_steps": 10},
            "algorithm": {"name": name, "hidden": [16], "batch_size": 32},
            "replay": {"min_size": 100, "samples_per_insert": 8},
            "evaluation": {"period": 120, "episodes": 2, "final_episodes": 1},
        }
    )
    summary = train(config, local=True).summary
    assert balanced(summary, agents=rows)
    assert summary["updates"] > 20
    assert np.isfinite(summary["best_return_mean"])


def test_a_function_may_say_whose_policy_is_whose():
    mapping = "env.agents.policy_mapping=tests.cluster.test_multi_agent:by_first_letter"
    config, spec = plans("policies.prey={}", "policies.hunter={}", mapping)
    assert {plan.policy_id: plan.agents for plan in plan_policies(config, spec)} == {"prey": (1, 2), "hunter": (0,)}


@pytest.mark.parametrize(
    ("overrides", "env", "sentence"),
    [
        ((), ADVERSARY, r"equal spaces, but under 'default' 'adversary_0' has .* and 'agent_0' has"),
        (TWO[:1], ADVERSARY, r"every agent needs a policy, but no policies.….agents gives agent 'agent_0' none"),
        ([*TWO, "policies.z.agents=['x*']"], ADVERSARY, r"policy 'z' acts for no agent of mpe2.*adversary_0, agent_0"),
        (TWO, "CartPole-v1", r"\[policies.hunter\] needs an environment of several agents, but CartPole-v1 has one"),
        (
            ["env.agents.policy_mapping=nowhere:f"],
            ADVERSARY,
            r"policy_mapping must name a function .* 'nowhere:f' came",
        ),
        ([*TWO, "policies.prey.algorithm={name='sac'}"], ADVERSARY, r"of one kind, but that of 'hunter' is on-policy"),
        ([*TWO, "policies.prey.frozen='{run}'"], ADVERSARY, r"prey.frozen must name one of the policies hunter, prey"),
        ([*TWO, "policies.prey.frozen='{run}:fox'"], ADVERSARY, r"there is no policy 'fox' here, but hunter, prey"),
        ([*TWO, "policies.prey.frozen='{run}:hunter'"], ADVERSARY, r"needs its agents' spaces, .* trained for others"),
        (["policies.p.frozen='{run}:prey'"], "mpe2.simple_spread_v3", r"needs a policy that learns, but all"),
        ([*TWO, "actors.envs_per_worker=2"], ADVERSARY, r"'prey' acts for 2 agents .* at least 256, one fragment"),
        ([*TWO, "actors.inference=server"], ADVERSARY, r"serves one policy, but the run has hunter, prey"),
    ],
)
def test_what_cannot_work_is_refused_naming_the_agent(overrides, env, sentence, finished):
    config, spec = plans(*(override.replace("{run}", str(finished.directory)) for override in overrides), env=env)
    with pytest.raises(ConfigError, match=sentence):
        policy_specs(config, spec)
