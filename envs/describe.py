"""A recipe goes in; an EnvSpec comes out of a fresh short-lived process that has made the environment and tried it.

So that a broken environment is refused before anything starts, and the calling process imports none of its modules. As
``python -m distrl.envs.describe ID`` it prints what it found.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError, DistrlError, EnvironmentFault
from distrl.core.joint import RandomAgents
from distrl.core.spaces import action_leaf, leaves, random_action
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs.checks import describe_exception, unpack_reset, unpack_step, write_observation
from distrl.envs.delay import without_failures
from distrl.envs.light_process import TREE, describe_exit, die_with_parent, kill_tree, light_command, light_environment
from distrl.envs.resolve import make, pickle_recipe, preload, spec_of

PATIENCE_S = 10.0  # no further step is tried after so long: a step may take minutes


@dataclass(frozen=True)
class Trial:
    """What trying an environment showed.

    Attributes:
        spec: its spaces, fidelities and time limit.
        construct_s, reset_s: wall seconds of the constructor and the first reset.
        step_s: median wall seconds of a step with a random action; None where no step was tried.
        memory_bytes: by which its process has grown since it had imported the environment's module; 0 where the
            system does not tell.
    """

    spec: EnvSpec
    construct_s: float
    reset_s: float
    step_s: float | None
    memory_bytes: int


def describe(recipe: EnvRecipe, *, steps: int = 3, timeout_s: float = 600.0) -> EnvSpec:
    """The spec of an environment after one reset and a few random, validated steps; see ``try_environment``."""
    return try_environment(recipe, steps=steps, timeout_s=timeout_s).spec


def try_environment(recipe: EnvRecipe, *, steps: int = 3, timeout_s: float = 600.0) -> Trial:
    """Make an environment in a process of its own, reset it, take random steps. May be called from any thread.

    Args:
        steps: random actions tried, fewer where they take more than PATIENCE_S (0: only construct, without a reset).
        timeout_s: for all of it, in seconds.

    Raises:
        ConfigError: wrong id, import path, arguments, or spaces that cannot be hosted.
        EnvironmentFault: its constructor, reset or step raised, returned something outside its spaces, hung or crashed.
    """
    tree = uuid.uuid4().hex
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
        question.write(pickle.dumps((pickle_recipe(recipe), steps)))
        question.seek(0)
        process = subprocess.Popen(
            light_command("distrl.envs.describe:_child", str(answer.fileno()), str(os.getpid())),
            stdin=question,
            stdout=2,  # an environment that prints must not mix with our own output
            pass_fds=(answer.fileno(),),
            env=light_environment({TREE: tree}),
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(
                f"{recipe.id} must finish its constructor, reset and {steps} steps within {timeout_s:g} s; it did not.",
                "hang",
            ) from None
        finally:
            kill_tree(tree)  # the process itself, and what the environment has started
            process.wait()
        answer.seek(0)
        data = answer.read()
    if not data:
        how = describe_exit(process.returncode)
        raise EnvironmentFault(f"{recipe.id} ended its process while it was tried out ({how}).", "crash")
    result = pickle.loads(data)
    if isinstance(result, BaseException):
        raise result
    return result


def _try_out(recipe: EnvRecipe, steps: int) -> Trial:
    """In this process: construct, reset with seed 0, take random steps that are allowed (resetting at ends), close; all
    validated."""
    doing = "its constructor"
    times: list[float] = []
    begin = time.monotonic()
    try:
        preload(recipe)  # what forked processes share is no environment's own
        before = _resident_bytes()
        # what an artificial delay breaks on purpose is no fault of the environment
        env = make(recipe if recipe.delay is None else replace(recipe, delay=without_failures(recipe.delay)))
        construct_s = time.monotonic() - begin
        spec = spec_of(env, recipe)
        action_leaf(spec.action_space)
        targets = [(leaf, np.empty(leaf.spec.shape, leaf.spec.dtype)) for leaf in leaves(spec.observation_space)]
        env.action_space.seed(0)
        agents = RandomAgents(spec.agents, 0) if spec.agents else None
        doing, begin = "reset", time.monotonic()
        if steps > 0:
            observation = unpack_reset(env.reset(seed=0))
            write_observation(observation, targets, "reset")
        reset_s = time.monotonic() - begin
        while len(times) < steps and sum(times) < PATIENCE_S:
            doing = "step"
            if agents is not None:
                action = agents.act({leaf.path: array for leaf, array in targets})
            else:
                action = random_action(env.action_space, observation)
            begin = time.monotonic()
            result = env.step(action)
            times.append(time.monotonic() - begin)
            observation, _, terminated, truncated, _ = unpack_step(result)
            write_observation(observation, targets, "step")
            if terminated or truncated:
                doing = "reset"
                observation = unpack_reset(env.reset(seed=1))
                write_observation(observation, targets, "reset")
        memory_bytes = max(_resident_bytes() - before, 0)
        doing = "close"
        env.close()
    except EnvironmentFault as fault:
        raise EnvironmentFault(f"{recipe.id}: {fault}", fault.kind) from fault
    except DistrlError:
        raise
    except Exception as error:
        traceback.print_exc()
        cause = describe_exception(error, skip=("envs/describe.py", "envs/resolve.py", "envs/delay.py"))
        raise EnvironmentFault(f"{recipe.id} raised in {doing}: {cause}.", "error") from error
    return Trial(spec, construct_s, reset_s, statistics.median(times) if times else None, memory_bytes)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _child(answer_fd: str, parent: str) -> None:
    die_with_parent(int(parent))
    result: Any
    try:
        pickled, steps = pickle.load(sys.stdin.buffer)
        recipe = pickle.loads(pickled)
        result = _try_out(recipe, steps)
    except DistrlError as error:
        result = error
    except Exception as error:  # noqa: BLE001 - whatever unpickling a user's object raises
        result = ConfigError(f"the environment's recipe must travel to another process: {error}.")
    with os.fdopen(int(answer_fd), "wb") as answer:
        try:
            answer.write(pickle.dumps(result))
        except Exception as error:  # noqa: BLE001 - whatever pickling a user's object raises
            answer.write(pickle.dumps(ConfigError(f"{recipe.id}: its spaces must be picklable: {error}.")))
    sys.stderr.flush()
    os._exit(0)  # an environment's leftover threads must not keep this process


def main(arguments: list[str] | None = None) -> int:
    """``python -m distrl.envs.describe ID``: print the spec or the one sentence that says what is wrong."""
    parser = argparse.ArgumentParser(description="Make an environment in a fresh process, try it, print its spaces.")
    parser.add_argument("id", help="a distrl or Gymnasium id, or package.module:Class")
    parser.add_argument("--steps", type=int, default=3, help="random steps to try")
    options = parser.parse_args(arguments)
    try:
        spec = describe(EnvRecipe(options.id), steps=options.steps)
    except DistrlError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"observation_space: {spec.observation_space}\naction_space: {spec.action_space}")
    print(f"fidelities: {', '.join(spec.fidelities)}\nmax_episode_steps: {spec.max_episode_steps}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
