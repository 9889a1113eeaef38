"""A recipe goes in; an EnvSpec comes out of a fresh short-lived process that has made the environment and tried it.

So that a broken environment is refused before anything starts, and the calling process imports none of its modules.
Also the home of how a light interpreter of ours is started (the fork server is one too): as ``python -m
distrl.envs.describe ID`` it prints what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from typing import Any

from distrl.core.errors import ConfigError, DistrlError, EnvironmentFault
from distrl.core.types import EnvRecipe, EnvSpec

#: Variables of schedulers and launchers: an MPI solver that finds them believes that it is a rank of *our* job.
_FOREIGN = ("RAY_", "SLURM_", "PBS_", "PMI_", "PMIX_", "PMI2_", "OMPI_", "MPI_", "I_MPI_", "HYDRA_", "MV2_", "ALPS_")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from distrl.core.types import import_path; import_path(sys.argv[2])(*sys.argv[3:])"
)


def light_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The variables of a light interpreter: ours, without a scheduler's, Ray's or MPI's, and one thread per library."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    kept.update(dict.fromkeys(_THREADS, "1"))
    kept.update(extra or {})
    return kept


def light_command(target: str, *arguments: str) -> list[str]:
    """The command line that calls ``"module:function"`` with strings, with this process's module search path.

    Ray puts a job's working directory on ``sys.path`` only, so a plain ``-m`` would not find the user's modules there.
    """
    path = [entry or os.getcwd() for entry in sys.path]
    return [sys.executable, "-c", _START, json.dumps(path), target, *arguments]


def describe(recipe: EnvRecipe, *, steps: int = 3, timeout_s: float = 300.0) -> EnvSpec:
    """The spec of an environment after one reset and a few random, validated steps. May be called from any thread.

    Args:
        steps: random actions tried (0: only construct; the reset is then left out as well).
        timeout_s: for all of it, in seconds.

    Raises:
        ConfigError: wrong id, import path, arguments, or spaces that cannot be hosted.
        EnvironmentFault: its constructor, reset or step raised, returned something outside its spaces, hung or crashed.
    """
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
        pickle.dump((recipe, steps), question)
        question.seek(0)
        process = subprocess.Popen(
            light_command("distrl.envs.describe:_child", str(answer.fileno())),
            stdin=question,
            stdout=2,  # an environment that prints must not mix with our own output
            pass_fds=(answer.fileno(),),
            env=light_environment(),
            start_new_session=True,  # so that what the environment starts dies with it
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(
                f"{recipe.id} must finish its constructor, reset and {steps} steps within {timeout_s:g} s; it did not.",
                "hang",
            ) from None
        finally:
            _kill_group(process)
        answer.seek(0)
        data = answer.read()
    if not data:
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise EnvironmentFault(f"{recipe.id} ended its process while it was tried out ({how}).", "crash")
    result = pickle.loads(data)
    if isinstance(result, BaseException):
        raise result
    return result


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()


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
        recipe, steps = pickle.load(sys.stdin.buffer)
        result = try_out(recipe, steps)
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
