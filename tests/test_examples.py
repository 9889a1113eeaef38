"""Every example runs as it stands, the README's among them; and what the pages name is there."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example(folder, name, *arguments):
    """The output of an example that runs in ``folder``."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """(Folder that it ran in, its output.)"""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, example(folder, "quickstart.py")


def test_quickstart(quickstart):
    folder, output = quickstart
    assert int(re.search(r"(-?\d+) on held-out seeds", output)[1]) > -600, (
        "it has learned to swing up; untrained, -1250"
    )
    assert len(list(folder.glob("runs/*/learning_curve.png"))) == 1


def test_load_and_act(quickstart):
    folder, _ = quickstart
    (run,) = folder.glob("runs/*")
    first = example(folder, "load_and_act.py", run, 5)
    assert re.search(r"return -\d+\.\d in 200 steps from seed 5", first)
    assert example(folder, "load_and_act.py", run, 5) == first


def test_an_environment_of_your_own(tmp_path):
    output = example(tmp_path, "own_environment.py", "--steps", 500)
    assert re.search(r"mean return -\d+\.\d on held-out seeds", output)


def test_many_agents(tmp_path):
    assert re.search(r"one of the prey does .* [0-4]$", example(tmp_path, "many_agents.py", "--steps", 1500).strip())


def test_many_learners(tmp_path):
    output = example(tmp_path, "many_learners.py", "--steps", 1200)
    assert re.search(r"[1-9]\d+ updates by both; mean return -\d+ on held-out seeds", output)
    assert re.search(r"[1-9]\d+ gradients pushed to each of 2 shards, \d\.\d\d updates late", output)


def test_self_play(tmp_path):
    assert re.search(r"4 at most: \d\.\d\d$", example(tmp_path, "self_play.py", "--steps", 5000).strip())


def test_a_flow_of_your_own(tmp_path):
    output = example(tmp_path, "own_flow.py", 20)
    assert re.search(r"t =  5.0 D/U: tip at [+-]\d\.\d\d D, return \d\.\d\d", output)


def test_export_experience(quickstart, tmp_path):
    folder, _ = quickstart
    (run,) = folder.glob("runs/*")
    output = example(tmp_path, "export_experience.py", run)
    assert re.search(r"6000 transitions of \d+ episodes", output)
    assert sum(map(int, re.findall(r"over (\d+) steps", output))) == 6000


def test_learn_offline(quickstart, tmp_path):
    folder, _ = quickstart
    (run,) = folder.glob("runs/*")
    output = example(tmp_path, "learn_offline.py", run, "--updates", 50)
    assert re.search(r"3 episodes, return -\d+ ± \d+, in data-\d+", output)
    assert re.search(r"-?\d+ on held-out seeds", output)


def test_a_module_of_rllibs(tmp_path):
    assert re.search(r"^\d+ on held-out seeds", example(tmp_path, "rllib_module.py", "--local", "--steps", 3000), re.M)


@pytest.mark.slow
def test_rllibs_ppo_over_our_environments_with_a_kill(tmp_path):  # a short one is in tests/cluster/rllib
    lines = example(tmp_path, "rllib_env_runner.py", "--iterations", 5, "--kill", 3)
    found = re.findall(r"(\d+) env steps, return (\d+), (\d) failures", lines)
    assert [int(failures) for *_, failures in found] == [0, 0, 1, 1, 1]
    steps, returns = ([int(line[column]) for line in found] for column in (0, 1))
    assert 5 * 1024 <= steps[-1] < 5 * (1024 + 8)
    assert returns[-1] > returns[0]


def test_the_example_in_the_readme_is_the_quickstart():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = (ROOT / "examples" / "quickstart.py").read_text()
    assert source.endswith("\n\n" + block)
    assert len([line for line in block.splitlines() if line]) <= 10


def test_every_example_is_tested():
    """Here, or where a Ray runs already."""
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    tests = Path(__file__).read_text() + (ROOT / "tests" / "cluster" / "test_sweeps.py").read_text()
    assert names == {name for name in names if f'"{name}"' in tests}


# -- what the pages say ------------------------------------------------------------------------------------------------

PAGES = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "architecture",
            "environments",
            "configuration",
            "experience",
            "multi_fidelity",
            "offline",
            "monitoring",
            "rllib",
            "clusters",
            "sweeps",
        )
    ),
]


def test_the_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make train" in readme
    assert "make test" in readme


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_files_and_names_that_a_page_mentions_exist(page):
    """A page refers to code as `folder/file.py` `Name.attribute` or `folder/file.py` `one`, `another`."""
    text = " ".join((ROOT / page).read_text().split())
    named = re.findall(r"`([\w/]+\.py)`((?:,? `[A-Za-z_][\w.]*`)*)", text)
    assert named or page == "README.md"
    for file, names in named:
        candidates = [ROOT / file, ROOT / "distrl" / file]
        assert any(path.exists() for path in candidates), f"{page} mentions {file}"
        parts = Path(file).with_suffix("").parts
        if not names or parts[0] in ("docs", "tests", "examples"):
            continue
        module = importlib.import_module(".".join(parts if parts[0] == "distrl" else ("distrl", *parts)))
        for name in re.findall(r"`([\w.]+)`", names):
            value = module
            for part in name.split("."):
                assert hasattr(value, part), f"{page} mentions {name} in {file}"
                value = getattr(value, part)


def test_the_configuration_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text() == maker.page(), "run: python docs/make_configuration.py"
