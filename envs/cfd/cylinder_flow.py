"""A rotation in, the loads on the cylinder and probes of the flow out: a case of OpenFOAM that is run interval by
interval, each run from the files of the last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError, EnvironmentFault, StorageError
from distrl.envs.cfd import cylinder_case
from distrl.envs.cfd.cylinder_case import CONTROL_INTERVAL, PRESSURE_PROBES, VELOCITY_PROBES, Level
from distrl.envs.cfd.solver_process import SolverProcess

NUM_PROBES = len(PRESSURE_PROBES) + 2 * len(VELOCITY_PROBES)
_PROGRAMS = ("pimpleFoam", "blockMesh", "decomposePar", "postProcess")
_DIVERGENCE = r"Floating point exception|sigFpe"

Files = dict[str, np.ndarray]  # path in the case → content, uint8 [n]


def missing() -> str | None:
    """One sentence on what is not installed, or None."""
    program = next((program for program in _PROGRAMS if shutil.which(program) is None), None)
    return program and (
        f"OpenFOAMCylinder needs OpenFOAM, and its {program} is not on the PATH: install it (Debian and Ubuntu: "
        "apt-get install openfoam), or source the bashrc of the one that you have."
    )


class CylinderFlow:
    """The case of cylinder_case.py in a folder, with its state as files and as what the last interval gave.

    Args:
        folder: an empty one. level: of detail. ranks: MPI ranks of the solver.
        timeout_s: wall seconds that the run of one interval may take.
        options: of the SolverProcess: ``oversubscribe``, ``retries``.

    Attributes:
        numbers: float64 [6]: mean drag, lift and power coefficient of the last interval; drag and lift of the one
            before; rotation at its end (U/D).
        probes: float64 [NUM_PROBES] at the interval's end: pressure (rho U²), then x and y of velocity (U) by point.

    Raises:
        ConfigError: OpenFOAM is not installed, or there are too few cores.
    """

    def __init__(self, folder: Path, level: Level, ranks: int = 1, timeout_s: float = 600.0, **options: Any) -> None:
        if problem := missing():
            raise ConfigError(problem)
        self.folder, self.level, self._ranks, self._timeout_s = folder, level, ranks, timeout_s
        options |= {"env": {"WM_PROJECT_DIR": os.environ.get("WM_PROJECT_DIR", "/usr/share/openfoam")}}
        self.solver = SolverProcess(
            ["pimpleFoam", "-parallel"] if ranks > 1 else ["pimpleFoam"],
            folder, ranks=ranks, divergence=_DIVERGENCE, **options,
        )  # fmt: skip
        self._decompose = SolverProcess(["decomposePar", "-force"], folder, env=options["env"])
        self._options = options
        self._parts = [folder / f"processor{rank}" for rank in range(ranks)] if ranks > 1 else [folder]
        self.numbers = np.zeros(6)
        self.probes = np.zeros(NUM_PROBES)
        cylinder_case.write_case(folder, level, ranks)
        SolverProcess(["blockMesh"], folder, env=options["env"]).run()

    def advance(self, rotation: float) -> None:
        """One control interval, in which the rotation goes to ``rotation`` (U/D), linearly.

        Raises:
            EnvironmentFault: the solver failed; the state is what it was, so the same may be tried again.
        """
        before = self.rotation
        self.run([(0.0, before), (CONTROL_INTERVAL, rotation)])
        forces, moments = self.table("forces", "force.dat"), self.table("forces", "moment.dat")
        if len(forces) != self.level.solver_steps:
            raise EnvironmentFault(
                f"a control step needs {self.level.solver_steps} steps of pimpleFoam, but it took {len(forces)}: "
                f"see {self.solver.log}."
            )
        turning = before + (rotation - before) * forces[:, 0] / CONTROL_INTERVAL
        drag, lift = 2 * forces[:, 1].mean(), 2 * forces[:, 2].mean()  # in units of rho U² D / 2
        power = -2 * (moments[:, 3] * turning).mean()  # what turns the cylinder, against the fluid
        self.numbers = np.array([drag, lift, power, *self.numbers[:2], rotation])
        velocity = self.table("velocity", "U")[-1, 1:].reshape(-1, 3)[:, :2]
        self.probes = np.concatenate([self.table("pressure", "p")[-1, 1:], velocity.ravel()])

    def run(self, rotation: Sequence[tuple[float, float]], patience: float = 1.0) -> float:
        """Run the solver (``cylinder_case.write_run``) and take over the state that it writes; the wall seconds.

        The state before, the folders ``0``, stays as it is until then.

        Args:
            patience: times the timeout of an interval that it may take.
        """
        end = cylinder_case.write_run(self.folder, self.level, rotation)
        for old in (self.folder / "postProcessing", *(part / end for part in self._parts)):
            shutil.rmtree(old, ignore_errors=True)
        seconds = self.solver.run(patience * self._timeout_s)
        for part in self._parts:
            shutil.rmtree(part / "0")
            os.rename(part / end, part / "0")
        return seconds

    def state(self) -> Files:
        """Everything that decides the future: the files of time 0, ``numbers`` and ``probes``."""
        found = (path for part in self._parts for path in (part / "0").rglob("*") if path.is_file())
        files = {f"file:{path.relative_to(self.folder)}": np.fromfile(path, np.uint8) for path in sorted(found)}
        return files | {"numbers": self.numbers, "probes": self.probes}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of the same ranks, or one of a single rank, which is then divided among these.

        Raises:
            StorageError: the folder cannot be written.
        """
        files = {name.removeprefix("file:"): content for name, content in state.items() if name.startswith("file:")}
        divided = all(name.startswith("processor") for name in files)
        if self._ranks > 1 and divided and not self._parts[0].exists():
            self._decompose.run()  # the mesh
        try:
            for part in self._parts if divided else [self.folder]:
                shutil.rmtree(part / "0")
            for name, content in files.items():
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                content.tofile(path)
        except OSError as error:
            raise StorageError(f"OpenFOAM needs its working folder {self.folder}, but {error}.") from error
        if self._ranks > 1 and not divided:
            self._decompose.run()
        self.numbers, self.probes = np.array(state["numbers"]), np.array(state["probes"])

    def history(self) -> np.ndarray:
        """float64 [solver steps, 3]: time in the last run, drag and lift coefficient."""
        return self.table("forces", "force.dat")[:, :3] * (1.0, 2.0, 2.0)

    @property
    def rotation(self) -> float:
        """The cylinder's angular velocity in U/D, anticlockwise."""
        return float(self.numbers[5])

    def post_process(self, function: str) -> None:
        """Evaluate the function object of the file ``system/<function>`` for the present state."""
        shutil.rmtree(self.folder / "postProcessing" / function, ignore_errors=True)
        parallel = ["-parallel"] if self._ranks > 1 else []
        command = ["postProcess", "-func", function, "-time", "0", *parallel]
        SolverProcess(command, self.folder, ranks=self._ranks, **self._options).run()

    def table(self, function: str, name: str) -> np.ndarray:
        """What a function object has written: float64 [rows, columns], time first, without parentheses."""
        path = self.folder / "postProcessing" / function / "0" / name
        try:
            lines = path.read_text().translate({ord("("): None, ord(")"): None}).splitlines()
            return np.array([line.split() for line in lines if line and line[0] != "#"], float, ndmin=2)
        except (OSError, ValueError) as error:
            raise EnvironmentFault(f"pimpleFoam must write {path}, but {error}: see {self.solver.log}.") from error
