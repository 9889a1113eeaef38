"""benchmarks/throughput.py: what it reads from what distrl and its peers print, and what it makes of one that fails."""

import json
import math
import sys
import textwrap

import pytest

from benchmarks import throughput
from benchmarks.throughput_peers.shared import WARM_UP_S, Run


def script(tmp_path, text):
    path = tmp_path / "peer.py"
    path.write_text(textwrap.dedent(text))
    return throughput.Script(sys.executable, (str(path),))


def test_a_peers_line_is_found_among_what_its_libraries_print(tmp_path):
    peer = script(
        tmp_path,
        """
        import sys
        print("{not json")
        print('{"trained_env_steps_per_s": 5.0, "asked": "%s"}' % sys.argv[1])
        print("bye")
        """,
    )
    found = throughput.run(peer, ["--case=cartpole"], 30.0)
    assert found["trained_env_steps_per_s"] == 5.0
    assert found["asked"] == "--case=cartpole"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no such space')", "RuntimeError: no such space"),
        ("raise SystemExit(3)", "exit code 3, and no JSON line"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_peer_that_fails_leaves_its_command_and_its_error(tmp_path, text, error):
    found = throughput.run(script(tmp_path, text), ["--case", "pong"], 1.0 if "sleep" in text else 30.0)
    assert found["error"] == error
    assert "peer.py --case pong" in found["command"]


def test_a_peer_that_is_not_installed_says_how_to_install_it():
    absent = throughput.Script(".venv-nobody/bin/python", ("sb3_ppo.py",))
    assert throughput.run(absent, [], 1.0)["error"] == "not installed: make throughput-peers"


def test_cpu_time_is_told_apart_by_who_steps_environments(tmp_path):
    """A child that is named an env worker spins, its own child too; the peer itself sleeps."""
    spinning = "import time\\nend = time.time() + 3\\nwhile time.time() < end: pass"
    peer = script(
        tmp_path,
        f"""
        import json, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "{spinning}", "ray::EnvWorkerActor"])
        time.sleep(1)
        begin = time.time()
        child.wait()
        print(json.dumps({{"window": [begin, time.time()]}}))
        """,
    )
    found = throughput.run(peer, [], 60.0)
    assert found["cpu_per_s"]["env_workers"] > 4 * found["cpu_per_s"]["others"]
    assert found["pss_mb"] > 0


def test_processes_that_a_peer_leaves_behind_are_ended(tmp_path):
    peer = script(
        tmp_path,
        """
        import json, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
        time.sleep(1.2)
        print(json.dumps({"child": child.pid}))
        """,
    )
    child = throughput.run(peer, [], 30.0)["child"]
    assert not throughput.psutil.pid_exists(child)


def test_the_limit_is_what_the_env_workers_could_do_with_the_cores_that_others_leave():
    ours = [{"cpu_per_s": {"env_workers": 1.0, "others": 0.5}}]
    found = throughput.limit(24_000.0, 20_000.0, ours, cores=2)
    assert found["env_steps_per_s"] == 30_000.0
    assert found["share"] == 0.8
    in_one_process = [{"cpu_per_s": {"env_workers": 0.0, "others": 1.0}}]
    assert throughput.limit(24_000.0, 20_000.0, in_one_process, cores=2) is None


def test_a_benchmark_without_peers_and_with_a_broken_distrl_is_still_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "DISTRL", script(tmp_path, "raise SystemExit('no preset')"))
    monkeypatch.setattr(throughput, "RAW", throughput.Script(sys.executable, ("nothing.py",), ("cartpole",)))
    found = throughput.measure(throughput.options_of(["--case", "cartpole", "--seconds", "1", "--seeds", "0", "1"]))
    assert [one["error"] for one in found["distrl"]] == ["no preset"] * 2
    assert found["trained_env_steps_per_s"] is None
    assert found["peers"] == []
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_measured_is_refused(capsys):
    with pytest.raises(SystemExit):
        throughput.options_of(["--case", "pong", "--wall"])
    with pytest.raises(SystemExit):
        throughput.options_of(["--case", "slow", "--peers", "cleanrl-ppo"])
    assert "cleanrl-ppo has no settings for --case slow" in capsys.readouterr().err
    assert "cleanrl-ppo" not in throughput.options_of(["--case", "slow", "--peers"]).peers


@pytest.mark.slow
def test_distrl_is_measured_like_a_peer():
    found = throughput.measure(throughput.options_of(["--case", "cartpole", "--seconds", "5"]))
    [ours] = found["distrl"]
    assert "error" not in ours
    assert found["trained_env_steps_per_s"] > 1000
    assert ours["env_steps"] <= ours["transitions_trained"] <= ours["transitions_produced"]
    assert ours["cpu_per_s"]["env_workers"] > 0
    assert found["evaluated_return"] > 50  # random actions: 22
    assert found["raw_vector_steps_per_s"] > found["trained_env_steps_per_s"]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_rate_leaves_out_start_up_and_counts_what_was_trained(capsys):
    clock = Clock()
    run = Run(["--case", "cartpole", "--seconds", "10", "--started", "990"], clock)
    assert not run.trained(0)  # nothing trained yet: starting up
    for clock.now in (1020.0, 1021.0):  # 500 a second from here on, but the first of them warm up
        assert not run.trained(int(500 * (clock.now - 1018)))
    for second in range(100):
        clock.now = 1020.0 + WARM_UP_S + second
        if run.trained(int(500 * (clock.now - 1018))):
            break
    run.report({"lr": 1.0}, math.nan)
    found = line(capsys)
    assert second == 10
    assert found["trained_env_steps_per_s"] == 500.0
    assert found["window"] == [1020.0 + WARM_UP_S, 1030.0 + WARM_UP_S]
    assert found["first_update_s"] == 30.0
    assert found["return_mean"] is None


def test_the_time_to_a_target_counts_from_the_process_start_without_evaluations(capsys):
    clock, values = Clock(), iter([100.0, 480.0])

    def evaluate():
        clock.now += 7.0
        return next(values)

    run = Run(["--case", "cartpole", "--target", "475", "--started", "995"], clock)
    assert not run.trained(10, evaluate)
    for clock.now in (1001.0, 1009.0):
        stop = run.trained(100, evaluate)
    assert stop
    run.report({}, 300.0)
    assert line(capsys)["seconds_to_target"] == 1009.0 - 995.0 - 7.0


def test_a_number_of_steps_ends_a_run_whatever_the_time():
    clock = Clock()
    run = Run(["--case", "halfcheetah", "--steps", "1000", "--seconds", "1"], clock)
    run.trained(1)
    clock.now += 3600.0
    assert not run.trained(999)
    assert run.trained(1000)
