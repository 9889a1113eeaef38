"""The ``distrl`` command as a stranger uses it: wrong input, a run from end to end, and signals to a run on Ray."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distrl import cli
from distrl.core.experience_log import read_log
from tests.fakes.processes import alive, descendants, wait_until

DISTRL = Path(sys.executable).with_name("distrl")

#: Helpers of Ray that tell a control store which is no longer there about a lost raylet for a minute before they end.
RAY_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}

TINY = {
    "env.max_episode_steps": 50,
    "actors.envs_per_worker": 2,
    "actors.fragment_steps": 10,
    "algorithm.hidden": [16],
    "algorithm.batch_size": 32,
    "replay.min_size": 100,
    "replay.samples_per_insert": 16,
    "evaluation.period": 200,
    "evaluation.episodes": 2,
    "evaluation.final_episodes": 2,
    "checkpoint.period": 20,
}
SLOW = TINY | {"env.delay.kind": '"lognormal"', "env.delay.median_s": 0.005, "env.delay.sigma": 1.0}


def sets(values):
    """The command-line form of overrides."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command in this process, in an empty folder: (exit code, standard output, standard error)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.console, "_width", 200)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["distrl", *map(str, arguments)])
        try:
            code = cli.main() or 0
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        return code, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


WRONG = {
    "a preset that is not there": ("train sacc", "no preset 'sacc'; did you mean 'sac'"),
    "no preset": ("train", "name a preset or a TOML file"),
    "a file that is not there": ("train missing.toml", "missing.toml cannot be read: No such file"),
    "a file that is not TOML": ("train broken.toml", "broken.toml is not valid TOML"),
    "an unknown key": ("train sac --set run.stepz=3", "unknown key run.stepz; did you mean run.steps?"),
    "an unknown section": ("train sac --set runs.steps=3", "unknown key runs"),
    "an unknown option of the algorithm": ("train sac --set algorithm.hiden=[8]", "did you mean algorithm.hidden?"),
    "a value of the wrong type": ("train sac --set run.steps=many", "run.steps = 'many'"),
    "a value out of bounds": ("train sac --steps 0", "run.steps = 0: input should be greater than or equal to 1"),
    "an algorithm's value out of bounds": ("train sac --set algorithm.gamma=2", "algorithm.gamma = 2"),
    "an unknown algorithm": ("train sac --set algorithm.name=sax", "did you mean 'sac'?"),
    "an override without a value": ("train sac --set run.steps", "has the form key.path=value"),
    "a key below a value": ("train sac --set run.steps.more=3", "steps is a value, not a table"),
    "a number that is none": ("train sac --env-workers two", "valid integer"),
    "an unknown option": ("train sac --stpes 3", "No such option"),
    "an unknown command": ("trian", "No such command"),
    "a resume of what is no run": ("train --resume .", "is not a run directory: it has no run.json"),
    "a preset and a resume": ("train sac --resume .", "leave out the preset"),
    "a replay that learning would never start from": (
        "train sac --set replay.min_size=9 --set replay.capacity=8",
        "must not exceed",
    ),
    "words that are no keys": ("train sac run.stepz=3", "unknown key run.stepz; did you mean run.steps?"),
    "words without a value": ("train sac steps", "has the form key.path=value"),
    "a sink that there is not": ("train sac --set monitor.sinks=['graphite']", "should be 'tensorboard', 'wandb' or"),
    "gauges without Ray": ("train sac --local monitor.sinks=['prometheus']", "leave it out of monitor.sinks"),
    "a look at what is no run": ("watch nowhere", "nowhere is not a run directory"),
    "an evaluation of what is no run": ("evaluate nowhere", "nowhere is not a run directory"),
    "an evaluation of nothing": ("evaluate", "Missing argument"),
    "no episodes": ("evaluate . --episodes 0", "greater than or equal to 1"),
    "an unknown environment": ("train sac --local --set env.id=Pendulum-v9", "Nearest known id: Pendulum-v1"),
    "a module that is not there": ("train sac --local --set env.id=nowhere.at_all:Env", "there is no module 'nowhere'"),
    "a class that is not there": (
        "train sac --local --set env.id=tests.fakes.environments:Misbehavin",
        "nearest there: 'Misbehaving'",
    ),
    "an argument that it does not take": ("train sac --local --set env.kwargs.gravity=2", "takes no 'gravity'"),
    "a fidelity that it does not have": ("train sac --local --set env.fidelity=high", "Pendulum-v1 has no fidelities"),
    "actions that SAC cannot handle": (
        "train sac --local --set env.id=CartPole-v1",
        "SAC needs a continuous action space",
    ),
    "a policy for an agent that is not there": (
        "train cartpole --local --set policies.hunter={}",
        "[policies.hunter] needs an environment of several agents",
    ),
    "a folder that cannot be made": ("train sac --local --out broken.toml/run", "cannot be written: Not a directory"),
    "a layout for no preset": ("tune-pool sacc", "no preset 'sacc'; did you mean 'sac'"),
    "a layout measured in no time": ("tune-pool sac --seconds 0", "greater than or equal to 0.5"),
    "a layout for a rollout of no whole fragments": (
        "tune-pool cartpole --set algorithm.batch_size=100",
        "multiple of actors.fragment_steps",
    ),
    "a baseline of what has none": ("baseline Pendulum-v1", "names no baseline controllers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence(command, name, tmp_path):
    (tmp_path / "broken.toml").write_text("[run\n")
    arguments, sentence = WRONG[name]
    code, out, err = command(*arguments.split())
    said = " ".join((out + err).split())
    assert code != 0
    assert sentence in said
    assert "Traceback" not in said
    assert len(said) < 500
    assert not list(tmp_path.glob("runs/*")), "a run that is refused must leave no run directory"


def test_every_command_lists_its_options(command):
    listed = {
        "watch": "--address",
        "train": "--set --env-workers --steps --seed --out --resume --local --address",
        "evaluate": "--episodes --video",
        "baseline": "--set --episodes --out",
        "envs": "",
        "doctor": "",
    }
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in listed)
    for name, options in listed.items():
        code, out, _ = command(name, "--help")
        assert code == 0
        assert [option for option in options.split() if option not in out] == []


def test_envs_lists_what_an_environment_costs(command):
    code, out, _ = command("envs")
    assert code == 0
    assert re.search(r"distrl/FinRay-v0.*smoke.*\d", out)


def test_the_doctor_looks_at_this_machine(command):
    code, out, _ = command("doctor")
    assert code == 0, out
    assert all(word in out for word in ("Python", "ray", "torch", "GPU", "shared memory", "disk"))


def test_a_run_from_end_to_end(command, tmp_path):
    code, out, _ = command("train", "sac", "--local", "--steps", 400, "--seed", 3, "--out", "first", *sets(TINY))
    assert code == 0
    assert "2 episodes on held-out seeds" in out
    assert "400 env steps" in out
    summary = json.loads(Path("first/summary.json").read_text())
    assert summary["env_steps"] == 400
    assert "seed = 3" in Path("first/config.toml").read_text()

    code, out, _ = command("evaluate", "first", "--episodes", 3)
    assert code == 0
    assert "over 3 episodes" in out
    assert all(str(1_500_000_000 + k) in out for k in range(3))

    code, out, _ = command("train", "sac", "--local", "--out", "first")
    assert code == 1
    assert re.search(r"already holds a run: continue it with --resume \S*first", out)

    code, out, _ = command("train", "--resume", "first", "--local", "--steps", 500)
    assert code == 0
    assert json.loads(Path("first/summary.json").read_text())["env_steps"] == 500


# -- on Ray, as a process of its own -----------------------------------------------------------------------------------


def start(directory, *arguments):
    """``distrl train`` in a process of its own, its output in a file beside the run directory."""
    output = directory.with_suffix(".txt")
    with output.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        process = subprocess.Popen(
            [DISTRL, "train", *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    return process, output


def secured(directory):
    """Transitions in a run's experience log."""
    return sum(fragment.num_transitions for _, fragment in read_log(directory / "log"))


def checkpoints(directory):
    return sorted((directory / "checkpoints").glob("[0-9]*"))


@pytest.fixture
def training(tmp_path):
    """A run on Ray that has written a checkpoint: (process, run directory, output, everything it has started)."""
    directory = tmp_path / "run"
    process, output = start(directory, "sac", "--steps", 1_000_000, "--out", directory, *sets(SLOW))
    seen = set()
    try:
        begun = wait_until(lambda: checkpoints(directory) or process.poll() is not None, timeout_s=90)
        assert begun, output.read_text()
        assert process.poll() is None, output.read_text()
        seen = descendants(process.pid)
        assert len(seen) > 8
        yield process, directory, output, seen
    finally:
        for pid in alive(seen | descendants(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def is_ours(pid):
    try:
        return psutil.Process(pid).name() not in RAY_AGENTS
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def test_sigterm_ends_a_run_with_a_checkpoint_and_leaves_no_process(training):
    process, directory, output, seen = training
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, output.read_text()
    said = " ".join(output.read_text().split())
    assert "stopping with a checkpoint" in said
    assert f"continue with: distrl train --resume {directory}" in said
    assert "Traceback" not in said
    assert json.loads((directory / "summary.json").read_text())["interrupted"]
    facts = json.loads((checkpoints(directory)[-1] / "meta.json").read_text())["meta"]
    assert sum(facts["ledger"]["secured"].values()) == secured(directory)
    assert wait_until(lambda: not alive(seen), timeout_s=20)
    assert not Path(f"/dev/shm/distrl-{json.loads((directory / 'run.json').read_text())['id']}").exists()


def test_after_sigkill_nothing_runs_on_and_what_was_secured_is_there(training):
    """That a resume continues with it: tests/chaos/test_command.py."""
    process, directory, _, seen = training
    process.kill()
    process.wait()
    assert wait_until(lambda: not [pid for pid in alive(seen) if is_ours(pid)], timeout_s=20), [
        psutil.Process(pid).cmdline() for pid in alive(seen)
    ]
    assert secured(directory) > 100


def test_a_baseline_of_constant_actions_is_searched_and_shown(command, tmp_path):
    code, out, err = command("baseline", "tests.fakes.constants:Sum", "--episodes", 1, "--out", tmp_path / "table.json")
    assert code == 0, err
    assert "action 0.5 0.5" in out
    best = json.loads((tmp_path / "table.json").read_text())["table"][0]
    assert (best["params"], best["return_mean"]) == ({"action": [0.5, 0.5]}, 3.0)
