"""Environments of several agents, hosted as any: each agent's transitions are its own, whoever acts when."""

import numpy as np
import pytest

from distrl.actors.env_worker import PolicyPart, build_env_worker
from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.spaces import action_leaf
from distrl.core.types import FINAL, OBSERVATION, EnvRecipe
from tests.actors.test_fragment_builder import Recorded
from tests.fakes.script_of_agents import Script

LIVES = {
    "together": {},
    "in turns": {"walker-0": (0, 9, 2), "walker-1": (1, 9, 2), "swimmer-0": (0, 9, 3), "swimmer-1": (2, 9, 5)},
    "come and go": {"walker-0": (0, 3, 1), "walker-1": (2, 5, 1), "swimmer-0": (4, 4, 1), "swimmer-1": (3, 20, 1)},
}
WALKERS_APART = {"first": (0,), "second": (1,), "swimmers": (2, 3)}
BY_KIND = {"swimmers": (3, 2), "walkers": (0, 1)}


class Numbering:
    """A policy whose actions are a function of what it sees; its state counts the steps of the agent's episode."""

    ready = True

    def __init__(self, space):
        self.leaf = action_leaf(space)

    def load(self, weights):
        pass

    def initial_state(self, num_rows):
        return {"steps": np.zeros((num_rows, 1), np.int64)}

    def step(self, observation, state, is_first):
        (seen,) = observation.values()
        number = seen[:, 0] % 3
        action = number.astype(self.leaf.dtype) if not self.leaf.shape else np.stack([number, -number], 1) / 3
        return action.astype(self.leaf.dtype), number.astype(np.float32), {"steps": state["steps"] + 1}

    def env_action(self, action):
        return action


class OneVersion:
    def pull_if_newer(self, version, wait_s=0.0):
        return None if version >= 0 else (0, {})


def worker_of(pool, policies, sink, **options):
    parts = {
        name: PolicyPart(Numbering(pool.spec.agents[agents[0]].action_space), OneVersion(), agents)
        for name, agents in policies.items()
    }
    worker = build_env_worker(pool, parts, sink, **{"fragment_steps": 5, "fragment_max_age_s": None, **options})
    worker.pull()
    return worker


def pool_of(hosting, tmp_path, num_envs=3, **kwargs):
    recipe, seeds = EnvRecipe("tests.fakes.script_of_agents:joint_script", kwargs), TrainingSeeds(0)
    if hosting == "inline":
        return InlinePool(recipe, num_envs, seeds)
    return ProcessPool(recipe, num_envs, seeds, scratch_dir=str(tmp_path), step_timeout_s=20.0)


def expected(life, length, agent):
    """(step, first number seen in episode 0, reward, terminated, truncated, first number seen next) of an agent's
    transitions."""
    first, last, period = life[Script.agents[agent]]
    acts = list(range(first, min(last, length - 1) + 1, period))
    ends = min(last + 1, length)
    found = []
    for step, t in enumerate(acts):
        until = acts[step + 1] if step + 1 < len(acts) else ends
        over = step + 1 == len(acts)
        reward = sum(agent + s / 8 for s in range(t, until))
        found.append(
            (step, 100 * agent + t, reward, over and last < length, over and last >= length, 100 * agent + until)
        )
    return found


@pytest.mark.parametrize("policies", [WALKERS_APART, BY_KIND], ids=["three policies", "two policies"])
@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("hosting", ["inline", "process"])
def test_every_agents_transitions_are_whole_and_its_own(tmp_path, hosting, life, policies):
    length = 8
    pool, sink = pool_of(hosting, tmp_path, life=LIVES[life], length=length), Recorded()
    worker = worker_of(pool, policies, sink)
    while worker.run_once(1.0) >= 0 and pool.stats().produced < 60:
        pass
    worker.finish(grace_s=5.0)
    stats, script = pool.stats(), Script(LIVES[life], length)
    found = {}
    for fragment in sink.fragments:
        c = fragment.columns
        prefix = "depth" if "swimmers" in fragment.policy_id else "array"
        finals = {(t, b): k for k, (t, b) in enumerate(c["final_index"].tolist())}
        for t, b in np.ndindex(c["reward"].shape):
            agent = int(c["agent_index"][b])
            assert agent in policies[fragment.policy_id]
            seen = float(c[OBSERVATION + prefix][t, b, 0])
            k = finals.get((t, b))
            following = c[OBSERVATION + prefix][t + 1, b, 0] if k is None else c[FINAL + prefix][k, 0]
            episode = seen // 1000
            key = (int(c["env_index"][b]), int(c["episode_uid"][t, b]), agent)
            entry = (
                int(c["step"][t, b]), seen - 1000 * episode, float(c["reward"][t, b]), bool(c["terminated"][t, b]),
                bool(c["truncated"][t, b]), float(following) - 1000 * episode,
            )  # fmt: skip
            found.setdefault(key, []).append(entry)
            assert c["log_prob"][t, b] == seen % 3
            assert c["state/steps"][t, b, 0] == c["step"][t, b]
            assert c["end_s"][t, b] >= c["start_s"][t, b] > 1e9
    whole = 0
    for (_, _, agent), entries in found.items():
        wanted = expected(script.life, length, agent)
        assert sorted(entries) == wanted[: len(entries)]
        whole += len(entries) == len(wanted)
    assert whole > 4 * 3
    assert sum(map(len, found.values())) == stats.transitions
    core_s = sum(fragment.columns["core_s"].sum() for fragment in sink.fragments)
    assert core_s <= stats.core_s * 1.001 + 1e-3
    assert worker.report()["faults"] == []
    worker.close()


def test_an_episode_of_the_environment_is_one_record_with_each_policys_mean_return():
    pool, sink = pool_of("inline", None, life=LIVES["come and go"], length=8), Recorded()
    worker = worker_of(pool, BY_KIND, sink)
    for _ in range(9):
        worker.run_once(0.0)
    first, *_ = worker.report()["episodes"]
    totals = [sum(entry[2] for entry in expected(Script(LIVES["come and go"]).life, 8, agent)) for agent in range(4)]
    assert first["return"] == pytest.approx(sum(totals))
    assert first["returns"] == pytest.approx({"walkers": np.mean(totals[:2]), "swimmers": np.mean(totals[2:])})
    assert (first["length"], first["info"]) == (8, {"t": 8})
    worker.close()


def test_a_failure_of_the_environment_cuts_the_episodes_of_those_who_were_in_it():
    pool, sink = pool_of("inline", None, life=LIVES["come and go"], length=8, fail_at=3), Recorded()
    worker = worker_of(pool, BY_KIND, sink)
    for _ in range(12):
        worker.run_once(0.0)
    worker.finish()
    cut = {}
    for fragment in sink.fragments:
        c = fragment.columns
        for t, b in np.argwhere(c["truncated"]):
            cut.setdefault(int(c["agent_index"][b]), set()).add(int(c["step"][t, b]))
    # walker-0 and walker-1 had finished three steps and one when the fourth failed; swimmer-1 was in its first
    assert cut == {0: {2}, 1: {0}}
    faults = worker.report()["faults"]
    assert {fault["fault"] for fault in faults} == {"error"}
    assert len({fault["row"] for fault in faults}) == 3
    worker.close()
