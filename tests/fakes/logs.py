"""Run directories with a log of known content, without a run."""

from pathlib import Path

import numpy as np
from gymnasium import spaces

from distrl.core.config import RunConfig
from distrl.core.experience_log import ExperienceLog
from distrl.core.log_facts import LogFacts
from distrl.core.run_directory import RunDirectory
from distrl.core.types import COLUMNS, FINAL, OBSERVATION, EnvSpec, Fragment
from distrl.envs.checks import flatten_observation
from distrl.envs.resolve import make, spec_of

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


def played(path: Path, env_id: str, act, episodes: int, seed: int = 0, **env) -> RunDirectory:
    """A run directory with the log of whole episodes of an environment of one agent.

    Args:
        act: (observation as the environment gives it, generator, number of the episode) → action.
        env: more of its section of the configuration.
    """
    config = RunConfig(env={"id": env_id, **env})
    recipe = config.env.recipe()
    made = make(recipe)
    spec = spec_of(made, recipe)
    run = RunDirectory.create(path, config)
    log = ExperienceLog(path / "log", facts=LogFacts.of(run.id, recipe, spec))
    rng = np.random.default_rng(seed)
    for number in range(episodes):
        observation, _ = made.reset(seed=seed + number)
        seen, actions, rewards, over = [observation], [], [], False
        while not over:
            actions.append(np.asarray(act(observation, rng, number), spec.action_space.dtype))
            observation, reward, terminated, truncated, _ = made.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
            over = terminated or truncated
        steps = len(rewards)
        columns = {name: np.zeros((steps, 1), dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "TB"}
        columns |= {name: np.zeros(1, dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "B"}
        columns["reward"][:, 0], columns["step"][:, 0], columns["episode_uid"][:] = rewards, np.arange(steps), number
        columns["terminated"][-1], columns["truncated"][-1] = terminated, truncated
        columns["action"] = np.stack(actions)[:, None]
        flat = [flatten_observation(spec.observation_space, one) for one in seen]
        for name in flat[0]:
            column = np.stack([one[name] for one in flat])[:, None]
            columns[OBSERVATION + name], columns[FINAL + name] = column, column[-1]
        columns["final_index"] = np.array([[steps - 1, 0]], np.int32)
        log.append(Fragment(columns))
    log.close()
    made.close()
    return run
