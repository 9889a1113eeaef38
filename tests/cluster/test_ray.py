"""The whole dataflow on a real Ray, with real kills while it runs."""

import os
import signal
import threading
import urllib.request

import pytest
import ray

from distrl.api import train
from distrl.cluster.launch import connect
from distrl.core.checkpoint import list_checkpoints
from distrl.core.errors import RunFailed
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from tests.cluster.test_fidelity import leveled
from tests.cluster.test_league import accounted
from tests.cluster.test_league import small as league
from tests.cluster.test_local import balanced, small
from tests.cluster.test_multi_agent import TWO
from tests.cluster.test_multi_agent import small as several_agents
from tests.cluster.test_on_policy import small as on_policy
from tests.fakes.leveled import LEVELS
from tests.fakes.processes import wait_until
from tests.fakes.run_files import first_session, hand_made


def slow(out, *overrides):
    """A Pendulum whose steps take 5 ms in the median."""
    delay = "env.delay={kind='lognormal', median_s=0.005, sigma=1.0}"
    spool = f"run.spool_dir='{out.parent / 'spool'}'"
    return small(out, "run.steps=1500", delay, spool, "evaluation.period=500", "checkpoint.period=200", *overrides)


@pytest.fixture(scope="module", autouse=True)
def a_ray_with_one_logical_gpu(tmp_path_factory):
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_metrics_report_interval_ms": "1000"}
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
    connect(config.actors.env_workers * config.actors.envs_per_worker, None)
    return train(config, show=watcher, keep_ray=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(A run's configuration, its statuses, its result.)"""
    config, watcher = slow(tmp_path_factory.mktemp("finished") / "run"), Watcher()
    return config, watcher.statuses, run(config, watcher)


def test_a_run_accounts_for_everything_and_only_the_learner_has_the_gpu(finished):
    _, statuses, result = finished
    assert balanced(result.summary)
    assert result.summary["env_steps"] >= 1500
    assert result.summary["updates"] >= (1500 - 100) * 16 / 32
    assert result.summary["env_busy_fraction"] > 0.3
    gpus = statuses[-1]["gpu_ids"]
    assert len(gpus["learner"]) == 1
    assert gpus["env_worker_0"] == gpus["env_worker_1"] == []
    secured = sum(fragment.num_transitions for _, fragment in read_log(result.directory / "log"))
    assert secured == result.summary["transitions_produced"] - sum(result.summary["transitions_rejected"].values())
    starts = [event for event in read_json_lines(result.directory / "events.jsonl") if event["kind"] == "start"]
    assert [event["incarnation"] for event in starts] == [0, 1]


class Gauges:
    """The part of a supervisor that shows gauges."""

    def __init__(self, run):
        from distrl.cluster.prometheus import PrometheusSink

        self._sink = PrometheusSink(run.path, run.id)


def test_prometheus_scrapes_a_run_at_the_metrics_port_of_its_node(tmp_path):
    run, _ = hand_made(tmp_path / "run")
    first_session(run)
    actor = ray.remote(Gauges).options(num_cpus=0).remote(run)
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    gauges = {}

    def scrape():
        for line in urllib.request.urlopen(url, timeout=10).read().decode().splitlines():
            if line.startswith("ray_distrl_") and f'run="{run.id}"' in line:
                name, _, value = line.rpartition(" ")
                labels = dict(part.split("=") for part in name.partition("{")[2].rstrip("}").split(","))
                kind = labels.get("worker") or labels.get("outcome")
                gauges[name.partition("{")[0], kind] = float(value)
        return len(gauges) > 20

    assert wait_until(scrape)
    assert gauges["ray_distrl_env_steps", None] == 100
    assert gauges["ray_distrl_evaluation_return", None] == 7
    assert gauges["ray_distrl_busy_of_env_worker", '"1"'] == 0.25
    assert gauges["ray_distrl_outcomes", '"fault: crash"'] == 1
    ray.kill(actor)


def test_a_run_none_of_whose_checkpoints_is_whole_is_refused(finished):
    """Its learner cannot even begin, and still its sentence arrives."""
    config, _, result = finished
    for path in list_checkpoints(result.directory / "checkpoints"):
        (path / "learner.pt").write_bytes(b"damaged")
    with pytest.raises(RunFailed, match=r"no checkpoint in (?s:.*)the checksum of learner\.pt differs"):
        run(config, Watcher(), resume=result.directory)


@pytest.mark.slow  # a resume is in the stage in force: test_fidelity.py; a next life too: tests/actors/test_fidelity.py
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


def test_a_full_disk_stops_the_run_with_its_cause(tmp_path):
    def fill(status):
        # a log folder that is gone refuses writes as a full disk does; root may write anywhere, so permissions would
        # not
        path = tmp_path / "run" / "checkpoints"
        path.rename(tmp_path / "run" / "away")
        path.write_text("")

    steps = ["run.steps=100000", "evaluation.period=100000"]  # an evaluation writes its best policy there too
    with pytest.raises(RunFailed, match=r"the learner: checkpoint .* cannot be written: Not a directory"):
        run(slow(tmp_path / "run", *steps, "checkpoint.period=50"), Watcher(200, fill))


@pytest.mark.parametrize("hosting", ["process", pytest.param("vector", marks=pytest.mark.slow)])
def test_an_on_policy_run_survives_its_learner(tmp_path, hosting):
    """With a log nothing is lost; without one, what was not trained on is sent again."""
    steps, delay = {"process": (3000, ["env.delay={kind='lognormal', median_s=0.002}"]), "vector": (30_000, [])}[
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


def test_two_policies_and_a_killed_env_worker_account_for_every_agents_step(tmp_path):
    """Environments of three agents in processes of their own; what had been committed is trained on by whose it is."""
    config = several_agents(
        tmp_path / "run",
        *TWO,
        "run.steps=1200",
        "run.durability=always",
        f"run.spool_dir='{tmp_path / 'spool'}'",
        "env.hosting=process",
        "env.delay={kind='constant', median_s=0.005}",
    )
    watcher = Watcher(at=400, act=lambda status: os.kill(status["pids"]["env_worker_0"], signal.SIGKILL))
    result = run(config, watcher)
    summary = result.summary
    states = [summary[f"transitions_{state}"] for state in ("trained", "queued", "evicted")]
    assert summary["transitions_produced"] == sum(states) + sum(summary["transitions_rejected"].values())
    assert summary["transitions_lost"] == 0
    assert summary["restarts"] == {"env_worker": 1}
    assert summary["env_steps"] == pytest.approx(summary["transitions_produced"] / 3, abs=8)
    whose = {policy: set() for policy in ("hunter", "prey")}
    for _, fragment in read_log(result.directory / "log"):
        whose[fragment.policy_id].update(fragment.columns["agent_index"].tolist())
    assert whose == {"hunter": {0}, "prey": {1, 2}}


@pytest.mark.slow  # a league after a death: tests/learners/league/test_league.py; both deaths: tests/chaos/test_run.py
def test_a_league_survives_its_learner_and_its_parameter_server(tmp_path):
    """Who had been kept is met again, and every agent's step is accounted for."""
    killed = []

    def kill(status):
        for role in ("learner", "parameter_server"):
            os.kill(status["pids"][role], signal.SIGKILL)
        killed.append(len(list(read_json_lines(tmp_path / "run" / "league" / "players.jsonl"))))

    config = league(tmp_path / "run", "run.steps=2500")
    result = run(config, Watcher(800, kill))
    assert killed[0] >= 1
    assert result.summary["restarts"] == {"learner": 1, "parameter_server": 1}
    assert accounted(result.summary)
    players = list(read_json_lines(tmp_path / "run" / "league" / "players.jsonl"))
    assert len(players) > killed[0]
    versions = [player["version"] for player in players]
    assert versions == sorted(set(versions))
    episodes = [one for one in read_json_lines(result.directory / "metrics.jsonl") if one["kind"] == "episode"]
    last = {player for episode in episodes[-300:] for player in episode["players"]}
    assert f"default:{versions[0]:06d}" in last
    assert last.intersection(f"default:{version:06d}" for version in versions[killed[0] :])
