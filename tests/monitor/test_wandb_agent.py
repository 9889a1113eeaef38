"""The shipped sweep, as ``wandb sweep`` sends it, ``wandb agent`` runs it and W&B's own controller suggests for it."""

import json
import os
import subprocess
import sys
import time
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
CONTROLLER = Path(__file__).parents[2] / ".venv-controller" / "bin" / "wandb"
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


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """The shipped sweep over runs of half a minute, in a folder and an environment where ``wandb`` finds it."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    preset = tmp_path / "ks.toml"  # one process has no limit in seconds
    lines = (presets_directory() / "ks.toml").read_text().splitlines()
    preset.write_text("\n".join(line for line in lines if not line.startswith("wall_limit_s")))
    command = [str(preset) if word == "ks" else word for word in SWEEP["command"]]
    command += ["--local"]
    file = tmp_path / "ks.yaml"
    fixed = {name: {"value": value} for name, value in (TINY | {"run.steps": 400}).items()}
    file.write_text(yaml.safe_dump(SWEEP | {"command": command, "parameters": SWEEP["parameters"] | fixed}))
    return file


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as server:
        key = "0123456789abcdef" * 2 + "01234567"
        for name, value in {"BASE_URL": server.url, "API_KEY": key, "ERROR_REPORTING": "false"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield server


@pytest.mark.slow
def test_an_agents_run_is_the_sweeps(sweep_file, server):
    """``wandb sweep`` and ``wandb agent``, against a server that suggests one run."""
    subprocess.run(["wandb", "sweep", "ks.yaml"], check=True, timeout=120)
    assert yaml.safe_load(server.sweep)["parameters"].keys() == SWEEP["parameters"].keys() | TINY.keys()
    server.suggestions["run1"] = suggested(0) | TINY | {"run.steps": 400}
    subprocess.run(["wandb", "agent", "me/distrl/sweep1"], check=True, timeout=300)
    assert {run["name"] for run in server.upserts} == {"run1"}
    assert server.upserts[0]["sweep"] == "sweep1"
    assert server.exits["run1"] == [0]
    assert any(SWEEP["metric"]["name"] in row for row in server.rows("run1")), "what the sweep maximises"
    configs = [json.loads(run["config"]) for run in server.upserts if run["config"]]
    assert configs[-1]["algorithm"]["value"]["gamma"] == 0.95
    assert configs[-1]["algorithm.gamma"]["value"] == 0.95, "under the name that the sweep knows"


@pytest.mark.slow
@pytest.mark.skipif(not CONTROLLER.exists(), reason="the controller needs an older NumPy than ours: make controller")
def test_wandbs_own_controller_is_driven_by_what_our_runs_have_reached(sweep_file, server):
    """``wandb sweep --controller``, which suggests, and ``wandb agent``, which runs distrl: three runs, the third of
    which Bayesian optimisation draws once the first has ended."""
    server.max_suggestions = 3
    words = [str(CONTROLLER), "sweep", "--controller", "--verbose", "ks.yaml"]
    controller = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not server.suggestions:
            assert controller.poll() is None, controller.stdout.read()
            time.sleep(0.1)
        subprocess.run(["wandb", "agent", "me/distrl/sweep1"], check=True, timeout=500)
        said, _ = controller.communicate(timeout=60)
    finally:
        controller.kill()
    assert controller.returncode == 0, said
    assert server.exits == {"run1": [0], "run2": [0], "run3": [0]}
    assert "Runs: 3 (Running: 1, Finished: 2)" in said, "what it was told of them, until the sweep was over"
    rates = {values["algorithm.actor_learning_rate"] for values in server.suggested.values()}
    assert len(rates) == 3
    assert all(1e-4 <= rate <= 3e-3 for rate in rates)
    for run_id, values in server.suggested.items():
        (config,) = [json.loads(run["config"]) for run in server.upserts if run["name"] == run_id and run["config"]][
            -1:
        ]
        assert config["algorithm"]["value"]["gamma"] == values["algorithm.gamma"]
