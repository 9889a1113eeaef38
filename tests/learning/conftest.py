"""The option of ``make learn``."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", help="a file that each learning run adds its return to, as a JSON line")
