"""Several learners train one policy on a real Ray: in step, and through parameter shards; each is killed meanwhile."""

import os
import signal
import threading

import pytest
import ray

from distrl.core.checkpoint import list_checkpoints
from distrl.core.errors import ConfigError, RunFailed
from distrl.core.experience_log import logs, read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from tests.cluster.test_local import balanced, small
from tests.cluster.test_on_policy import small as on_policy
from tests.cluster.test_ray import Watcher, run

IN_STEP = ("learner.mode='all_reduce'", "learner.count=2")
SHARDED = (
    "learner.mode='parameter_server'",
    "learner.count=2",
    "learner.shards=2",
    "learner.staleness_bound=1",
)


def slow(out, *overrides):
    """Four environments whose steps take 10 ms in the median, so that updates begin long before the end."""
    delay = "env.delay={kind='lognormal', median_s=0.01, sigma=1.0}"
    spool = f"run.spool_dir='{out.parent / 'spool'}'"
    return small(out, "run.steps=1800", delay, spool, "evaluation.period=500", "checkpoint.period=100", *overrides)


@pytest.fixture(scope="module", autouse=True)
def a_ray():
    os.environ |= {"OMP_NUM_THREADS": "1"}
    ray.init(
        address="local",
        namespace="distrl",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=True,
    )
    yield
    ray.shutdown()


def killed(role):
    """What kills the process of a role."""
    return lambda status: os.kill(status["pids"][role], signal.SIGKILL)


def check(result):
    """Nothing is lost, nobody has trained on anything twice, and each learner has a part of it all."""
    summary = result.summary
    assert balanced(summary)
    counts = [sum(f.num_transitions for _, f in read_log(log, alone=True)) for log in logs(result.directory / "log")]
    assert len(counts) == 2
    assert min(counts) > 100
    rejected = sum(summary["transitions_rejected"].values())
    assert sum(counts) == summary["transitions_produced"] - rejected
    return summary


@pytest.mark.parametrize("role", ["learner_0", pytest.param("learner_1", marks=pytest.mark.slow)])  # of either one
def test_learners_in_step_go_on_together_after_the_death_of_one(tmp_path, role):
    result = run(slow(tmp_path / "run", *IN_STEP), Watcher(60, killed(role), "updates"))
    summary = check(result)
    assert summary["restarts"] == {"learner": 1}
    # an update of two is one of twice the batch: samples per insert are kept, over both
    assert summary["updates"] == pytest.approx((summary["transitions_trained"] - 100) * 16 / 64, rel=0.1)
    newest = [list_checkpoints(run)[-1].name for run in (result.directory / "checkpoints", *others(result))]
    assert newest[0] == newest[1]


def others(result):
    return [log.parent / "checkpoints" for log in logs(result.directory / "log")[1:]]


@pytest.mark.parametrize("role", ["parameter_shard_0", pytest.param("learner_1", marks=pytest.mark.slow)])
def test_learners_of_a_parameter_server_and_its_shards_are_replaced_one_by_one(tmp_path, role):
    result = run(slow(tmp_path / "run", *SHARDED), Watcher(60, killed(role), "updates"))
    summary = check(result)
    assert summary["restarts"] == {role.rpartition("_")[0]: 1}
    assert summary["shards"] == 2
    assert summary["shard_pushes"] > 0
    metrics = [record for record in read_json_lines(result.directory / "metrics.jsonl") if record["kind"] == "learner"]
    assert all(record["gradient_staleness"] <= 3 for record in metrics)  # (2 − 1) · (2 · 1 + 1)


@pytest.mark.slow
def test_a_learner_leaves_and_comes_back_while_its_env_workers_feed_the_other(tmp_path):
    out, stop, asked = tmp_path / "run", threading.Event(), []

    def changes(kind):
        return [e for e in read_json_lines(out / "events.jsonl") if e["kind"] == kind and e.get("role") == "learner"]

    def follow(status):
        if status.get("updates", 0) < 40 or status["phase"] != "training":
            return
        if len(asked) == 0:
            asked.append(scale(out, 1))
        elif len(asked) == 1 and changes("leave"):
            asked.append(scale(out, 2))
        elif changes("join"):
            asked.append(status["env_steps"])
            if status["env_steps"] > asked[2] + 300:
                stop.set()

    result = run(slow(out, *SHARDED, "run.steps=100000", "run.wall_limit_s=120"), follow, stop=stop)
    assert asked[:2] == [{"learners": (2, 1)}, {"learners": (1, 2)}]
    assert check(result)["restarts"] == {}
    assert [event["number"] for event in changes("leave") + changes("join")] == [1, 1]


def scale(out, learners):
    supervisor = ray.get_actor(RunDirectory.open(out).facts["ray"]["supervisor"])
    return ray.get(supervisor.scale.remote(learners=learners))


@pytest.mark.slow  # six starts of a process
def test_a_shard_that_cannot_be_started_again_ends_the_run(tmp_path):
    out = tmp_path / "run"

    def lose(status):
        (out / "shards" / "1-of-2.pt").unlink()
        (out / "shards" / "1-of-2.pt").mkdir()  # no shard can begin with that
        os.kill(status["pids"]["parameter_shard_1"], signal.SIGKILL)

    with pytest.raises(RunFailed, match=r"parameter shard 1 died 6 times in a row .* mend the cause and continue with"):
        run(slow(out, *SHARDED, "run.steps=100000", "run.wall_limit_s=120"), Watcher(60, lose, "updates"))


@pytest.mark.slow  # three runs
def test_what_shards_of_another_number_have_kept_is_not_gone_on_from(tmp_path):
    result = run(slow(tmp_path / "run", *SHARDED, "run.steps=400"), Watcher())
    for shards, steps in ((3, 600), (2, 800)):
        config = slow(tmp_path / "run", *SHARDED, f"learner.shards={shards}", f"run.steps={steps}")
        result = run(config, Watcher(), resume=result.directory)
        kept = {path.name for path in (result.directory / "shards").glob("*.pt")}
        assert kept == {f"{number}-of-{shards}.pt" for number in range(shards)}
    assert balanced(result.summary)


@pytest.mark.slow  # what is common to PPO's learners: tests/learners/test_many_learners.py
def test_ppo_in_step(tmp_path):
    result = run(on_policy(tmp_path / "run", *IN_STEP), Watcher())
    assert result.summary["updates"] > 3
    assert balanced(result.summary)


@pytest.mark.slow  # three runs
def test_a_run_is_resumed_with_as_many_learners_as_it_has_logs(tmp_path):
    config = slow(tmp_path / "run", *SHARDED, "run.steps=400")
    result = run(config, Watcher())
    with pytest.raises(ConfigError, match=r"begun with learner.count = 2, .* but 1 came: resume it with 2"):
        run(small(tmp_path / "run"), Watcher(), resume=result.directory)
    # in another mode, too: what shards hold is in the learners' checkpoints
    in_step = slow(tmp_path / "run", *IN_STEP, "run.steps=700")
    again = run(in_step, Watcher(), resume=result.directory)
    assert again.summary["env_steps"] >= 700
    assert again.summary["updates"] > result.summary["updates"] / 2
    assert balanced(again.summary)
