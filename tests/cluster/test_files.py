"""The files that start a cluster, each checked by its own tool as far as that goes without a cluster.

The launcher's file: Ray's own schema and defaults (no cloud is asked whether instance types and the file system exist).
KubeRay's: the pods in them by Kubernetes' published schemas; of the rest only which keys there are, as KubeRay's types
name them (ray-operator/apis/ray/v1 in its repository; authOptions from 1.5.1 on): no operator has seen them. The Slurm
script: bash and shellcheck; in a slow test it also runs, on this machine as its one node, with stand-ins for srun and
scontrol: what Slurm itself does with the #SBATCH lines is not checked. The Dockerfile: hadolint; it is built nowhere.
"""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys

import kubernetes_validate
import pytest
import ray
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

import distrl
from distrl.cli import app
from tests.cluster.test_jobs import OWN_MODULE, OWN_PRESET, PYTHON, ROOT
from tests.fakes.processes import wait_until

FILES = ROOT / "cluster" / "files"
KUBERNETES = "1.33"

#: Where in a KubeRay resource → the keys there may be, and of these the ones that must be.
KEYS = {
    "RayClusterSpec": (
        "headGroupSpec workerGroupSpecs rayVersion enableInTreeAutoscaling autoscalerOptions headServiceAnnotations "
        "suspend authOptions",
        "headGroupSpec",
    ),
    "headGroupSpec": (
        "serviceType headService enableIngress rayStartParams template",
        "rayStartParams template",
    ),
    "workerGroupSpecs": (
        "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template scaleStrategy",
        "groupName minReplicas maxReplicas rayStartParams template",
    ),
    "autoscalerOptions": (
        "resources image imagePullPolicy env envFrom volumeMounts securityContext idleTimeoutSeconds upscalingMode",
        "",
    ),
    "authOptions": ("mode", "mode"),
    "RayJobSpec": (
        "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector "
        "submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources "
        "entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
        "entrypoint",
    ),
}


def read(name):
    return yaml.safe_load((FILES / name).read_text())


def which(name):
    """A tool that is installed beside this Python."""
    return shutil.which(name, path=f"{PYTHON.parent}:{os.environ['PATH']}")


def check_keys(where, found):
    may, must = (set(names.split()) for names in KEYS[where])
    assert set(found) <= may, f"{where} has no {sorted(set(found) - may)}"
    assert must <= set(found), f"{where} lacks {sorted(must - set(found))}"


def check_cluster(spec):
    """A RayClusterSpec."""
    check_keys("RayClusterSpec", spec)
    check_keys("autoscalerOptions", spec["autoscalerOptions"])
    check_keys("authOptions", spec["authOptions"])
    check_keys("headGroupSpec", spec["headGroupSpec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in spec["workerGroupSpecs"]:
        check_keys("workerGroupSpecs", group)
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_launcher_accepts_its_file_and_every_start_of_ray_asks_for_the_token():
    config = prepare_config(read("ray-cluster.yaml"))
    validate_config(config)
    assert config["provider"]["use_internal_ips"] is True
    starts = [
        line for line in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any(f"distrl=={distrl.__version__}" in line for line in config["worker_setup_commands"])


def test_the_launcher_refuses_a_key_that_it_does_not_know():
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(read("ray-cluster.yaml") | {"idle_timeout": 3}))


def test_a_ray_cluster_on_kubernetes():
    found = read("kuberay-cluster.yaml")
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayCluster")
    check_cluster(found["spec"])


def test_a_pod_with_a_wrong_key_is_refused():
    spec = read("kuberay-cluster.yaml")["spec"]
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="enviroment"):
        check_cluster(spec)


def test_a_ray_job_runs_a_command_of_distrl_on_the_same_cluster():
    found = read("kuberay-job.yaml")
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    spec = found["spec"]
    check_keys("RayJobSpec", spec)
    check_cluster(spec["rayClusterSpec"])
    assert spec["rayClusterSpec"] == read("kuberay-cluster.yaml")["spec"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    variables = RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))["env_vars"]
    assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > 3
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "distrl.cli"]
    given = typer.main.get_command(app).commands[words[3]].make_context(words[3], words[4:]).params
    assert (given["address"], given["out"].parts[1]) == ("auto", "runs")


def test_the_slurm_script_is_good_bash():
    script = FILES / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([which("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "RAY_AUTH_MODE=token" in script.read_text()


def test_the_dockerfile_is_what_hadolint_wants_and_has_the_ray_of_distrl():
    path = FILES / "Dockerfile"
    done = subprocess.run([which("hadolint"), path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = path.read_text()
    assert f"FROM rayproject/ray:{ray.__version__}-py311" in text
    assert "RAY_AUTH_MODE=token" in text


@pytest.mark.slow
def test_the_slurm_script_trains_until_it_is_told_that_its_time_is_over(tmp_path):
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, body in {
        "scontrol": "echo here",
        "hostname": "echo 127.0.0.1",
        "srun": 'while [[ "$1" == -* ]]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
        "distrl": f'exec {sys.executable} -m distrl.cli "$@"',
    }.items():
        (stand_ins / name).write_text(f"#!/bin/bash\n{body}\n")
        (stand_ins / name).chmod(0o755)
    (tmp_path / "my_simulations.py").write_text(OWN_MODULE)
    (tmp_path / "own.toml").write_text(OWN_PRESET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{stand_ins}:{PYTHON.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "4",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes the machine's own address in place of loopback
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
    }
    command = ["bash", FILES / "slurm.sbatch", "train", "own.toml", "--out", tmp_path / "run"]
    token, metrics = tmp_path / ".ray" / "token-7", tmp_path / "run" / "timing.jsonl"
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            begun = wait_until(lambda: metrics.exists() and '"status"' in metrics.read_text(), 120)
            assert begun, (tmp_path / "log").read_text()
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
        finally:
            job.send_signal(signal.SIGTERM)  # as Slurm does with --signal=B:TERM, to the script alone
            code = job.wait(120)
    assert code == 0, (tmp_path / "log").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"]
    assert not token.exists()
