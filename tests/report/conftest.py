"""A run directory written by hand, whose every number is known."""

import json

import numpy as np
import pytest

from distrl.core.config import RunConfig
from distrl.core.experience_log import ExperienceLog
from distrl.core.run_directory import RunDirectory
from distrl.core.types import COLUMNS, OBSERVATION, Fragment
from tests.fakes.logs import facts_of

BEGIN = 1_700_000_000.0  # Unix time


def steps(env, starts, ends, *, uid, first=0, attempt=0, over="truncated", worker=0, life=0, agents=1):
    """A fragment of one environment: steps of an episode, whose last one ends it unless ``over`` is None."""
    count = len(starts)
    columns = {name: np.zeros((count, agents), dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "TB"}
    columns |= {"env_index": np.full(agents, env, np.int32), "agent_index": np.arange(agents, dtype=np.int32)}
    columns["start_s"][:] = BEGIN + np.array(starts, float)[:, None]
    columns["end_s"][:] = BEGIN + np.array(ends, float)[:, None]
    columns["step"][:] = first + np.arange(count)[:, None]
    columns["episode_uid"][:], columns["attempt"][:] = uid, attempt
    if over:
        columns[over][-1] = True
    columns["action"] = np.zeros((count, agents, 1), np.float32)
    columns[OBSERVATION + "array"] = np.zeros((count + 1, agents, 3), np.float32)
    columns["final_index"] = np.zeros((0, 2), np.int32)
    return Fragment(columns, worker=worker, incarnation=life)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def totals(wall_s, env_steps, core_s, worker_s=0.0, learner_s=0.0, **more):
    """A record of timing.jsonl."""
    known = {"step_s": 6.0, "reset_s": 1.0, "lifetime_s": 10.0, "core_s_by_fidelity": {"fine": core_s}}
    known |= {"env_steps_by_fidelity": {"fine": env_steps}, "produced": env_steps}
    known |= {"core_s": core_s, "cpu_s": worker_s, "learner_cpu_s": learner_s}
    return {"kind": "totals", "wall_s": wall_s, "env_steps": env_steps, **known, **more}


@pytest.fixture
def run(tmp_path):
    """run(name, fragments=…, metrics=…, timing=…, events=…, summary=…, **sections of the configuration) → its path."""

    def write(name, *, fragments=(), metrics=(), timing=(), events=(), summary=None, **sections):
        env = {"id": "Pendulum-v1", **sections.pop("env", {})}
        made = RunDirectory.create(tmp_path / name, RunConfig.validated({"env": env, **sections}))
        if fragments:
            log = ExperienceLog(made.path / "log", facts=facts_of(made.id))
            for fragment in fragments:
                log.append(fragment)
            log.close()
        for file, records in (("metrics", metrics), ("timing", timing), ("events", events)):
            write_lines(made.path / f"{file}.jsonl", records)
        if summary is not None:
            (made.path / "summary.json").write_text(json.dumps(summary))
        return made.path

    return write


def evaluation(env_steps, mean, updates=0):
    """A record of metrics.jsonl."""
    return {"kind": "evaluation", "env_steps": env_steps, "updates": updates, "return_mean": mean, "returns": [mean]}


def episode(env_steps, value, fidelity="fine", **more):
    """A record of metrics.jsonl."""
    return {"kind": "episode", "env_steps": env_steps, "return": value, "length": 1, "fidelity": fidelity, **more}
