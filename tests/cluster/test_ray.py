"""The whole dataflow on a real Ray, with real kills while it runs."""

import os
import signal
import threading

import psutil
import pytest
import ray

from distrl.api import train
from distrl.cluster.launch import connect
from distrl.core.errors import RunFailed
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.reproduce import reproduce
from tests.cluster.test_fidelity import leveled
from tests.cluster.test_local import balanced, small
from tests.cluster.test_on_policy import small as on_policy
from tests.fakes.leveled import LEVELS
from tests.fakes.processes import alive, descendants, wait_until


def slow(out, *overrides):
    """A Pendulum whose steps take 5 ms in the median."""
    delay = "env.delay={kind='lognormal', median_s=0.005, sigma=1.0}"
    spool = f"run.spool_dir='{out.parent / 'spool'}'"
    return small(out, "run.steps=1500", delay, spool, "evaluation.period=500", "checkpoint.period=200", *overrides)


@pytest.fixture(scope="module", autouse=True)
def a_ray_with_one_logical_gpu(tmp_path_factory):
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local",
        namespace="distrl",
        num_cpus=8,
        num_gpus=1,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=True,
    )
    yield
    ray.shutdown()


class Watcher:
    """Remembers statuses, and does something to the run once it has made ``at`` environment steps, or updates."""

    def __init__(self, at=0, act=lambda status: None, count="env_steps"):
        self.statuses, self._at, self._act, self._count, self._acted = [], at, act, count, False

    def __call__(self, status):
        if "env_steps" not in status:
            return
        self.statuses.append(status)
        if not self._acted and status[self._count] >= self._at and status["phase"] == "training":
            self._acted = True
            self._act(status)


def run(config, watcher, **options):
    connect(config, None)
    return train(config, show=watcher, keep_ray=True, **options)


def test_a_run_accounts_for_everything_and_only_the_learner_has_the_gpu(tmp_path):
    watcher = Watcher()
    result = run(slow(tmp_path / "run"), watcher)
    assert balanced(result.summary)
    assert result.summary["env_steps"] >= 1500
    assert result.summary["updates"] >= (1500 - 100) * 16 / 32
    assert result.summary["env_busy_fraction"] > 0.3
    gpus = watcher.statuses[-1]["gpu_ids"]
    assert len(gpus["learner"]) == 1
    assert gpus["env_worker_0"] == gpus["env_worker_1"] == []
    secured = sum(fragment.num_transitions for _, fragment in read_log(tmp_path / "run" / "log"))
    assert secured == result.summary["transitions_produced"] - sum(result.summary["transitions_rejected"].values())
    starts = [event for event in read_json_lines(tmp_path / "run" / "events.jsonl") if event["kind"] == "start"]
    assert [event["incarnation"] for event in starts] == [0, 1]


def test_a_killed_env_worker_is_replaced_and_nobody_else_is_disturbed(tmp_path):
    before = {}

    def kill(status):
        before.update(status["pids"])
        os.kill(status["pids"]["env_worker_0"], signal.SIGKILL)

    watcher = Watcher(300, kill)
    result = run(slow(tmp_path / "run", "run.steps=2500"), watcher)
    after = watcher.statuses[-1]["pids"]
    assert after["env_worker_0"] != before["env_worker_0"]
    assert {name: after[name] for name in ("learner", "env_worker_1", "parameter_server")} == {
        name: before[name] for name in ("learner", "env_worker_1", "parameter_server")
    }
    restarts = [event for event in read_json_lines(tmp_path / "run" / "events.jsonl") if event["kind"] == "restart"]
    assert [(event["role"], event["worker"]) for event in restarts] == [("env_worker", 0)]
    assert balanced(result.summary)
    uids = {
        (int(f.columns["episode_uid"][0, 0]), int(f.columns["step"][0, 0]))
        for _, f in read_log(tmp_path / "run" / "log")
    }
    assert len(uids) == sum(1 for _ in read_log(tmp_path / "run" / "log"))


def test_a_replaced_env_worker_is_in_the_fidelity_stage_in_force(tmp_path):
    stop, killed_at = threading.Event(), []

    def show(status):
        if not killed_at and status.get("env_steps", 0) > 450 and status["phase"] == "training":
            killed_at.append(status["env_steps"])
            os.kill(status["pids"]["env_worker_0"], signal.SIGKILL)
        elif killed_at and status["env_steps"] > killed_at[0] + 100:
            stop.set()

    config = leveled(
        tmp_path / "run",
        "run.steps=100000",
        "actors.env_workers=1",
        "env.kwargs={length=10, step_s=0.002, fine_step_s=0.02}",
        "env.hosting=process",
        f"run.spool_dir='{tmp_path / 'spool'}'",
    )
    result = run(config, show, stop=stop)
    assert result.summary["restarts"] == {"env_worker": 1}
    assert balanced(result.summary)
    levels = {}  # incarnation → fidelity of its steps, in order
    for _, fragment in read_log(tmp_path / "run" / "log"):
        levels.setdefault(fragment.incarnation, []).extend(fragment.columns["fidelity"].ravel().tolist())
    coarse, fine = LEVELS.index("coarse"), LEVELS.index("fine")
    assert levels[0][0] == coarse
    assert levels[0][-1] == fine  # it has been told on the way
    assert set(levels[1][20:]) == {fine}  # behind the episodes that it has continued


def test_a_killed_environment_process_costs_its_own_episode(tmp_path):
    def kill(status):
        fork_server = psutil.Process(status["pids"]["env_worker_1"]).children()[0]
        os.kill(fork_server.children()[0].pid, signal.SIGKILL)

    result = run(slow(tmp_path / "run", "run.steps=2000"), Watcher(300, kill))
    faults = [event for event in read_json_lines(tmp_path / "run" / "events.jsonl") if event["kind"] == "fault"]
    assert [event["fault"] for event in faults] == ["crash"]
    assert balanced(result.summary)


def test_the_parameter_server_may_die(tmp_path):
    killed = {}

    def kill(status):
        killed.update(updates=status["updates"])
        os.kill(status["pids"]["parameter_server"], signal.SIGKILL)

    watcher = Watcher(100, kill, count="updates")
    result = run(slow(tmp_path / "run", "run.steps=4000", "learner.publish_period=10"), watcher)
    events = read_json_lines(tmp_path / "run" / "events.jsonl")
    assert [event["role"] for event in events if event["kind"] == "restart"] == ["parameter_server"]
    assert balanced(result.summary)
    versions = [f.columns["policy_version"].max() for _, f in read_log(tmp_path / "run" / "log")]
    assert max(versions) > killed["updates"] + 10  # the new one's weights reached the env workers


def versions_never_decrease(run):
    """In each environment's stream, and over all in the order of arrival but for what was under way."""
    newest = {}
    for _, fragment in read_log(run / "log"):
        columns = fragment.columns
        key = (fragment.incarnation, int(columns["env_index"][0]))
        versions = [newest.get(key, 0), *columns["policy_version"][:, 0].tolist()]
        if versions != sorted(versions):
            return False
        newest[key] = versions[-1]
    return True


def keys(run):
    return [
        key
        for _, f in read_log(run / "log")
        for key in zip(f.columns["episode_uid"].ravel().tolist(), f.columns["step"].ravel().tolist(), strict=True)
    ]


def test_a_dead_learner_is_replaced_and_nothing_is_lost(tmp_path):
    killed, stop = {}, threading.Event()

    def kill(status):
        killed.update(status["pids"], updates=status["updates"])
        os.kill(status["pids"]["learner"], signal.SIGKILL)

    def show(status):
        watcher(status)
        if killed and status["pids"]["learner"] != killed["learner"] and status["updates"] > killed["updates"] + 100:
            stop.set()

    # 50 updates past a checkpoint and 350 before the next, so that the learner has updates to lose, however late its
    # status comes
    watcher = Watcher(450, kill, count="updates")
    overrides = ["run.steps=100000", "run.durability='always'", "learner.publish_period=1", "checkpoint.period=400"]
    result = run(slow(tmp_path / "run", *overrides), show, stop=stop)
    after = watcher.statuses[-1]["pids"]
    assert after["learner"] != killed["learner"]
    assert [after["env_worker_0"], after["env_worker_1"]] == [killed["env_worker_0"], killed["env_worker_1"]]
    summary = result.summary
    assert summary["restarts"] == {"learner": 1}
    assert summary["updates"] > killed["updates"] + 100
    assert summary["updates_undone"] > 0
    assert balanced(summary)
    assert summary["transitions_committed"] > 1000
    assert summary["transitions_lost"] == 0
    assert summary["transitions_rejected"] == {}
    assert len(set(keys(tmp_path / "run"))) == len(keys(tmp_path / "run")) == summary["transitions_produced"]
    assert versions_never_decrease(tmp_path / "run")
    assert reproduce(RunDirectory.open(tmp_path / "run")).difference is None


def test_stopping_leaves_a_checkpoint_and_no_process(tmp_path):
    stop, seen = threading.Event(), {}

    def end(status):
        for pid in status["pids"].values():
            seen.update(dict.fromkeys(descendants(pid)))
        stop.set()

    result = run(slow(tmp_path / "run", "run.steps=100000"), Watcher(300, end), stop=stop)
    assert result.summary["interrupted"]
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert balanced(result.summary)
    assert len(seen) > 8
    assert wait_until(lambda: not alive(set(seen)))


def test_a_full_disk_stops_the_run_with_its_cause(tmp_path):
    def fill(status):
        # a log folder that is gone refuses writes as a full disk does; root may write anywhere, so permissions would
        # not
        path = tmp_path / "run" / "checkpoints"
        path.rename(tmp_path / "run" / "away")
        path.write_text("")

    with pytest.raises(RunFailed, match=r"the learner: checkpoint .* cannot be written: Not a directory"):
        run(slow(tmp_path / "run", "run.steps=100000", "checkpoint.period=50"), Watcher(200, fill))


@pytest.mark.parametrize("hosting", ["process", "vector"])
def test_an_on_policy_run_survives_its_learner(tmp_path, hosting):
    """With a log nothing is lost; without one, what was not trained on is sent again."""
    steps, delay = {"process": (3000, ["env.delay={kind='lognormal', median_s=0.002}"]), "vector": (60_000, [])}[
        hosting
    ]
    overrides = [f"env.hosting={hosting}", f"run.steps={steps}", f"run.spool_dir='{tmp_path / 'spool'}'", *delay]
    watcher = Watcher(steps // 3, lambda status: os.kill(status["pids"]["learner"], signal.SIGKILL))
    config = on_policy(tmp_path / "run", f"evaluation.period={steps}", *overrides)
    result = run(config, watcher)
    assert result.summary["restarts"] == {"learner": 1}
    assert result.summary["env_steps"] >= steps
    assert balanced(result.summary)
    if hosting == "process":
        assert result.summary["transitions_rejected"] == {}
        assert result.summary["transitions_trained"] >= steps - 256
        assert result.summary["transitions_lost"] == 0
