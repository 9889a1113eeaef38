"""Shared by the fluid tests: one folder of developed flows for all."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for developed flows that the tests share and may not damage."""
    return tmp_path_factory.mktemp("flows")
