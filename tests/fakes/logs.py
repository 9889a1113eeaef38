"""Run directories with a log of known content, without a run."""

from pathlib import Path

from gymnasium import spaces

from distrl.core.config import RunConfig
from distrl.core.experience_log import ExperienceLog
from distrl.core.log_facts import LogFacts
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec

OBSERVATIONS = spaces.Box(-1e9, 1e9, (3,), "float32")
ACTIONS = spaces.Box(-1, 1, (1,), "float32")


def facts_of(run_id="", observations=OBSERVATIONS, actions=ACTIONS, **env) -> LogFacts:
    """The facts of a run on Pendulum-v1; ``env``: what its section of the configuration says otherwise."""
    recipe = RunConfig(env={"id": "Pendulum-v1", **env}).env.recipe()
    return LogFacts.of(run_id, recipe, EnvSpec(recipe.id, observations, actions, ("coarse", "fine")))


def logged(path: Path, fragments, *, segment_bytes=64 << 20, **facts) -> RunDirectory:
    """A run directory whose log holds these fragments."""
    run = RunDirectory.create(path, RunConfig(env={"id": "Pendulum-v1"}))
    log = ExperienceLog(path / "log", segment_bytes, facts=facts_of(run.id, **facts))
    for item in fragments:
        log.append(item)
    log.close()
    return run


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
