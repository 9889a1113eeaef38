"""The shipped sweep, as ``wandb agent`` runs it: its own expansion of the command, its own environment, its own
process. What W&B's server does of a sweep, to suggest parameters, is not here.
"""

import os
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.wandb_agent import Agent

import distrl.tune_configs
from distrl.cluster.checks import algorithm_model
from distrl.core.config import RunConfig
from distrl.core.config_input import presets_directory
from tests.fakes.wandb_recording import config, history, records

SWEEP = yaml.safe_load((Path(distrl.tune_configs.__path__[0]) / "wandb" / "ks.yaml").read_text())
TINY = {
    "env.max_episode_steps": 50,
    "actors.envs_per_worker": 2,
    "algorithm.hidden": [16],
    "algorithm.batch_size": 32,
    "replay.min_size": 100,
    "evaluation.period": 200,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
}


def suggested(which):
    """What the server could suggest: the first or the last value of each parameter."""

    def value(parameter):
        if "value" in parameter:
            return parameter["value"]
        choices = parameter.get("values") or [parameter["min"], parameter["max"]]
        return choices[which]

    return {name: {"value": value(parameter)} for name, parameter in SWEEP["parameters"].items()}


@pytest.mark.parametrize("which", [0, -1])
def test_every_parameter_of_the_sweep_is_a_key_that_the_preset_takes(which):
    words = create_sweep_command_args({"args": suggested(which)})["args_no_hyphens"]
    command = create_sweep_command(list(SWEEP["command"]))
    assert command[1:4] == ["distrl", "train", "ks"]
    found = RunConfig.load("ks", [command[4], *words])
    algorithm_model(found)
    assert found.monitor.sinks == ["wandb"]
    assert found.algorithm.options["gamma"] == (0.95, 0.99)[which]


@pytest.mark.slow
def test_an_agents_run_is_the_sweeps(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in {"MODE": "offline", "SWEEP_ID": "sweep1", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    agent = Agent(None, None, sweep_id="sweep1")
    preset = tmp_path / "ks.toml"  # one process has no limit in seconds
    lines = (presets_directory() / "ks.toml").read_text().splitlines()
    preset.write_text("\n".join(line for line in lines if not line.startswith("wall_limit_s")))
    command = [str(preset) if word == "ks" else word for word in SWEEP["command"]]
    agent._sweep_command = [*command, "--local", "--out", str(tmp_path / "run")]
    arguments = suggested(0) | {name: {"value": value} for name, value in (TINY | {"run.steps": 400}).items()}
    agent._command_run({"run_id": "run1", "program": SWEEP["program"], "args": arguments})
    assert agent._run_processes["run1"].wait(300) == 0
    (recording,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (begin,) = [record.run for record in records(recording) if record.HasField("run")]
    assert (begin.run_id, begin.sweep_id) == ("run1", "sweep1")
    assert config(recording)["algorithm"]["gamma"] == 0.95
    assert config(recording)["algorithm.gamma"] == 0.95, "under the name that the sweep knows"
    assert any(SWEEP["metric"]["name"] in row for row in history(recording)), "what the sweep maximises"
