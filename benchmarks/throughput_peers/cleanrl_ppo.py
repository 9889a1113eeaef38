"""PPO with the details and published settings of CleanRL's single-file scripts, written anew for Gymnasium 1.2.

Nothing of CleanRL is installed: this is the same algorithm with the same settings (docs.cleanrl.dev/rl-algorithms/ppo:
``ppo.py`` for CartPole, ``ppo_continuous_action.py`` for HalfCheetah, ``ppo_atari.py`` for Pong), and like those
scripts it treats a truncated episode as a terminated one, acts in torch, and steps its environments in turn in one
process. The learning rate falls to 0 at ``total_steps``, which is each script's default.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from shared import Run, evaluate, make
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

GAMMA, GAE_LAMBDA, VALUE_COEFFICIENT, MAX_GRADIENT_NORM, ADAM_EPSILON = 0.99, 0.95, 0.5, 0.5, 1e-5


@dataclass(frozen=True)
class Settings:
    """What differs between the three scripts."""

    envs: int
    rollout_steps: int
    minibatches: int
    epochs: int
    learning_rate: float
    clip: float
    entropy_coefficient: float
    total_steps: int


SETTINGS = {
    "cartpole": Settings(4, 128, 4, 4, 2.5e-4, 0.2, 0.01, 500_000),
    "halfcheetah": Settings(1, 2048, 32, 10, 3e-4, 0.2, 0.0, 1_000_000),
    "pong": Settings(8, 128, 4, 4, 2.5e-4, 0.1, 0.01, 10_000_000),
}


class NormalizedObservation(gymnasium.wrappers.NormalizeObservation):
    """Normalised and clipped to ±10."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.clip(super().observation(observation), -10.0, 10.0)


def training_env(case: str) -> gymnasium.Env:
    env = gymnasium.wrappers.RecordEpisodeStatistics(make(case))
    if case != "halfcheetah":
        return env
    env = NormalizedObservation(gymnasium.wrappers.ClipAction(env))
    env = gymnasium.wrappers.NormalizeReward(env, gamma=GAMMA)
    return gymnasium.wrappers.TransformReward(env, lambda reward: float(np.clip(reward, -10.0, 10.0)))


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Module:
    return initialised(nn.Linear(inputs, outputs), gain)


def initialised(layer: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    """Orthogonal weights, no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Policy and value: two tanh networks of 64 × 64, or for images the heads of one convolutional network."""

    def __init__(self, case: str, observation_space: gymnasium.spaces.Box, action_space: gymnasium.Space):
        super().__init__()
        self.discrete = isinstance(action_space, gymnasium.spaces.Discrete)
        outputs = int(action_space.n) if self.discrete else math.prod(action_space.shape)
        self.scale = 1.0
        if case == "pong":
            self.scale = 1 / 255
            convolutions = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
            layers = [part for layer in convolutions for part in (initialised(layer), nn.ReLU())]
            self.torso = nn.Sequential(*layers, nn.Flatten(), linear(64 * 7 * 7, 512), nn.ReLU())
            self.actor, self.critic = linear(512, outputs, 0.01), linear(512, 1, 1.0)
        else:
            self.torso = nn.Identity()
            self.actor, self.critic = (
                nn.Sequential(
                    linear(observation_space.shape[0], 64), nn.Tanh(), linear(64, 64), nn.Tanh(), linear(64, size, gain)
                )
                for size, gain in ((outputs, 0.01), (1, 1.0))
            )
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(1, outputs))

    def forward(self, observation: Tensor) -> tuple[Categorical | Independent, Tensor]:
        hidden = self.torso(observation * self.scale)
        output, value = self.actor(hidden), self.critic(hidden).squeeze(-1)
        if self.discrete:
            return Categorical(logits=output), value
        return Independent(Normal(output, self.log_std.expand_as(output).exp()), 1), value

    def greedy(self, observation: Tensor) -> Tensor:
        output = self.actor(self.torso(observation * self.scale))
        return output.argmax(-1) if self.discrete else output


def advantages(reward: Tensor, value: Tensor, last_value: Tensor, ended: Tensor) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), [T, N]; ``ended`` after step t."""
    found, running, following = torch.empty_like(reward), torch.zeros_like(last_value), last_value
    for t in reversed(range(len(reward))):
        going = 1.0 - ended[t]
        running = reward[t] + GAMMA * following * going - value[t] + GAMMA * GAE_LAMBDA * going * running
        found[t], following = running, value[t]
    return found


def update(agent: Agent, optimizer: torch.optim.Optimizer, settings: Settings, batch: dict[str, Tensor]) -> None:
    """Epochs of minibatches over one rollout, flat [T · N, …]."""
    size = len(batch["reward_to_go"])
    for _ in range(settings.epochs):
        for chosen in torch.randperm(size).split(size // settings.minibatches):
            part = {name: column[chosen] for name, column in batch.items()}
            distribution, value = agent(part["observation"])
            ratio = (distribution.log_prob(part["action"]) - part["log_prob"]).exp()
            advantage = part["advantage"]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -torch.min(
                advantage * ratio, advantage * ratio.clamp(1 - settings.clip, 1 + settings.clip)
            ).mean()
            moved = (value - part["value"]).clamp(-settings.clip, settings.clip)
            error = torch.max((value - part["reward_to_go"]) ** 2, (part["value"] + moved - part["reward_to_go"]) ** 2)
            entropy = distribution.entropy().mean()
            loss = policy_loss - settings.entropy_coefficient * entropy + VALUE_COEFFICIENT * 0.5 * error.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    run = Run()
    settings = SETTINGS[run.case]
    if run.options.steps:
        settings = dataclasses.replace(settings, total_steps=run.options.steps)
    torch.manual_seed(run.seed)
    makers = [functools.partial(training_env, run.case)] * settings.envs
    vector = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    agent = Agent(run.case, vector.single_observation_space, vector.single_action_space)
    optimizer = torch.optim.Adam(agent.parameters(), lr=settings.learning_rate, eps=ADAM_EPSILON)

    def act(observation: np.ndarray) -> np.ndarray:
        if run.case == "halfcheetah":  # by the statistics of the one training environment
            statistics = vector.envs[0].env.env.obs_rms
            observation = (observation - statistics.mean) / np.sqrt(statistics.var + 1e-8)
            observation = observation.clip(-10.0, 10.0)
        with torch.no_grad():
            action = agent.greedy(torch.as_tensor(observation, dtype=torch.float32)).numpy()
        return action if agent.discrete else action.clip(-1.0, 1.0)

    def evaluated() -> float:
        return evaluate(run.case, act)

    returns: deque[float] = deque(maxlen=100)
    shape = (settings.rollout_steps, settings.envs)
    observations = torch.zeros(shape + vector.single_observation_space.shape)
    actions = torch.zeros(shape + vector.single_action_space.shape)
    log_probs, rewards, values, ended = (torch.zeros(shape) for _ in range(4))
    current = torch.as_tensor(vector.reset(seed=run.seed)[0], dtype=torch.float32)
    env_steps = 0
    while True:
        left = max(1.0 - env_steps / settings.total_steps, 0.0)
        optimizer.param_groups[0]["lr"] = left * settings.learning_rate
        for t in range(settings.rollout_steps):
            with torch.no_grad():
                distribution, values[t] = agent(current)
                action = distribution.sample()
                log_probs[t] = distribution.log_prob(action)
            observations[t], actions[t] = current, action
            following, reward, terminated, truncated, info = vector.step(action.numpy())
            rewards[t] = torch.as_tensor(reward)
            ended[t] = torch.as_tensor(terminated | truncated)
            current = torch.as_tensor(following, dtype=torch.float32)
            if "final_info" in info:
                episodes = info["final_info"]["episode"]
                returns += [float(value) for value in episodes["r"][info["final_info"]["_episode"]]]
        with torch.no_grad():
            last_value = agent(current)[1]
        advantage = advantages(rewards, values, last_value, ended)
        columns = {
            "observation": observations,
            "action": actions,
            "log_prob": log_probs,
            "value": values,
            "advantage": advantage,
            "reward_to_go": advantage + values,
        }
        update(agent, optimizer, settings, {name: column.flatten(0, 1) for name, column in columns.items()})
        env_steps += settings.rollout_steps * settings.envs
        if run.trained(env_steps, evaluated):
            break
    final = evaluated() if run.case != "pong" else None  # a few thousand steps an episode
    run.report(dataclasses.asdict(settings), float(np.mean(returns)) if returns else None, evaluated_return=final)


if __name__ == "__main__":
    main()
