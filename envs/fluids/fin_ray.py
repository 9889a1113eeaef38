"""Actions in [-1, 1] in, observations and rewards of a swimming fin ray out: the environment ``distrl/FinRay-v0``.

A flexible fin, driven at its root by heave and pitch, actuates its own curvature: the action is the activation a / 3 to
be reached at the end of a control interval of 0.1 L/U, linearly and by at most 1.5 a step. The literature's problem:
Liu, Bodaghi, Xue, Zheng & Wang, arXiv 2401.11349. Equations, every observation, options and figures: docs/fin_ray.md.
"""

import io
import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.envs.fluids import picture
from distrl.envs.fluids.fin_case import (
    ACTUATION_LIMIT,
    CONTROL_INTERVAL,
    FIDELITIES,
    HEAVE_AMPLITUDE,
    PITCH_AMPLITUDE,
    RANDOM_FREQUENCIES,
    Fidelity,
    FinCase,
    require_number,
    require_one_of,
)
from distrl.envs.fluids.fin_flow import FinFlow, Loads
from distrl.envs.fluids.flow_pool import SIZE, developed_flow, frequencies

OBJECTIVES = ("thrust_minus_power", "thrust", "efficiency")
POWER_PRICE = 0.1  # of C_P in units of C_T, in thrust_minus_power
DIVERGED_REWARD = -50.0  # worse than the rest of any episode's discounted future, so that it never pays
STATIONS = (0.25, 0.5, 0.75, 1.0)  # s/L where shape and velocity are observed
DEFAULT_GUST = 0.1

_SMALLEST_POWER = 0.5  # C_P below which the efficiency's denominator does not fall
_GUST_WAVES = 3
_GUST_PERIODS = (5.0, 15.0)  # L/U; a period near 2 excites the channel's sound wave from inlet to outlet
_GUST_ENTRY = 5  # control intervals over which gusts set in

OBSERVATION_NAMES: tuple[str, ...] = (
    *(f"shape_{axis}_{s:g}" for s in STATIONS for axis in "xy"),
    *(f"velocity_{axis}_{s:g}" for s in STATIONS for axis in "xy"),
    "root_heave", "root_heave_rate", "root_pitch", "root_pitch_rate",
    "sin_phase", "cos_phase", "root_frequency",
    "thrust", "lift", "root_power", "muscle_power",
    "actuation", "mean_thrust", "mean_power", "inflow",
)  # fmt: skip


class FinRay(gym.Env[np.ndarray, np.ndarray]):
    """A fin ray that swims in a two-dimensional flow at Reynolds number 200.

    Args:
        fidelity: "smoke", "default", "check" or "expensive" (20, 24, 32, 48 cells per fin length).
        objective: what a step's reward is: "thrust_minus_power", J = C_T - 0.1 C_P; "thrust", C_T; both are means over
        the
            control interval, so that an episode's return over its steps is the mean objective. "efficiency": C_T / C_P
            of means that forget over one root cycle, clipped to [-1, 1].
        root: "both", "heave", "pitch" or "held" (root at rest; the phase still runs, as a clock).
        frequency: of the root in U/L, without ``random_frequency``.
        random_frequency: each episode draws the frequency uniformly from 0.6 to 1.0 U/L.
        gusts: root mean square of the inflow's fluctuation over U, 0 to 0.15; True means 0.1. A sum of three waves with
            periods of 5 to 15 L/U, drawn per episode.
        episode_steps: control intervals after which the episode is truncated.
        muscle_recovery: whether C_P counts the muscle's negative work (it brakes and the energy is regained). Without,
            only positive muscle work counts, at every instant; the root's power is net in both.
        reynolds, mass_ratio, stiffness, lattice_speed: see ``FinCase``.
        render_mode: None or "rgb_array".
        cache_directory: where developed flows are kept; see ``flow_pool``.

    ``info`` of a step: ``C_T``, ``C_P`` (as the objective counts it), ``C_P_net``, ``efficiency`` (of the cycle means),
    ``diverged``; and when a guard tripped ``divergence``, its name. Then ``terminated`` is true and the reward is
    ``DIVERGED_REWARD``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}  # type: ignore[misc]
    fidelities: ClassVar[dict[str, Fidelity]] = FIDELITIES
    baseline: ClassVar[str] = "distrl.envs.fluids.sinusoid"

    def __init__(
        self,
        fidelity: str = "default",
        objective: str = "thrust_minus_power",
        root: str = "both",
        frequency: float = 0.8,
        random_frequency: bool = False,
        gusts: bool | float = 0.0,
        episode_steps: int = 200,
        muscle_recovery: bool = True,
        reynolds: float = 200.0,
        mass_ratio: float = 0.1,
        stiffness: float = 1.0,
        lattice_speed: float = 0.05,
        render_mode: str | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self.case = FinCase(
            fidelity, root, frequency, random_frequency, reynolds, mass_ratio, stiffness, lattice_speed
        )  # fmt: skip
        self.objective = require_one_of("objective", objective, OBJECTIVES)
        gusts = DEFAULT_GUST if gusts is True else 0.0 if gusts is False else gusts
        self.gusts = require_number("gusts", gusts, 0.0, 0.15, "stronger ones let the inflow reverse its sound waves")
        if not isinstance(episode_steps, int | np.integer) or isinstance(episode_steps, bool) or episode_steps < 1:
            raise ConfigError(f"FinRay needs episode_steps to be a whole number >= 1, got {episode_steps!r}.")
        if not isinstance(muscle_recovery, bool | np.bool_):
            raise ConfigError(f"FinRay needs muscle_recovery to be true or false, got {muscle_recovery!r}.")
        if render_mode is not None:
            require_one_of("render_mode", render_mode, ("rgb_array",))
        self.episode_steps = int(episode_steps)
        self.muscle_recovery = bool(muscle_recovery)
        self.render_mode = render_mode
        self.fidelity = fidelity
        self.cache_directory = None if cache_directory is None else Path(cache_directory)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (len(OBSERVATION_NAMES),), np.float32)
        self.flow = FinFlow(self.case)
        self._steps = 0
        self._playable = False
        self._rate = self.flow.rate
        self._gust_waves = np.zeros((3, _GUST_WAVES))  # amplitude, angular frequency per interval, phase
        self._loads = np.zeros(5)  # thrust, lift, root power, muscle power, muscle power spent of the last interval
        self._cycle = np.zeros(5)  # the same, averaged with a memory of one cycle
        self._sums = np.zeros(2)  # C_T and C_P over the episode so far
        self._observation = np.zeros(len(OBSERVATION_NAMES), np.float32)

    @staticmethod
    def preload() -> None:
        """Load every kernel before environment processes are forked, so that they share the code."""
        env = FinRay(fidelity="smoke")
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
        env.close()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start from a developed flow at a phase, and where asked a frequency and gusts, drawn from the seed."""
        super().reset(seed=seed)
        random = self.np_random
        index = int(random.integers(SIZE))
        start = developed_flow(self.case, index, self.cache_directory)
        self._loads, self._cycle = start["loads"], start["cycle"]
        self.flow.load(start)
        frequency = float(frequencies(self.case)[index])
        spread = (RANDOM_FREQUENCIES[1] - RANDOM_FREQUENCIES[0]) / SIZE if self.case.random_frequency else 0.0
        self._rate = self.case.angular_rate(frequency + spread * float(random.uniform(-0.5, 0.5)))
        periods = np.exp(random.uniform(math.log(_GUST_PERIODS[0]), math.log(_GUST_PERIODS[1]), _GUST_WAVES))
        amplitude = np.full(_GUST_WAVES, self.gusts * math.sqrt(2 / _GUST_WAVES))
        self._gust_waves = np.stack(
            [amplitude, 2 * math.pi * CONTROL_INTERVAL / periods, random.uniform(0, 2 * math.pi, _GUST_WAVES)]
        )
        self._steps = 0
        self._sums = np.zeros(2)
        self._playable = True
        self._observation = self._observe()
        return self._observation.copy(), {"frequency": self._frequency}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control interval of 0.1 L/U."""
        if not self._playable:
            raise EnvironmentFault("FinRay needs reset() before step(): the episode has not begun or has diverged.")
        value = np.asarray(action, dtype=np.float64)
        if value.shape != (1,) or not np.isfinite(value).all():
            raise EnvironmentFault(f"FinRay needs one finite action of shape (1,), got {action!r}.", kind="protocol")
        target = ACTUATION_LIMIT * float(np.clip(value[0], -1.0, 1.0))
        loads, outcome = self.flow.advance(target, self._rate, 1.0 + self._gust(self._steps + 1))
        self._steps += 1
        truncated = self._steps >= self.episode_steps
        if loads is None:
            self._playable = False
            info = {"C_T": 0.0, "C_P": 0.0, "C_P_net": 0.0, "efficiency": 0.0, "diverged": True, "divergence": outcome}
            return self._observation.copy(), DIVERGED_REWARD, True, truncated, info
        reward, info = self._account(loads)
        self._sums = self._sums + np.array([info["C_T"], info["C_P"]])
        if truncated:
            thrust, power = self._sums / self._steps
            ratio = float(thrust / max(power, _SMALLEST_POWER))
            info |= {"episode_C_T": float(thrust), "episode_C_P": float(power), "episode_efficiency": ratio}
        self._observation = self._observe()
        return self._observation.copy(), reward, False, truncated, info

    @property
    def _frequency(self) -> float:
        """The episode's root frequency in U/L."""
        return self._rate * self.case.cells / (2 * math.pi * self.case.lattice_speed)

    def _gust(self, step: int) -> float:
        """Fluctuation of the inflow over U at the end of control interval ``step``."""
        amplitude, rate, phase = self._gust_waves
        return min(step / _GUST_ENTRY, 1.0) * float((amplitude * np.sin(rate * step + phase)).sum())

    def _account(self, loads: Loads) -> tuple[float, dict[str, Any]]:
        """The reward and ``info`` of an interval; keeps its loads for the observation."""
        self._loads = np.array(
            [loads.thrust, loads.lift, loads.root_power, loads.muscle_power, loads.muscle_power_spent]
        )
        self._cycle = self._cycle + CONTROL_INTERVAL * self._frequency * (self._loads - self._cycle)
        muscle = loads.muscle_power if self.muscle_recovery else loads.muscle_power_spent
        power = loads.root_power + muscle
        efficiency = float(np.clip(self._cycle[0] / max(self._mean_power, _SMALLEST_POWER), -1.0, 1.0))
        reward = {
            "thrust": loads.thrust,
            "thrust_minus_power": loads.thrust - POWER_PRICE * power,
            "efficiency": efficiency,
        }[self.objective]
        info = {
            "C_T": loads.thrust,
            "C_P": power,
            "C_P_net": loads.power,
            "efficiency": efficiency,
            "diverged": False,
        }
        return float(reward), info

    @property
    def _mean_power(self) -> float:
        """C_P as the objective counts it, averaged with a memory of one cycle."""
        return float(self._cycle[2] + self._cycle[3 if self.muscle_recovery else 4])

    def _observe(self) -> np.ndarray:
        """The observation float32 [31], in the order of ``OBSERVATION_NAMES``; scales in docs/fin_ray.md."""
        flow, case = self.flow, self.case
        fin = flow.filament
        nodes = [round(s * case.cells) for s in STATIONS]
        shape = (fin.shape[nodes] - fin.shape[0]) / case.cells
        shape[:, 0] -= STATIONS
        velocity = (fin.shape[nodes] - fin.shape_old[nodes]) / case.lattice_speed
        heave, pitch = case.moves
        sine, cosine = math.sin(flow.phase), math.cos(flow.phase)
        pace = flow.frequency / 0.8
        thrust, lift, root_power, muscle_power, _ = self._loads
        values = np.concatenate([
            2 * shape.ravel(),
            velocity.ravel() / 2,
            [heave / HEAVE_AMPLITUDE * sine, heave / HEAVE_AMPLITUDE * pace * cosine],
            [-pitch / PITCH_AMPLITUDE * cosine, pitch / PITCH_AMPLITUDE * pace * sine],
            [sine, cosine, (flow.frequency - 0.8) / 0.2],
            [thrust / 2, lift / 5, root_power / 10, muscle_power / 10],
            [flow.activation / ACTUATION_LIMIT, self._cycle[0], self._mean_power / 5, 5 * (flow.inflow - 1)],
        ])  # fmt: skip
        return np.clip(values, -10.0, 10.0).astype(np.float32)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Vorticity and fin as an image, uint8 [480, 576, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        fluid = self.flow.fluid
        return picture.vorticity_and_fin(
            fluid.populations, self.flow.filament.shape, self.case.cells / self.case.lattice_speed,
            self.flow.activation / ACTUATION_LIMIT,
        )  # fmt: skip

    def snapshot(self, directory: str | os.PathLike[str]) -> None:
        """Write the complete state, random numbers included, to ``directory/fin_ray.npz``, atomically."""
        folder = Path(directory)
        state = {
            "identity": self._identity(),
            "random": self.np_random.bit_generator.state,
            "steps": self._steps,
            "playable": self._playable,
            "rate": self._rate,
        }
        arrays = self.flow.state() | {
            "gust_waves": self._gust_waves,
            "loads": self._loads,
            "cycle": self._cycle,
            "sums": self._sums,
            "observation": self._observation,
            "state": np.frombuffer(json.dumps(state).encode(), np.uint8),
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        temporary = folder / "fin_ray.npz.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(buffer.getvalue())
            os.replace(temporary, folder / "fin_ray.npz")
        except OSError as error:
            raise StorageError(
                f"FinRay needs a writable folder for its snapshot, but {folder} gave: {error}."
            ) from error

    def restore(self, directory: str | os.PathLike[str]) -> np.ndarray:
        """Continue bit by bit from a ``snapshot`` taken with the same options; returns its last observation."""
        path = Path(directory) / "fin_ray.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)  # reads everything: the archive's checksums are verified here
            state = json.loads(arrays["state"].tobytes())
        except Exception as error:  # a damaged archive raises many kinds, all with one remedy
            raise StorageError(
                f"FinRay needs a whole snapshot, but {path} gave "
                f"{type(error).__name__}: {error}. Use an earlier one or reset()."
            ) from error
        if state["identity"] != self._identity():
            raise StorageError(
                f"FinRay needs a snapshot of an environment with the same options, but {path} was taken with "
                f"{state['identity']} and this one has {self._identity()}: make the environment with those."
            )
        self.flow.load(arrays)
        self.np_random.bit_generator.state = state["random"]
        self._steps, self._playable, self._rate = state["steps"], state["playable"], state["rate"]
        self._gust_waves, self._loads, self._cycle = arrays["gust_waves"], arrays["loads"], arrays["cycle"]
        self._sums = arrays["sums"]
        self._observation = arrays["observation"]
        return self._observation.copy()

    def _identity(self) -> dict[str, Any]:
        """The options that a snapshot must share."""
        return self.case.as_dict() | {
            "objective": self.objective,
            "gusts": self.gusts,
            "episode_steps": self.episode_steps,
            "muscle_recovery": self.muscle_recovery,
        }
