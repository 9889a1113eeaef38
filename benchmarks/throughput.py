"""Prints one JSON line: on how many env steps a second distrl trains in a case, beside its peers and the raw limit of
the machine; or how soon each reaches a return.

    python benchmarks/throughput.py --case cartpole [--peers [NAME …]] [--seconds 60] [--seeds 0 1 2]
    python benchmarks/throughput.py --case cartpole --wall --peers          # seconds to an evaluated return of 475
    python benchmarks/throughput.py --case halfcheetah --steps 1000000 --peers cleanrl-ppo --seeds 0 1 2

distrl and each peer run one after the other, in processes of their own, measured by the same clock: fields and rules
are in benchmarks/throughput_peers/shared.py. ``--peers`` alone takes all of the case; ``make throughput-peers``
installs them. A peer that fails is in the line with its command and its error.

``raw_vector_steps_per_s``: of one core, Gymnasium's best vectorisation of the environment. ``limit``: that times (cores
− CPU seconds a second that all processes of distrl's run used but its env workers), and the share of it that was
reached. ``pss_mb``: of all processes of distrl's run together, the most that was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
SCRIPTS = Path("benchmarks/throughput_peers")
TARGET = 475.0  # CartPole-v1: what Gymnasium counts as solved
_LOOK_S = 0.5
_MEMORY_LOOK_S = 5.0  # it costs a millisecond a process; sooner at first
_START_UP_S = 300.0  # beyond what is asked for, before a script counts as hung
_STEP_S = 0.01  # … and for each env step that is asked for
_ENV_WORKERS = "EnvWorker"  # in the command line of the processes that step distrl's environments


@dataclass(frozen=True)
class Script:
    """Attributes: python: of its environment. command: script and arguments. cases: that it knows. install: how."""

    python: str
    command: tuple[str, ...]
    cases: tuple[str, ...] = ("cartpole", "halfcheetah", "pong", "slow")
    install: str = "make throughput-peers"


_SF = ".venv-throughput-peers/sample-factory/bin/python"
_FAST = ("cartpole", "halfcheetah", "pong")
DISTRL = Script(sys.executable, ("distrl_train.py",))
RAW = Script(sys.executable, ("raw_vector.py",), _FAST)
PEERS = {
    "sample-factory": Script(_SF, ("sample_factory_appo.py",)),
    "sample-factory-vectorised": Script(_SF, ("sample_factory_appo.py", "--vectorised"), ("cartpole",)),
    "rllib-appo": Script(sys.executable, ("rllib.py", "--algorithm", "appo")),
    "rllib-impala": Script(sys.executable, ("rllib.py", "--algorithm", "impala")),
    "rllib-ppo": Script(sys.executable, ("rllib.py", "--algorithm", "ppo")),
    "sb3-ppo": Script(".venv-peers/bin/python", ("sb3_ppo.py",)),
    "cleanrl-ppo": Script(sys.executable, ("cleanrl_ppo.py",), _FAST),
}


class Watch:
    """The processes below one: the CPU that they use, by whether they step environments, and their memory."""

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)
        self._known: dict[int, psutil.Process] = {}
        self._cpu_s: dict[int, float] = {}
        self._steps_environments: dict[int, bool] = {}
        self._samples: list[tuple[float, float, float]] = []  # Unix time, CPU seconds of env workers, of the others
        self._began = time.monotonic()
        self._next_memory_look = self._began + _LOOK_S
        self.pss_mb = 0.0

    def look(self) -> None:
        """Read the counters of all of them."""
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        for process in processes:  # parents first
            with contextlib.suppress(psutil.Error):
                of_parent = self._steps_environments.get(process.ppid(), False)
                itself = any(_ENV_WORKERS in part for part in process.cmdline())
                times = process.cpu_times()  # any of these may find it gone: what follows happens together
                self._known[process.pid] = process
                self._cpu_s[process.pid] = times.user + times.system
                self._steps_environments[process.pid] = of_parent or itself
        environments = sum(seconds for pid, seconds in self._cpu_s.items() if self._steps_environments[pid])
        self._samples.append((time.time(), environments, sum(self._cpu_s.values()) - environments))
        now = time.monotonic()
        if now >= self._next_memory_look:
            self._next_memory_look = now + min(now - self._began, _MEMORY_LOOK_S)
            self.pss_mb = max(self.pss_mb, sum(_pss_mb(process) for process in processes))

    def cpu_per_s(self, window: tuple[float, float]) -> tuple[float, float]:
        """CPU seconds a second of the env workers, and of all others, between two Unix times."""
        when, *used = np.array(self._samples).T
        environments, others = (np.diff(np.interp(window, when, one))[0] / (window[1] - window[0]) for one in used)
        return float(environments), float(others)

    def end(self) -> None:
        """Whoever is left."""
        left = [process for process in self._known.values() if process.is_running()]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(left, timeout=5)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _pss_mb(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss / 2**20
    except psutil.Error:
        return 0.0


def last_line(output: str) -> dict[str, Any] | None:
    """The newest JSON object among what a script and its libraries printed."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)
    return None


def run(script: Script, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    """What a script printed, with what its processes used; or the command that failed and its error."""
    command = [script.python, str(SCRIPTS / script.command[0]), *script.command[1:], *arguments]
    failed = {"command": shlex.join(command).replace(sys.executable, "python")}
    if not (ROOT / script.python).exists():
        return failed | {"error": f"not installed: {script.install}"}
    with tempfile.TemporaryDirectory(prefix="throughput-", ignore_cleanup_errors=True) as folder:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(Path(folder) / "out", "w+") as out, open(Path(folder) / "errors", "w+") as errors:
            started = time.time()
            process = subprocess.Popen(
                [*command, f"--started={started}"], cwd=ROOT, stdout=out, stderr=errors, env=environ, text=True
            )
            watch = Watch(process.pid)
            try:
                while process.poll() is None and time.time() - started < timeout_s:
                    watch.look()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK_S)
                hung = process.poll() is None
            finally:
                watch.end()
            code = process.wait()
            out.seek(0)
            errors.seek(0)
            found, complaint = last_line(out.read()), errors.read().strip().splitlines()
    if hung:
        return failed | {"error": f"took more than {timeout_s:.0f} s"}
    if found is None:
        return failed | {"error": (complaint or [f"exit code {code}, and no JSON line"])[-1]}
    if "window" in found:
        environments, others = watch.cpu_per_s(found["window"])
        found["cpu_per_s"] = {"env_workers": round(environments, 3), "others": round(others, 3)}
    return found | {"pss_mb": round(watch.pss_mb)}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def middle(runs: list[dict[str, Any]], field: str) -> float | None:
    """The median of a field over those runs that have it."""
    values = [run[field] for run in runs if run.get(field) is not None]
    return statistics.median(values) if values else None


def limit(rate: float | None, raw: float | None, runs: list[dict[str, Any]], cores: int) -> dict[str, Any] | None:
    """Raw rate × (cores − CPU seconds a second of everybody but the env workers), and the share of it that is reached;
    None where env workers have no processes of their own."""
    used = [run["cpu_per_s"] for run in runs if run.get("cpu_per_s", {}).get("env_workers")]
    if rate is None or raw is None or not used:
        return None
    others = statistics.median(one["others"] for one in used)
    reachable = raw * (cores - others)
    return {"cores": cores, "others_cpu_per_s": others, "env_steps_per_s": reachable, "share": rate / reachable}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Raw limit, distrl, then each peer, seed by seed in turns."""
    asked = ["--case", options.case, f"--seconds={options.seconds}"]
    timeout_s = _START_UP_S + options.seconds
    if options.wall:
        asked += [f"--target={TARGET}"]
    if options.steps:
        asked += [f"--steps={options.steps}"]
        timeout_s += options.steps * _STEP_S
    extra = {"distrl": [*(["--local"] if options.local else []), *(["--set", *options.set] if options.set else [])]}
    scripts = {"distrl": DISTRL} | {name: PEERS[name] for name in options.peers}
    raw = run(RAW, ["--case", options.case], _START_UP_S) if options.case in RAW.cases else {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in scripts}
    for seed in options.seeds:
        for name, script in scripts.items():
            print(f"{options.case} {name} seed {seed}", file=sys.stderr)
            runs[name].append(run(script, [*asked, f"--seed={seed}", *extra.get(name, [])], timeout_s))
    ours, key = runs.pop("distrl"), "seconds_to_target" if options.wall else "trained_env_steps_per_s"
    facts, raw_rate, value = machine(), raw.get("steps_per_s"), middle(ours, key)
    peers = {name: middle(found, key) for name, found in runs.items()}
    return {
        "benchmark": "throughput",
        "case": options.case,
        "seeds": options.seeds,
        "trained_env_steps_per_s": middle(ours, "trained_env_steps_per_s"),
        "raw_vector_steps_per_s": raw_rate,
        "limit": limit(middle(ours, "trained_env_steps_per_s"), raw_rate, ours, facts["cores"]),
        "return_mean": middle(ours, "return_mean"),
        "evaluated_return": middle(ours, "evaluated_return"),
        "seconds_to_target": middle(ours, "seconds_to_target"),
        "busy": middle(ours, "busy"),
        "pss_mb": middle(ours, "pss_mb"),
        "ratio_to_peers": {name: value / other for name, other in peers.items() if value and other},
        "distrl": ours,
        "raw_vector": raw,
        "peers": [{"peer": name, **one} for name, found in runs.items() for one in found],
        "machine": facts,
    }


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what does not fit together is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("cartpole", "halfcheetah", "pong", "slow"), required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring; with --wall the longest time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="alone: all that know the case")
    parser.add_argument("--wall", action="store_true", help=f"seconds to an evaluated return of {TARGET:.0f}")
    parser.add_argument("--steps", type=int, help="train for so many env steps, whatever the time")
    parser.add_argument("--local", action="store_true", help="distrl in one process")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="of distrl's configuration"
    )
    options = parser.parse_args(arguments)
    if options.wall and options.case != "cartpole":
        parser.error(f"--wall is for --case cartpole, whose target is known; not for {options.case}")
    knowing = [name for name, script in PEERS.items() if options.case in script.cases]
    options.peers = knowing if options.peers == [] else options.peers or []
    for name in options.peers:
        if name not in knowing:
            parser.error(f"{name} has no settings for --case {options.case}: take one of {', '.join(knowing)}")
    return options


def main() -> None:
    found = measure(options_of())
    print(json.dumps(found))
    sys.exit(any("error" in one for one in found["distrl"]))


if __name__ == "__main__":
    main()
