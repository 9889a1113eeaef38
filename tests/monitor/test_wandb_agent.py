"""The shipped sweep, as ``wandb sweep`` sends it and ``wandb agent`` runs it. What W&B's server does of a sweep, to
suggest parameters, is not here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import distrl.tune_configs
from distrl.cluster.checks import algorithm_model
from distrl.core.config import RunConfig
from distrl.core.config_input import presets_directory
from tests.fakes.wandb_server import WandbServer

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

    return {name: value(parameter) for name, parameter in SWEEP["parameters"].items()}


@pytest.mark.parametrize("which", [0, -1])
def test_every_parameter_of_the_sweep_is_a_key_that_the_preset_takes(which):
    arguments = {name: {"value": value} for name, value in suggested(which).items()}
    words = create_sweep_command_args({"args": arguments})["args_no_hyphens"]
    command = create_sweep_command(list(SWEEP["command"]))
    assert command[1:4] == ["distrl", "train", "ks"]
    found = RunConfig.load("ks", [command[4], *words])
    algorithm_model(found)
    assert found.monitor.sinks == ["wandb"]
    assert found.algorithm.options["gamma"] == (0.95, 0.99)[which]


@pytest.mark.slow
def test_an_agents_run_is_the_sweeps(tmp_path, monkeypatch):
    """``wandb sweep`` and ``wandb agent``, against a server that suggests one run."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    preset = tmp_path / "ks.toml"  # one process has no limit in seconds
    lines = (presets_directory() / "ks.toml").read_text().splitlines()
    preset.write_text("\n".join(line for line in lines if not line.startswith("wall_limit_s")))
    command = [str(preset) if word == "ks" else word for word in SWEEP["command"]]
    command += ["--local", "--out", str(tmp_path / "run")]
    (tmp_path / "ks.yaml").write_text(yaml.safe_dump(SWEEP | {"command": command}))
    with WandbServer() as server:
        key = "0123456789abcdef" * 2 + "01234567"
        for name, value in {"BASE_URL": server.url, "API_KEY": key, "ERROR_REPORTING": "false"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        subprocess.run(["wandb", "sweep", "ks.yaml"], check=True, timeout=120)
        assert yaml.safe_load(server.sweep)["parameters"].keys() == SWEEP["parameters"].keys()
        server.suggestions["run1"] = suggested(0) | TINY | {"run.steps": 400}
        subprocess.run(["wandb", "agent", "me/distrl/sweep1"], check=True, timeout=300)
        assert {run["name"] for run in server.upserts} == {"run1"}
        assert server.upserts[0]["sweep"] == "sweep1"
        assert server.exits["run1"] == [0]
        assert any(SWEEP["metric"]["name"] in row for row in server.rows("run1")), "what the sweep maximises"
    configs = [json.loads(run["config"]) for run in server.upserts if run["config"]]
    assert configs[-1]["algorithm"]["value"]["gamma"] == 0.95
    assert configs[-1]["algorithm.gamma"]["value"] == 0.95, "under the name that the sweep knows"
