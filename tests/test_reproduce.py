"""A finished run's updates come out the same, bit for bit, when they are repeated from its log."""

import json

import pytest

from distrl.api import train
from distrl.core.errors import StorageError
from distrl.core.run_directory import RunDirectory
from distrl.reproduce import reproduce
from tests.cluster.test_local import small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(small(out, "run.steps=600", "checkpoint.period=100"), local=True)
    return RunDirectory.open(out)


def test_the_same_bit_for_bit(run):
    found = reproduce(run)
    assert found.difference is None
    assert found.updates > 100
    assert found.metrics_compared > 3
    assert found.checkpoints_compared == 3  # as many as are kept


def test_a_run_that_was_resumed_is_repeated_as_a_whole(tmp_path):
    """Also where draws follow what updates found: priorities go on where they were."""
    rule = "replay.priority_exponent=0.6"
    train(small(tmp_path / "run", "run.steps=300", rule), local=True)
    train(small(tmp_path / "run", "run.steps=600", rule), local=True, resume=tmp_path / "run")
    assert reproduce(RunDirectory.open(tmp_path / "run")).difference is None


def test_where_it_first_differs_is_said(run, tmp_path):
    path = run.path / "metrics.jsonl"
    before = path.read_text()
    records = [json.loads(line) for line in before.splitlines()]
    altered = next(record for record in records if record["kind"] == "learner" and record["updates"] > 50)
    altered["critic_loss"] += 1e-9
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    try:
        found = reproduce(run)
    finally:
        path.write_text(before)
    assert found.updates == altered["updates"]
    assert "critic_loss" in found.difference


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path, run):
    empty = RunDirectory.create(tmp_path / "run", run.config())
    with pytest.raises(StorageError, match="no checkpoint yet"):
        reproduce(empty)
