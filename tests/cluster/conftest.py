"""Runs of these tests end with their training: what follows takes longer than that."""

import pytest


@pytest.fixture(autouse=True)
def only_training(monkeypatch):
    """No final evaluation and no pictures; a test that is about these calls ``monkeypatch.undo()``."""
    monkeypatch.setattr("distrl.results.final_evaluation", lambda run, config: {})
    monkeypatch.setattr("distrl.results.draw", lambda run, config: [])
