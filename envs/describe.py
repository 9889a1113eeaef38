"""A recipe goes in; an EnvSpec comes out of a fresh short-lived process that has made the environment and tried it.

So that a broken environment is refused before anything starts, and the calling process imports none of its modules. As
``python -m distrl.envs.describe ID`` it prints what it found.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
import uuid
from typing import Any

from distrl.core.errors import ConfigError, DistrlError, EnvironmentFault
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs.light_process import TREE, describe_exit, kill_tree, light_command, light_environment
from distrl.envs.resolve import pickle_recipe


def describe(recipe: EnvRecipe, *, steps: int = 3, timeout_s: float = 300.0) -> EnvSpec:
    """The spec of an environment after one reset and a few random, validated steps. May be called from any thread.

    Args:
        steps: random actions tried (0: only construct; the reset is then left out as well).
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
            light_command("distrl.envs.describe:_child", str(answer.fileno())),
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


def try_out(recipe: EnvRecipe, steps: int) -> EnvSpec:
    """In this process: construct, reset with seed 0, take random steps (resetting at ends), close; all validated."""
    import numpy as np

    from distrl.envs.checks import action_leaf, describe_exception, leaves, unpack_reset, unpack_step, write_observation
    from distrl.envs.resolve import make, spec_of

    doing = "its constructor"
    try:
        env = make(recipe)
        spec = spec_of(env, recipe)
        action_leaf(spec.action_space)
        found = leaves(spec.observation_space)
        targets = [(leaf, np.empty(leaf.spec.shape, leaf.spec.dtype)) for leaf in found]
        env.action_space.seed(0)
        if steps > 0:
            doing = "reset"
            write_observation(unpack_reset(env.reset(seed=0)), targets, "reset")
        for _ in range(steps):
            doing = "step"
            observation, _, terminated, truncated, _ = unpack_step(env.step(env.action_space.sample()))
            write_observation(observation, targets, "step")
            if terminated or truncated:
                doing = "reset"
                write_observation(unpack_reset(env.reset(seed=1)), targets, "reset")
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
    return spec


def _child(answer_fd: str) -> None:
    result: Any
    try:
        pickled, steps = pickle.load(sys.stdin.buffer)
        recipe = pickle.loads(pickled)
        result = try_out(recipe, steps)
    except DistrlError as error:
        result = error
    except Exception as error:  # noqa: BLE001 - whatever unpickling a user's object raises
        result = ConfigError(f"the environment's recipe must travel to another process: {error}.")
    with os.fdopen(int(answer_fd), "wb") as answer:
        try:
            answer.write(pickle.dumps(result))
        except Exception as error:  # noqa: BLE001 - whatever pickling a user's object raises
            answer.write(pickle.dumps(ConfigError(f"{result.id}: its spaces must be picklable: {error}.")))
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
