"""Shared by the fluid tests: one folder of developed flows for all, and for whoever uses distrl on this machine."""

from pathlib import Path

import pytest

from distrl.envs.flow_pool import cache_directory


@pytest.fixture(scope="session")
def flows() -> Path:
    """Where developed flows are kept; tests may not damage it."""
    return cache_directory()
