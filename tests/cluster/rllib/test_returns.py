"""CartPole-v1 solved across the bridge, both ways; minutes each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def output(folder, *command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_module_of_rllibs_learns_under_our_ppo(tmp_path):
    said = output(tmp_path, ROOT / "examples" / "rllib_module.py")
    (returned,) = re.findall(r"^(\d+) on held-out seeds", said, re.MULTILINE)
    assert int(returned) >= 475


@pytest.mark.slow
def test_rllibs_ppo_learns_while_an_environment_process_is_killed_every_10_s(tmp_path):
    found = json.loads(output(tmp_path, ROOT / "benchmarks" / "rllib_bridge.py").splitlines()[-1])
    assert found["return_mean"] >= 475
    assert found["seconds_to_target"] is not None
    assert found["kills"] - 1 <= found["faults"] <= found["kills"]  # the last may come when all is over
    assert found["kills"] >= 1
