"""What is in git and what a wheel of it holds."""

import inspect
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from distrl.cluster.checks import algorithm_model
from distrl.core.config import RunConfig
from distrl.envs.resolve import constructor_of, fidelity_table

ROOT = Path(__file__).parents[1]
ROOMS = ("actors", "cluster", "envs", "learners", "tune_configs")
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="looks at what git has")


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def tracked():
    """Every file that is in git and still there, as paths below the root."""
    return [name for name in git("ls-files", "-z").split("\0") if name and os.path.lexists(ROOT / name)]


def test_the_rooms_are_linked_into_the_package_by_relative_links():
    modes = {line.split("\t")[1]: line.split()[0] for line in git("ls-files", "-s", "distrl").splitlines()}
    for room in ROOMS:
        assert modes[f"distrl/{room}"] == "120000", f"distrl/{room} must be committed as a link"
        assert os.readlink(ROOT / "distrl" / room) == f"../{room}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel that is built from a copy of what is in git, so that the checkout stays clean."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_a_wheel_holds_every_file_of_the_package(wheel):
    wanted = {f"distrl/{name}" for name in tracked() if name.split("/")[0] in ROOMS}
    wanted |= {name for name in tracked() if name.startswith("distrl/") and not (ROOT / name).is_symlink()}
    wanted = {name for name in wanted if not name.endswith(".md")}
    missing = sorted(wanted - wheel)
    assert not missing, f"a wheel lacks {missing}: name their ending in pyproject.toml under package-data"
    assert any(name.endswith(".toml") for name in wheel)


def test_a_wheel_puts_nothing_beside_the_package(wheel):
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"distrl"}


def test_no_file_in_git_is_larger_than_a_megabyte():
    large = [name for name in tracked() if not (ROOT / name).is_symlink() and (ROOT / name).stat().st_size > 1 << 20]
    assert not large


@pytest.mark.parametrize(
    "name", [name for name in tracked() if name.endswith(".toml")] if (ROOT / ".git").exists() else []
)
def test_every_toml_in_the_repository_loads(name):
    if "env" not in (data := tomllib.loads((ROOT / name).read_text())):
        assert name == "pyproject.toml" or "/" in name
        return
    config = RunConfig.load(ROOT / name)
    algorithm_model(config)
    constructor = constructor_of(config.env.id)
    fidelity = {"fidelity": config.env.fidelity} if config.env.fidelity else {}
    inspect.signature(constructor).bind(**config.env.kwargs, **fidelity)
    assert not fidelity or config.env.fidelity in fidelity_table(constructor)
    assert data["env"]["id"] == config.env.id
