"""A body's outline or beam in, what the scene's kernel moves and pushes out: rigid, prescribed and flexible bodies.

A ``RigidBody`` rests or moves as prescribed, spins or blows through its surface; a ``Filament`` is a flexible beam with
a driven root. Positions are in array indices (cell centres are whole numbers, the ghost cell is 0), velocities in cells
per lattice step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids.beam import WORK_NAMES, Beam

RETRACTION = 0.4  # cells: markers lie so far inside a surface, which makes up for the width of their kernel


@dataclass
class Motion:
    """What a rigid body does in a run of lattice steps; every array has one entry a step, or is one value for all.

    Attributes:
        x, y: position of its centre. angle: of the body, rad.
        vx, vy: velocity of its centre. spin: angular velocity of its surface, rad per step. A circle that turns on the
            spot looks the same at every angle, so ``spin`` alone will do.
        blow: scales the body's ``blowing``.
    """

    x: np.ndarray | float
    y: np.ndarray | float
    angle: np.ndarray | float = 0.0
    vx: np.ndarray | float = 0.0
    vy: np.ndarray | float = 0.0
    spin: np.ndarray | float = 0.0
    blow: np.ndarray | float = 0.0

    def table(self, steps: int) -> np.ndarray:
        """float64 [steps, 7], in the order of the attributes."""
        columns = (self.x, self.y, self.angle, self.vx, self.vy, self.spin, self.blow)
        return np.stack([np.broadcast_to(np.asarray(c, np.float64), (steps,)) for c in columns], axis=1)

    @property
    def moves(self) -> bool:
        """Whether its markers change place between steps."""
        return any(np.ndim(column) > 0 for column in (self.x, self.y, self.angle))


@dataclass
class RigidBody:
    """A closed outline whose surface moves as prescribed.

    Attributes:
        outline: float64 [n, 2], markers about one cell apart, relative to the centre at angle 0.
        x, y: where its centre rests unless a ``Motion`` says otherwise.
        blowing: float64 [n, 2], velocity of the fluid through the surface at each marker for unit ``Motion.blow``.
        area: of the outline, cells²: the inertia of the fluid inside is taken out of the force.
        velocity: float64 [2], of its centre at the last step.
    """

    outline: np.ndarray
    x: float
    y: float
    blowing: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    area: float = 0.0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def __post_init__(self) -> None:
        self.outline = np.ascontiguousarray(self.outline, dtype=np.float64)
        if not len(self.blowing):
            self.blowing = np.zeros_like(self.outline)

    @classmethod
    def circle(cls, x: float, y: float, diameter: float, retraction: float = RETRACTION) -> RigidBody:
        """A circle of ``diameter`` cells with its centre at (x, y)."""
        radius = diameter / 2 - retraction
        angle = np.linspace(0, 2 * np.pi, round(2 * np.pi * radius), endpoint=False)
        outline = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return cls(outline, x, y, area=np.pi * diameter**2 / 4)

    def resting(self) -> Motion:
        """No motion at all."""
        return Motion(self.x, self.y)


@dataclass
class Drive:
    """What moves a filament in a run of lattice steps.

    Attributes:
        roots: float64 [steps, 4], position and direction of the root after each step.
        activation: float64 [steps], active curvature in units of the beam's profile, at the start of each step.
    """

    roots: np.ndarray
    activation: np.ndarray


@dataclass
class Filament:
    """The state of one flexible body: shapes at this step and the last, tensions, and its root at both.

    ``root`` float64 [2, 4] holds position and direction of the root at the last step and at this one.
    """

    beam: Beam
    shape: np.ndarray
    shape_old: np.ndarray
    root: np.ndarray
    tension: np.ndarray = field(init=False)
    work: np.ndarray = field(init=False)  # float64 [7], sums over a run of steps (beam.WORK_NAMES)
    _space: tuple = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.shape)
        self.tension = np.zeros(count - 1)
        self.work = np.zeros(len(WORK_NAMES))
        self._space = (
            np.empty((count, 2), np.int64),  # cells of the markers
            np.empty((count, 2, 3)),  # weights
            np.empty((count, 2)),  # velocity of the fluid there
            np.empty((count, 2)),  # force on the fluid
            np.empty((count, 2)),  # the next shape
            beam_term.workspace(count - 1),
        )

    @classmethod
    def straight(cls, beam: Beam, x: float, y: float, angle: float = 0.0) -> Filament:
        """A resting straight filament with its root at (x, y) and its direction at ``angle`` rad."""
        direction = np.array([np.cos(angle), np.sin(angle)])
        shape = np.array([x, y]) + np.arange(len(beam.mass))[:, None] * direction
        root = np.tile(np.array([x, y, *direction]), (2, 1))
        return cls(beam, shape, shape.copy(), root)

    def resting(self, steps: int) -> Drive:
        """The root stays and the muscle is slack."""
        return Drive(np.tile(self.root[1], (steps, 1)), np.zeros(steps))

    def arrays(self, drive: Drive) -> tuple:
        """What the kernel takes of one filament."""
        return (
            self.beam.arrays, self.shape, self.shape_old, self.root, self.tension, drive.roots, drive.activation,
            self.work, self._space,
        )  # fmt: skip
