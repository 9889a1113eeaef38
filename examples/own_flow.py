"""A flow of your own from the parts of the embedded solver, as an environment: python examples/own_flow.py [STEPS]

A flexible flag is fixed behind an elliptic post, both in one scene; turning the post shall make the flag wave. Any
outline and any number of bodies will do; ``own_flow:WavingFlag`` is what ``env.id`` would be.
"""

import sys

import gymnasium as gym
import numpy as np

from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Filament, Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.scene import Scene

D, SPEED, STEPS = 12, 0.05, 60  # cells of the post's height, inflow in cells a step, lattice steps of a control step


class WavingFlag(gym.Env):
    """Action: turning speed of the post. Reward: the speed of the flag's tip, squared, in U²."""

    def __init__(self):
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (5,), np.float32)  # tip and middle, turn of the post

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        fluid = Fluid(16 * D, 8 * D, SPEED * D / 100, SPEED, sponge=graded_sponge(16 * D, 2 * D, 3 * D))  # Re 100
        t = np.linspace(0, 2 * np.pi, round(2.4 * D), endpoint=False)
        post = RigidBody(D * np.stack([0.25 * np.cos(t), 0.5 * np.sin(t)], axis=1), 4.0 * D, 4.0 * D + 0.5)
        beam = make_beam(2 * D, 1.0 * D, 0.01 * SPEED**2 * D**3)  # 2 D long: its mass and stiffness
        flag = Filament.straight(beam, 5.0 * D, 4.0 * D + 0.5, angle=self.np_random.uniform(-0.1, 0.1))
        self.scene = Scene(fluid, {"post": post, "flag": flag})
        self.flag, self.post, self.angle, self.steps = flag, post, 0.0, 0
        return self.observe(), {}

    def observe(self):
        height = (self.flag.shape[[-1, D], 1] - self.post.y) / D
        speed = (self.flag.shape[[-1, D], 1] - self.flag.shape_old[[-1, D], 1]) / SPEED
        return np.array([*height, *speed, self.angle], np.float32)

    def step(self, action):
        spin = 0.5 * SPEED / D * float(np.clip(action[0], -1, 1))
        turned = self.angle + spin * np.arange(1, STEPS + 1)
        loads = self.scene.advance(STEPS, {"post": Motion(self.post.x, self.post.y, turned, spin=spin)})
        self.angle = float(turned[-1])
        self.steps += 1
        observation = self.observe()
        return observation, float(observation[2]) ** 2, loads.outcome != "fine", self.steps >= 100, {}


if __name__ == "__main__":
    env = WavingFlag()
    env.reset(seed=0)
    total = 0.0
    for step in range(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
        action = np.array([np.sign(np.sin(step / 6))], np.float32)  # to and fro every 9 D/U
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if step % 10 == 9:
            print(f"t = {(step + 1) * STEPS * SPEED / D:4.1f} D/U: tip at {observation[0]:+.2f} D, return {total:.2f}")
        if terminated or truncated:
            break
