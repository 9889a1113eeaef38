"""The beam alone, without fluid: where the muscle bends it to, how fast it swings, and where its energy goes."""

import numpy as np
import pytest

from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids.beam import WORK_NAMES, Beam, make_beam
from distrl.envs.fluids.bodies import Filament


def move(filament: Filament, roots: np.ndarray, activation: np.ndarray) -> dict[str, np.ndarray]:
    """Step a beam in vacuum (or, with coupling, in still sticky air) and return shapes, energies and summed works."""
    nodes = len(filament.shape)
    space, force, work, slip = beam_term.workspace(nodes - 1), np.zeros((nodes, 2)), np.zeros(7), np.zeros((nodes, 2))
    old, now, new = filament.shape_old.copy(), filament.shape.copy(), np.empty((nodes, 2))
    root_old, root = filament.root
    shapes, energies, works = [], [], []
    for n, root_new in enumerate(roots):
        three, turns = (old, now, new), (root_old, root, root_new)
        arguments = filament.beam.arrays, three, turns, filament.tension, activation[n]
        assert beam_term.step(*arguments, slip, n % beam_term.REFACTOR_PERIOD == 0, force, space)
        beam_term.account(*arguments, force, work, space)
        shapes.append(new.copy())
        energies.append(beam_term.energy(filament.beam, now, new, root[2:], root_new[2:]))
        works.append(work.copy())
        old, now, new = now, new, old
        root_old, root = root, root_new
    return {"shape": np.array(shapes), "energy": np.array(energies)} | dict(
        zip(WORK_NAMES, np.array(works).T, strict=True)
    )


def test_at_rest_the_curvature_is_the_active_one() -> None:
    """Without load kappa = kappa_a everywhere: within 0.5 % of the largest at an activation near the limit."""
    cells, activation = 24, 2.8
    wanted = activation * (1 - np.arange(1, cells) / cells) / cells
    profile = (1 - np.arange(cells) / cells) / cells
    beam = make_beam(cells, 0.1 * cells, 0.0025 * cells**3, profile=profile, coupling=0.15)
    filament = Filament.straight(beam, 0.0, 0.0)
    steps = 5000
    shape = move(filament, np.tile(filament.root[0], (steps, 1)), np.full(steps, activation))["shape"][-1]
    segment = np.diff(shape, axis=0)
    curvature = np.diff(np.arctan2(segment[:, 1], segment[:, 0]))
    assert np.abs(curvature - wanted).max() < 0.005 * activation / cells
    assert np.abs(np.hypot(*segment.T) - 1).max() < 1e-10


def _swinging(cells: int) -> tuple[Filament, float]:
    """A cantilever released at rest in its first mode, and that mode's frequency (rad/step) by beam theory."""
    stiffness, mass = 0.0025 * cells**3, 0.1 * cells
    s, k, ratio = np.arange(cells + 1) / cells, 1.8751041, 0.7340955
    mode = np.cosh(k * s) - np.cos(k * s) - ratio * (np.sinh(k * s) - np.sin(k * s))
    filament = Filament.straight(make_beam(cells, mass, stiffness, coupling=0.0, theta=0.5), 0.0, 0.0)
    y = 5e-4 * cells * mode
    filament.shape[1:, 0] = np.cumsum(np.sqrt(1 - np.diff(y) ** 2))
    filament.shape[:, 1] = y
    filament.shape_old[:] = filament.shape
    return filament, k**2 * np.sqrt(stiffness / mass) / cells**2


def test_a_swinging_beam_keeps_its_energy() -> None:
    """With theta = 1/2 nothing is lost in six swings. (Its frequency: tests/validation/test_beam_alone.py.)"""
    filament, rate = _swinging(24)
    steps = int(6 * 2 * np.pi / rate)
    seen = move(filament, np.tile(filament.root[0], (steps, 1)), np.zeros(steps))
    assert np.ptp(seen["energy"]) < 1e-8 * seen["energy"][0]


def _driven(speed: float, theta: float, cells: int = 24) -> dict[str, np.ndarray]:
    """Heave, pitch and muscle together in vacuum, set in over the first cycle, for 6 L/U."""
    profile = (1 - np.arange(cells) / cells) / cells
    beam: Beam = make_beam(
        cells, 0.1 * cells, speed**2 * cells**3, profile=profile, coupling=0.0, theta=theta
    )  # fmt: skip
    filament = Filament.straight(beam, 0.0, 0.0)
    time = np.arange(1, int(6 * cells / speed) + 1) * speed / cells
    entry = np.clip(0.8 * time, 0, 1)
    entry = entry**2 * (3 - 2 * entry)
    phase = 2 * np.pi * 0.8 * time
    pitch = -0.5 * np.cos(phase) * entry
    roots = np.stack([0 * time, 0.25 * cells * np.sin(phase) * entry, np.cos(pitch), np.sin(pitch)], 1)
    return move(filament, roots, 1.4 * np.sin(phase) * entry)


@pytest.mark.parametrize("theta", [0.5, 0.6])
def test_in_vacuum_the_energy_budget_closes(theta: float) -> None:
    """Root work + muscle work = energy gained + what the scheme dissipates, within 1e-4 of the largest energy.

    What is left is the work of the tension, and it falls with the square of the time step.
    """
    gaps = []
    for speed in (0.05, 0.025):
        seen = _driven(speed, theta)
        given = seen["root_work"] + seen["muscle_work"] - seen["numerical_loss"]
        gaps.append(np.abs(given - (seen["energy"] - seen["energy"][0])).max() / seen["energy"].max())
        if theta == 0.5:
            assert seen["numerical_loss"][-1] == 0
    assert gaps[0] < 1e-4
    assert np.log2(gaps[0] / gaps[1]) > 1.9


def test_the_schemes_loss_is_small_and_falls_with_the_time_step() -> None:
    """At theta = 0.6: under 6 % of the net work in vacuum (in the fluid 0.1 %), halved with the time step."""
    share = []
    for speed in (0.05, 0.025):
        seen = _driven(speed, 0.6)
        share.append(seen["numerical_loss"][-1] / (seen["root_work"] + seen["muscle_work"])[-1])
    assert 0 < share[0] < 0.06
    assert share[0] / share[1] == pytest.approx(2, rel=0.1)


def test_an_impossible_step_is_reported_not_hidden() -> None:
    """A root torn away in one step cannot be followed with segments of fixed length: the caller hears of it."""
    filament, _ = _swinging(16)
    away = filament.root[0].copy()
    away[0] += 1e6
    nodes = len(filament.shape)
    assert not beam_term.step(
        filament.beam.arrays, (filament.shape_old, filament.shape, filament.shape.copy()),
        (filament.root[0], filament.root[1], away), filament.tension, 0.0, np.zeros((nodes, 2)), True,
        np.zeros((nodes, 2)), beam_term.workspace(nodes - 1),
    )  # fmt: skip
