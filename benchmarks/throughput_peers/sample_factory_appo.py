"""Sample Factory's APPO: a case in, one JSON line out.

Its own examples' settings (sf_examples: train_gym_env, mujoco_params, atari_params) with what is fastest on two cores.
``--vectorised`` gives it Gymnasium's native vector CartPole, by batched sampling, in place of single environments.
Further arguments are Sample Factory's own and override (``--num_workers=1 …``).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.action_distributions import argmax_actions
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.model_sharing import make_parameter_client
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.train import make_runner
from sample_factory.utils.timing import Timing
from shared import IDS, Run, evaluate, make
from signal_slot.signal_slot import EventLoopObject

COMMON = {
    "algo": "APPO",
    "device": "cpu",
    "use_rnn": False,
    "recurrence": 1,
    "env_frameskip": 1,
    "async_rl": True,
    "restart_behavior": "overwrite",
    "save_every_sec": 100_000,
    "save_best_every_sec": 100_000,
    "stats_avg": 100,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "num_workers": 2,
        "num_envs_per_worker": 32,
        "worker_num_splits": 2,
        "batch_size": 2048,
        "num_epochs": 2,
        "ppo_clip_ratio": 0.2,
        "rollout": 32,
        "encoder_mlp_layers": [64, 64],
        "learning_rate": 1e-3,
        "gamma": 0.98,
        "reward_scale": 0.1,
    },
    "halfcheetah": {
        "num_workers": 2,
        "num_envs_per_worker": 8,
        "batch_size": 1024,
        "rollout": 64,
        "num_epochs": 2,
        "num_batches_per_epoch": 4,
        "encoder_mlp_layers": [64, 64],
        "nonlinearity": "tanh",
        "adaptive_stddev": False,
        "policy_initialization": "torch_default",
        "kl_loss_coeff": 0.1,
        "ppo_clip_ratio": 0.2,
        "value_loss_coeff": 1.3,
        "exploration_loss_coeff": 0.0,
        "learning_rate": 0.00295,
        "lr_schedule": "kl_adaptive_epoch",
        "max_grad_norm": 3.5,
        "value_bootstrap": True,
    },
    "pong": {
        "num_workers": 2,
        "num_envs_per_worker": 8,
        "batch_size": 512,
        "rollout": 32,
        "encoder_conv_architecture": "convnet_atari",
        "nonlinearity": "relu",
        "obs_scale": 255.0,
        "normalize_input": False,
        "exploration_loss_coeff": 0.01,
        "learning_rate": 0.00025,
        "max_grad_norm": 0.5,
        "adam_eps": 1e-5,
    },
    "slow": {
        "num_workers": 16,
        "num_envs_per_worker": 1,
        "worker_num_splits": 1,
        "batch_size": 512,
        "rollout": 32,
        "encoder_mlp_layers": [64, 64],
        "adaptive_stddev": False,
        "gamma": 0.9,
        "learning_rate": 1e-3,
        "reward_scale": 0.1,
        "set_workers_cpu_affinity": False,
    },
}
# What reaches a return soonest: one process, which starts sooner and acts with the newest weights.
SERIAL = {"serial_mode": True, "async_rl": False, "num_workers": 1, "worker_num_splits": 1}
SINGLE_TARGET = SERIAL | {"num_envs_per_worker": 16, "batch_size": 512, "num_epochs": 8}
VECTORISED = {"batched_sampling": True, "num_envs_per_worker": 2, "worker_num_splits": 2, "batch_size": 4096}
VECTORISED_TARGET = SERIAL | {
    "batched_sampling": True,
    "num_envs_per_worker": 1,
    "batch_size": 1024,
    "num_batches_per_epoch": 4,
    "num_epochs": 4,
}
VECTOR_ROWS = 128


def _forward(wrapper: gymnasium.Wrapper, name: str) -> Any:
    if name.startswith("_") or name == "env":
        raise AttributeError(name)
    return getattr(wrapper.env, name)


gymnasium.Wrapper.__getattr__ = _forward  # as before Gymnasium 1.0: how batched sampling learns the number of agents


class Vector(gymnasium.Env):
    """Gymnasium's vector environment as Sample Factory's batched sampling wants one: agents that reset by themselves.

    With the next-step autoreset the step after an episode's end is a dummy with reward 0, which is trained on.
    """

    is_multiagent = True

    def __init__(self, case: str, seed: int):
        self._vector = gymnasium.make_vec(IDS[case], num_envs=VECTOR_ROWS, vectorization_mode="vector_entry_point")
        self._seed, self.num_agents = seed, VECTOR_ROWS
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(self, **kwargs: Any) -> Any:
        observation, _ = self._vector.reset(seed=self._seed)
        return observation, {}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = self._vector.step(np.asarray(action))
        return observation, reward, terminated, truncated, {}


def environment(case: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> gymnasium.Env:
    """Sample Factory's factory: it makes one in a process of its own, without ``env_config``, to look at its spaces."""
    index = env_config.env_id if env_config else 0
    return Vector(case, index) if cfg.batched_sampling else make(case, index)


def configuration(settings: dict[str, Any], arguments: list[str], case: str, seed: int, folder: str) -> Any:
    """Sample Factory's command line."""
    given = [f"--env={case}", f"--seed={seed}", f"--train_dir={folder}", "--experiment=run"]
    for name, value in settings.items():
        given += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    given += arguments
    parser, _ = parse_sf_args(given)
    return parse_full_cfg(parser, given)


class Watch(EventLoopObject, AlgoObserver):
    """Counts what the learner has trained on, and evaluates with the weights that it shares with its samplers."""

    def __init__(self, run: Run, runner: Runner):
        EventLoopObject.__init__(self, runner.event_loop, "watch")
        self._run, self._runner = run, runner
        self.client: Any = None

    def on_connect_components(self, runner: Runner) -> None:
        learner = runner.learners[0]
        self.client = make_parameter_client(
            runner.cfg.serial_mode, learner.param_server, runner.cfg, runner.env_info, Timing()
        )
        learner.model_initialized.connect(self.initialized)

    def initialized(self, weights: Any) -> None:
        self.client.on_weights_initialized(*weights[1:])

    def act(self, observation: np.ndarray) -> np.ndarray:
        model = self.client.actor_critic
        with torch.no_grad():
            tensors = model.normalize_obs({"obs": torch.as_tensor(observation)})
            model(tensors, torch.zeros(len(observation), get_rnn_size(self._runner.cfg)))
            actions = argmax_actions(model.action_distribution())
        return actions.numpy().reshape(len(observation), *self._runner.env_info.action_space.shape)

    def evaluated(self) -> float:
        self.client.ensure_weights_updated()
        return evaluate(self._run.case, self.act)

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        if self._run.trained(runner.env_steps.get(0, 0), self.evaluated):
            runner.cfg.train_for_seconds = 0  # it looks right after this
            runner.total_train_seconds = 1


def main() -> None:
    run = Run()
    arguments = [argument for argument in run.peer_arguments if argument != "--vectorised"]
    vectorised = len(arguments) < len(run.peer_arguments)
    register_env(run.case, environment)
    aim = run.options.target is not None
    tuned = (VECTORISED_TARGET if aim else VECTORISED) if vectorised else (SINGLE_TARGET if aim else {})
    settings = COMMON | SETTINGS[run.case] | tuned
    folder = tempfile.mkdtemp(prefix="sample-factory-")
    try:
        _, runner = make_runner(configuration(settings, arguments, run.case, run.seed, folder))
        watch = Watch(run, runner)
        runner.register_observer(watch)
        if runner.init() == ExperimentStatus.SUCCESS:
            runner.run()
        final = watch.evaluated() if run.case in ("cartpole", "halfcheetah") else None
        returns = runner.policy_avg_stats.get("reward", [[]])[0]
        mean = float(np.mean(returns)) if len(returns) else None
        shown = settings | ({"rows_of_a_vector": VECTOR_ROWS} if vectorised else {})
        run.report(shown | {"arguments": arguments}, mean, evaluated_return=final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
