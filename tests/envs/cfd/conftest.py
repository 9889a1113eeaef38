"""What tests of a real solver need: OpenFOAM, and developed flows that are made once."""

import os
from pathlib import Path

import pytest

from distrl.envs.cfd.cylinder_flow import missing


@pytest.fixture(scope="session")
def openfoam() -> None:
    """Skips a test where OpenFOAM is not installed; with DISTRL_REQUIRE_OPENFOAM, as in CI, fails it."""
    if problem := missing():
        if os.environ.get("DISTRL_REQUIRE_OPENFOAM"):
            pytest.fail(problem)
        pytest.skip(problem)


@pytest.fixture(scope="session")
def flows(openfoam: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for developed flows that the tests share."""
    return tmp_path_factory.mktemp("flows")
