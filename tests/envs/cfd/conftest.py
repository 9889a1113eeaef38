"""What tests of a real solver need: OpenFOAM, and developed flows that are made once."""

import os
from pathlib import Path

import pytest

from distrl.envs.cfd.cylinder_flow import missing
from distrl.envs.flow_pool import cache_directory


@pytest.fixture(scope="session")
def openfoam() -> None:
    """Skips a test where OpenFOAM is not installed; with DISTRL_REQUIRE_OPENFOAM, as in CI, fails it."""
    if problem := missing():
        if os.environ.get("DISTRL_REQUIRE_OPENFOAM"):
            pytest.fail(problem)
        pytest.skip(problem)


@pytest.fixture(scope="session")
def flows(openfoam: None) -> Path:
    """Where developed flows are kept; tests may not damage it."""
    return cache_directory()
