"""Actions in [-1, 1] in, observations and rewards of swimming fin rays out: the environment ``distrl/FinRay-v0``.

A flexible fin, driven at its root by heave and pitch, actuates its own curvature: the action is the activation a / 3 to
be reached at the end of a control interval of 0.1 L/U, linearly and by at most 1.5 a step. The literature's problem:
Liu, Bodaghi, Xue, Zheng & Wang, arXiv 2401.11349. Equations, every observation, options and figures: docs/fin_ray.md.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distrl.envs import options as check
from distrl.envs.flow_pool import FlowPool
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
)
from distrl.envs.fluids.fin_flow import FinFlow, Loads, develop, frequencies
from distrl.envs.fluids.scene import NUM_FLOWS, solver_version
from distrl.envs.simulation import Simulation

OBJECTIVES = ("thrust_minus_power", "thrust", "efficiency")
POWER_PRICE = 0.1  # of C_P in units of C_T, in thrust_minus_power
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


class FinRay(Simulation):
    """A fin ray that swims in a two-dimensional flow at Reynolds number 200.

    Args:
        fidelity: "smoke", "default", "check" or "expensive" (22, 24, 32, 48 cells per fin length).
        objective: what a step's reward is: "thrust_minus_power", J = C_T - 0.1 C_P; "thrust", C_T; both are means over
            the control interval, so that an episode's return over its steps is the mean objective. "efficiency":
            C_T / C_P of means that forget over one root cycle, clipped to [-1, 1].
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
        cache_directory: where developed flows are kept; see ``FlowPool``.
        device, threads: what computes the flow and on how many cores, see docs/devices.md.

    ``info`` of a step: ``C_T``, ``C_P`` (as the objective counts it), ``C_P_net``, ``efficiency`` (of the cycle means),
    ``diverged``; and when a guard tripped ``divergence``, its name. Then ``terminated`` is true and the reward is
    ``diverged_reward``.
    """

    fidelities: ClassVar[Mapping[str, Fidelity]] = FIDELITIES
    baseline: ClassVar[str] = "distrl.envs.fluids.sinusoid"
    averaged: ClassVar[tuple[str, ...]] = ("C_T", "C_P")

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
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        case = FinCase(fidelity, root, frequency, random_frequency, reynolds, mass_ratio, stiffness, lattice_speed)
        self._set_up(
            case, objective, gusts, episode_steps, muscle_recovery, render_mode, cache_directory, device, threads
        )

    def _set_up(
        self,
        case: FinCase,
        objective: str,
        gusts: bool | float,
        episode_steps: int,
        muscle_recovery: bool,
        render_mode: str | None,
        cache_directory: str | os.PathLike[str] | None,
        device: str,
        threads: int,
    ) -> None:
        """The constructor behind one or several fins."""
        self.case = case
        self.objective = check.one_of(case.owner, "objective", objective, OBJECTIVES)
        gusts = DEFAULT_GUST if gusts is True else 0.0 if gusts is False else gusts
        why = "stronger ones let the inflow reverse its sound waves"
        self.gusts = check.number(case.owner, "gusts", gusts, 0.0, 0.15, why)
        self.muscle_recovery = check.flag(case.owner, "muscle_recovery", muscle_recovery)
        names = [f"{name}{suffix}" for suffix in self._suffixes for name in OBSERVATION_NAMES]
        options = {
            "objective": self.objective,
            "gusts": self.gusts,
            "muscle_recovery": self.muscle_recovery,
            "device": device,
        }
        super().__init__(
            num_actions=case.num_fins, observation_names=names, episode_steps=episode_steps,
            options=case.as_dict() | options, fidelity=case.fidelity, render_mode=render_mode,
        )  # fmt: skip
        directory = None if cache_directory is None else Path(cache_directory)
        version = solver_version("fin_case.py", "fin_flow.py")
        self.pool = FlowPool(case.owner, case.as_dict(), lambda: develop(case), version, directory)
        self.flow = FinFlow(case, device, threads)
        self._rate = self.flow.rate
        self._gust_waves = np.zeros((3, _GUST_WAVES))  # amplitude, angular frequency per interval, phase
        self._loads = np.zeros((case.num_fins, 5))  # ``Loads.felt`` of the last interval
        self._cycle = np.zeros((case.num_fins, 5))  # the same, averaged with a memory of one cycle

    @classmethod
    def preload(cls) -> None:
        """Load every kernel before environment processes are forked, so that they share the code."""
        env = cls(fidelity="smoke")
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape or (), np.float32))
        env.close()

    def _start(self) -> dict[str, Any]:
        """A developed flow at a phase, and where asked a frequency and gusts, drawn from the seed."""
        random = self.np_random
        index = int(random.integers(NUM_FLOWS))
        start = self.pool.flow(index)
        self._loads, self._cycle = start["loads"], start["cycle"]
        self.flow.load(start)
        frequency = float(frequencies(self.case)[index])
        spread = (RANDOM_FREQUENCIES[1] - RANDOM_FREQUENCIES[0]) / NUM_FLOWS if self.case.random_frequency else 0.0
        self._rate = self.case.angular_rate(frequency + spread * float(random.uniform(-0.5, 0.5)))
        periods = np.exp(random.uniform(math.log(_GUST_PERIODS[0]), math.log(_GUST_PERIODS[1]), _GUST_WAVES))
        amplitude = np.full(_GUST_WAVES, self.gusts * math.sqrt(2 / _GUST_WAVES))
        self._gust_waves = np.stack(
            [amplitude, 2 * math.pi * CONTROL_INTERVAL / periods, random.uniform(0, 2 * math.pi, _GUST_WAVES)]
        )
        return {"frequency": self._frequency}

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """One control interval of 0.1 L/U."""
        loads = self.flow.advance(ACTUATION_LIMIT * action, self._rate, 1.0 + self._gust(self._steps))
        return self._account(loads)

    @property
    def _frequency(self) -> float:
        """The episode's root frequency in U/L."""
        return self._rate * self.case.cells / (2 * math.pi * self.case.lattice_speed)

    def _gust(self, step: int) -> float:
        """Fluctuation of the inflow over U at the end of control interval ``step``."""
        amplitude, rate, phase = self._gust_waves
        return min(step / _GUST_ENTRY, 1.0) * float((amplitude * np.sin(rate * step + phase)).sum())

    def _account(self, loads: list[Loads]) -> tuple[float, dict[str, Any]]:
        """The reward and ``info`` of an interval, means over the fins; keeps the loads for the observation."""
        self._loads = np.array([load.felt for load in loads])
        self._cycle = self._cycle + CONTROL_INTERVAL * self._frequency * (self._loads - self._cycle)
        fins = [self._judge(fin, load) for fin, load in enumerate(loads)]
        info: dict[str, Any] = {name: float(np.mean([found[name] for found in fins])) for name in fins[0]}
        if len(fins) > 1:
            info |= {
                name + suffix: found[name]
                for suffix, found in zip(self._suffixes, fins, strict=True)
                for name in ("reward", "C_T", "C_P")
            }
        return info.pop("reward"), info

    def _judge(self, fin: int, load: Loads) -> dict[str, float]:
        """The reward of one fin and what it is made of."""
        power = load.root_power + (load.muscle_power if self.muscle_recovery else load.muscle_power_spent)
        ratio = float(np.clip(self._cycle[fin, 0] / max(self._mean_power(fin), _SMALLEST_POWER), -1.0, 1.0))
        reward = {
            "thrust": load.thrust,
            "thrust_minus_power": load.thrust - POWER_PRICE * power,
            "efficiency": ratio,
        }[self.objective]
        return {"reward": reward, "C_T": load.thrust, "C_P": power, "C_P_net": load.power, "efficiency": ratio}

    @property
    def _suffixes(self) -> tuple[str, ...]:
        """What tells the fins' names apart."""
        return ("",) if self.case.num_fins == 1 else ("_front", "_rear")

    def _mean_power(self, fin: int) -> float:
        """C_P as the objective counts it, averaged with a memory of one cycle."""
        return float(self._cycle[fin, 2] + self._cycle[fin, 3 if self.muscle_recovery else 4])

    def _summary(self, means: dict[str, float]) -> dict[str, float]:
        thrust, power = means["C_T"], means["C_P"]
        ratio = thrust / max(power, _SMALLEST_POWER)
        return {"episode_C_T": thrust, "episode_C_P": power, "episode_efficiency": ratio}

    def _observe(self) -> np.ndarray:
        """31 numbers for each fin, in the order of ``OBSERVATION_NAMES``; scales in docs/fin_ray.md."""
        return np.clip(np.concatenate([self._feel(fin) for fin in range(self.case.num_fins)]), -10.0, 10.0)

    def _feel(self, fin: int) -> np.ndarray:
        """What one fin observes."""
        flow, case = self.flow, self.case
        body = flow.fins[fin]
        nodes = [round(s * case.cells) for s in STATIONS]
        shape = (body.shape[nodes] - body.shape[0]) / case.cells
        shape[:, 0] -= STATIONS
        velocity = (body.shape[nodes] - body.shape_old[nodes]) / case.lattice_speed
        heave, pitch = case.moves
        phase = case.phase_of(fin, flow.phase)
        sine, cosine = math.sin(phase), math.cos(phase)
        pace = flow.frequency / 0.8
        thrust, lift, root_power, muscle_power, _ = self._loads[fin]
        return np.concatenate([
            2 * shape.ravel(),
            velocity.ravel() / 2,
            [heave / HEAVE_AMPLITUDE * sine, heave / HEAVE_AMPLITUDE * pace * cosine],
            [-pitch / PITCH_AMPLITUDE * cosine, pitch / PITCH_AMPLITUDE * pace * sine],
            [sine, cosine, (flow.frequency - 0.8) / 0.2],
            [thrust / 2, lift / 5, root_power / 10, muscle_power / 10],
            [flow.activation[fin] / ACTUATION_LIMIT, self._cycle[fin, 0], self._mean_power(fin) / 5],
            [5 * (flow.inflow - 1)],
        ])  # fmt: skip

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Vorticity, fins and activations as an image, uint8 [h, w, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        return picture.flow(
            self.flow.fluid.populations, self.case.cells / self.case.lattice_speed,
            lines=[fin.shape for fin in self.flow.fins], gauges=self.flow.activation / ACTUATION_LIMIT,
        )  # fmt: skip

    def _state(self) -> dict[str, np.ndarray]:
        return self.flow.state() | {
            "rate": np.array(self._rate),
            "gust_waves": self._gust_waves,
            "loads": self._loads,
            "cycle": self._cycle,
        }

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.flow.load(state)
        self._rate = float(state["rate"])
        self._gust_waves, self._loads, self._cycle = (
            np.array(state[name]) for name in ("gust_waves", "loads", "cycle")
        )
