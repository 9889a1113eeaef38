"""simple_spread for many rows at once is mpe2's, number by number."""

import numpy as np
import pytest
from mpe2 import simple_spread_v3

from distrl.actors.env_worker import build_env_worker
from distrl.actors.process_pool import ProcessPool
from distrl.actors.vector_pool import VectorPool
from distrl.core.errors import ConfigError
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.describe import try_environment
from distrl.envs.multi_agent.simple_spread import SimpleSpread
from distrl.envs.resolve import make
from tests.actors.test_agent_rows import Numbering, OneVersion, PolicyPart
from tests.actors.test_fragment_builder import Recorded

ID = "distrl/SimpleSpread-v0"


@pytest.mark.parametrize(("number", "local_ratio"), [(3, 0.5), (2, 0.0), (5, 1.0)])
def test_every_observation_and_reward_is_that_of_mpe2(number, local_ratio):
    ours = SimpleSpread(3, N=number, local_ratio=local_ratio, max_cycles=40)
    theirs = [simple_spread_v3.parallel_env(N=number, local_ratio=local_ratio, max_cycles=40) for _ in range(3)]
    observation, _ = ours.reset(seed=7)
    seen = [env.reset(seed=7 + k)[0] for k, env in enumerate(theirs)]
    rng = np.random.default_rng(0)
    touched = 0
    for step in range(40):
        for row, its in enumerate(seen):
            stacked = np.stack([its[f"agent_{k}"] for k in range(number)])
            assert np.allclose(observation["0"]["array"][row], stacked, rtol=1e-6, atol=1e-6), (step, row)
        # towards each other, so that they touch
        towards = np.where(observation["0"]["array"][:, :, 2] > 0, 1, 2)
        actions = np.where(rng.random((3, number)) < 0.5, towards, rng.integers(5, size=(3, number)))
        observation, reward, terminated, truncated, _ = ours.step(actions.astype(np.float64))
        for row, env in enumerate(theirs):
            seen[row], rewards, _, cut, _ = env.step({f"agent_{k}": int(actions[row, k]) for k in range(number)})
            assert np.allclose(observation["reward"][row], [rewards[f"agent_{k}"] for k in range(number)], atol=1e-5)
            assert reward[row] == pytest.approx(sum(rewards.values()), abs=1e-5)
            assert set(cut.values()) == {bool(truncated[row])}
            touched += local_ratio == 1.0 and reward[row] < 0
    assert truncated.all()
    assert not terminated.any()
    assert touched or local_ratio < 1.0


def test_rows_end_and_begin_as_the_pool_asks():
    pool, sink = VectorPool(EnvRecipe(ID, {"max_cycles": 4}), 5, TrainingSeeds(0)), Recorded()
    part = PolicyPart(Numbering(pool.spec.agents[0].action_space), OneVersion(), (0, 1, 2))
    worker = build_env_worker(pool, {"default": part}, sink, fragment_steps=8, fragment_max_age_s=None)
    worker.pull()
    while pool.stats().produced < 5 * 17:
        worker.run_once(0.0)
    episodes = worker.report()["episodes"]
    assert {episode["length"] for episode in episodes} == {4}
    assert len(episodes) == 5 * 4
    columns = sink.fragments[0].columns
    assert columns["reward"].shape == (8, 15)
    assert columns["truncated"].sum(0).tolist() == [2] * 15
    assert columns["step"][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert pool.stats().transitions == 3 * pool.stats().produced
    returns = {episode["env_index"]: episode["return"] for episode in episodes[:5]}
    assert returns == pytest.approx({env: columns["reward"][:4, 3 * env : 3 * env + 3].sum() for env in range(5)})
    worker.close()


def test_it_can_be_tried_and_says_what_is_wrong():
    trial = try_environment(EnvRecipe(ID))
    assert [agent.name for agent in trial.spec.agents] == ["agent_0", "agent_1", "agent_2"]
    with pytest.raises(ConfigError, match=r"local_ratio must be in 0 … 1; got 2"):
        SimpleSpread(1, local_ratio=2)


def test_one_row_of_it_in_a_process_counts_every_agents_step(tmp_path):
    pool = ProcessPool(EnvRecipe(ID, {"max_cycles": 3}), 1, TrainingSeeds(0), scratch_dir=str(tmp_path))
    while pool.stats().produced < 7:
        _, requests, faults = pool.recv(1.0)
        assert not faults
        pool.send(np.zeros((len(requests.rows), 3)), requests.rows)
    pool.halt()
    assert pool.stats().transitions == 3 * pool.stats().produced
    pool.close()


def test_the_state_is_what_all_agents_see():
    env = SimpleSpread(2, state=True)
    group = env.reset(seed=0)[0]["0"]
    assert group["state"].shape == (2, 3, 54)
    assert (group["state"][:, 1] == group["observation"].reshape(2, 54)).all()
    recipe = EnvRecipe(ID, agents={"state": "joint"})
    with pytest.raises(ConfigError, match=r"SimpleSpread-v0 steps many rows at once, in its own form; leave it out"):
        make(recipe)
