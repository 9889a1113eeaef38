"""RLlib's environments of several agents, unchanged, through a whole run."""

import os
import subprocess
import sys

import pytest

from distrl.api import load_policies, train
from distrl.core.config import RunConfig
from distrl.envs.light_process import light_environment
from tests.cluster.test_local import balanced

GAME = "ray.rllib.examples.envs.classes.multi_agent.rock_paper_scissors:RockPaperScissors"


def test_two_policies_play_an_example_of_rllibs(tmp_path):
    config = RunConfig(
        env={"id": GAME},  # RLlib gives a class its env_config, here an empty one
        run={"out": str(tmp_path / "run"), "steps": 400, "experience_log": "on"},
        actors={"envs_per_worker": 4, "fragment_steps": 10},
        algorithm={"name": "ppo", "batch_size": 80, "minibatches": 2, "hidden": [8]},
        policies={"one": {"agents": ["player1"]}, "two": {"agents": ["player2"]}},
        evaluation={"episodes": 2, "envs": 1},
    )
    result = train(config, local=True)
    assert balanced(result.summary, agents=2)
    assert result.summary["transitions_trained"] > 600
    assert set(load_policies(result.directory)) == {"one", "two"}


@pytest.mark.slow
def test_importing_rllib_leaves_no_thread_so_that_its_environments_can_be_forked():
    command = "import os, ray.rllib.env.multi_agent_env; print(len(os.listdir('/proc/self/task')))"
    environment = light_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
