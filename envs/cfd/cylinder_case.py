"""A level of detail in, the files of an OpenFOAM case out: a rotating cylinder in the channel of Schäfer and Turek.

Everything is in units of the cylinder's diameter D, the mean inlet velocity U and the density; Re = U D / nu = 100. The
channel of benchmark 2D-2 is 22 D long and 4.1 D high, the cylinder stands 2 D behind the inlet and 2 D above the floor
(Schäfer & Turek, Benchmark computations of laminar flow around a cylinder, 1996, doi 10.1007/978-3-322-89849-4_39).

A run always begins at time 0 and writes its end alone: the state is the folder ``0``, which the caller replaces by what
the run has written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LENGTH, HEIGHT, CENTRE, RADIUS = 22.0, 4.1, 2.0, 0.5  # D; CENTRE holds for x and y
VISCOSITY = 0.01  # U D, so Re = 100
CONTROL_INTERVAL = 0.5  # D/U: seven a shedding period
INLET_SPEED = 1.5  # U, the parabola's maximum

#: Where pressure is observed, 0.1 D off the surface, from the rear round the top; where the velocity is, in the wake.
PRESSURE_PROBES = tuple(
    (CENTRE + 0.6 * math.cos(k * math.pi / 4), CENTRE + 0.6 * math.sin(k * math.pi / 4)) for k in range(8)
)
VELOCITY_PROBES = tuple((CENTRE + x, CENTRE + y) for x in (1.0, 2.0, 3.5) for y in (-0.5, 0.5))


@dataclass(frozen=True)
class Level:
    """A level of detail.

    Attributes:
        around: cells along a quarter of the cylinder. radial: cells from it to the square of 2 D around it.
        before, behind, beside: cells from that square to the inlet, to the outlet and to either wall.
        solver_steps: in a control interval; below 25 starting the solver costs more than its steps.
        seconds_per_step: of a control step on one core, measured (docs/openfoam.md).
    """

    around: int
    radial: int
    before: int
    behind: int
    beside: int
    solver_steps: int
    seconds_per_step: float


FIDELITIES = {
    "smoke": Level(12, 9, 5, 40, 6, solver_steps=25, seconds_per_step=0.17),
    "default": Level(20, 14, 8, 80, 10, solver_steps=50, seconds_per_step=0.6),
    "fine": Level(32, 20, 10, 160, 16, solver_steps=100, seconds_per_step=5.0),
}


def write_case(folder: Path, level: Level, ranks: int) -> None:
    """Write the dictionaries and the fields at rest; ``blockMesh`` comes next, then ``decomposePar`` for several ranks.

    Args:
        folder: an empty one.
    """
    cuts = max(n for n in range(1, ranks + 1) if ranks % n == 0 and n * n <= ranks)  # of the height: 1, 1, 1, 2, …
    dictionaries = {
        "system/blockMeshDict": _mesh(level),
        "system/fvSchemes": _SCHEMES,
        "system/fvSolution": _SOLUTION,
        "system/decomposeParDict": f"numberOfSubdomains {ranks}; method simple;\n"
        f"simpleCoeffs {{ n ({ranks // cuts} {cuts} 1); delta 0.001; }}\n",
        "constant/transportProperties": f"transportModel Newtonian; nu {VISCOSITY:g};\n",
        "constant/turbulenceProperties": "simulationType laminar;\n",
    }  # fmt: skip
    fields = {"0/U": ("volVectorField", _velocity()), "0/p": ("volScalarField", _PRESSURE)}
    for path, text in dictionaries.items():
        _write(folder / path, "dictionary", text)
    for path, (kind, text) in fields.items():
        _write(folder / path, kind, text)
    write_run(folder, level, [(0.0, 0.0), (CONTROL_INTERVAL, 0.0)])


def write_run(folder: Path, level: Level, rotation: Sequence[tuple[float, float]]) -> str:
    """Say what the next run does; the name of the folder that it will write.

    Args:
        rotation: (time in D/U, the cylinder's angular velocity in U/D), linear in between, from time 0 to the run's
            end.
    """
    end = f"{rotation[-1][0]:g}"
    control = _CONTROL.format(
        end=end, step=f"{CONTROL_INTERVAL / level.solver_steps:.10g}", centre=CENTRE,
        pressure=_PROBES.format(fields="p", points=_points(PRESSURE_PROBES)),
        velocity=_PROBES.format(fields="U", points=_points(VELOCITY_PROBES)),
    )  # fmt: skip
    _write(folder / "system/controlDict", "dictionary", control)
    table = " ".join(f"({time:g} {speed:.17g})" for time, speed in rotation)
    (folder / "constant/omega").write_text(f"({table})\n", encoding="ascii")
    return end


def write_probes(folder: Path, name: str, points: Sequence[tuple[float, float]]) -> None:
    """A function object ``name`` for OpenFOAM's postProcess: the velocity at points, interpolated."""
    text = _PROBES.format(fields="U", points=_points(points)) + "interpolationScheme cellPoint;\n"
    _write(folder / "system" / name, "dictionary", text)


def _write(path: Path, kind: str, text: str) -> None:
    """A file as OpenFOAM reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"FoamFile {{ version 2.0; format ascii; class {kind}; object {path.name}; }}\n"
    path.write_text(header + text, encoding="ascii")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"({x:.6g} {y:.6g} 0.5)" for x, y in points)


def _velocity() -> str:
    """The inlet's parabola is 4 INLET_SPEED y (H - y) / H²."""
    linear, square = 4 * INLET_SPEED / HEIGHT, -4 * INLET_SPEED / HEIGHT**2
    return f"""dimensions [0 1 -1 0 0 0 0]; internalField uniform (1 0 0);
boundaryField
{{
    inlet
    {{
        type fixedProfile; direction (0 1 0); origin 0;
        profile polynomial ((({linear:.15g} 0 0) (1 0 0)) (({square:.15g} 0 0) (2 0 0)));
    }}
    outlet {{ type zeroGradient; }}
    walls {{ type noSlip; }}
    cylinder
    {{
        type rotatingWallVelocity; origin ({CENTRE:g} {CENTRE:g} 0); axis (0 0 1); value uniform (0 0 0);
        omega tableFile; omegaCoeffs {{ file "<constant>/omega"; outOfBounds clamp; }}
    }}
    frontAndBack {{ type empty; }}
}}
"""


def _mesh(level: Level) -> str:
    """blockMesh's dictionary: four blocks between the cylinder and a square of 2 D, eight around the square.

    The lengths of neighbouring cells grow away from the cylinder, along the radius by 3 and towards the outlet by 5.
    """
    half, cut = 1.0, RADIUS / math.sqrt(2)
    xs, ys = (0.0, CENTRE - half, CENTRE + half, LENGTH), (0.0, CENTRE - half, CENTRE + half, HEIGHT)
    points = [(x, y) for y in ys for x in xs]
    points += [(CENTRE + sx * cut, CENTRE + sy * cut) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    square, circle = (5, 6, 10, 9), (16, 17, 18, 19)
    count = len(points)

    def block(corners: tuple[int, ...], cells: tuple[int, int], growth: tuple[int, int]) -> str:
        vertices = " ".join(map(str, [*corners, *(corner + count for corner in corners)]))
        return f"hex ({vertices}) ({cells[0]} {cells[1]} 1) simpleGrading ({growth[0]} {growth[1]} 1)"

    def faces(*edges: tuple[int, int]) -> str:
        return " ".join(f"({a} {b} {b + count} {a + count})" for a, b in edges)

    columns, rows = (level.before, level.around, level.behind), (level.beside, level.around, level.beside)
    blocks = [
        block((4 * j + i, 4 * j + i + 1, 4 * j + i + 5, 4 * j + i + 4), (columns[i], rows[j]), ((1, 1, 5)[i], 1))
        for j in range(3)
        for i in range(3)
        if (i, j) != (1, 1)
    ]
    quarters = [(k, (k + 1) % 4) for k in range(4)]
    blocks += [
        block((circle[b], circle[a], square[a], square[b]), (level.around, level.radial), (1, 3)) for a, b in quarters
    ]
    middles = [(0, -1), (1, 0), (0, 1), (-1, 0)]  # of the quarters' arcs
    arcs = [
        f"arc {circle[a] + z * count} {circle[b] + z * count} ({CENTRE + RADIUS * mx:g} {CENTRE + RADIUS * my:g} {z})"
        for z in (0, 1)
        for (a, b), (mx, my) in zip(quarters, middles, strict=True)
    ]
    newline = "\n    "
    return f"""convertToMeters 1;
vertices
(
    {newline.join(f"({x:.15g} {y:.15g} {z})" for z in (0, 1) for x, y in points)}
);
blocks
(
    {newline.join(blocks)}
);
edges
(
    {newline.join(arcs)}
);
defaultPatch {{ name frontAndBack; type empty; }}
boundary
(
    inlet {{ type patch; faces ({faces(*((4 * j, 4 * j + 4) for j in range(3)))}); }}
    outlet {{ type patch; faces ({faces(*((4 * j + 3, 4 * j + 7) for j in range(3)))}); }}
    walls {{ type wall; faces ({faces(*((j + i, j + i + 1) for j in (0, 12) for i in range(3)))}); }}
    cylinder {{ type wall; faces ({faces(*((circle[a], circle[b]) for a, b in quarters))}); }}
);
"""


_CONTROL = """application pimpleFoam;
startFrom startTime; startTime 0; stopAt endTime; endTime {end}; deltaT {step};
writeControl runTime; writeInterval {end}; purgeWrite 0; writeFormat binary; writePrecision 17; writeCompression off;
timeFormat general; timePrecision 10; runTimeModifiable false;
functions
{{
    forces
    {{
        type forces; libs ("libforces.so"); patches (cylinder); rho rhoInf; rhoInf 1; CofR ({centre:g} {centre:g} 0);
        writeControl timeStep; writeInterval 1; writePrecision 12; log false;
    }}
    pressure {{ {pressure} }}
    velocity {{ {velocity} }}
}}
"""

_PROBES = """type probes; libs ("libsampling.so"); fields ({fields}); writeControl writeTime;
    probeLocations ({points});
"""

_SCHEMES = """ddtSchemes { default backward; }
gradSchemes { default Gauss linear; }
divSchemes { default none; div(phi,U) Gauss linear; div((nuEff*dev2(T(grad(U))))) Gauss linear; }
laplacianSchemes { default Gauss linear corrected; }
interpolationSchemes { default linear; }
snGradSchemes { default corrected; }
"""

_SOLUTION = """solvers
{
    p { solver PCG; preconditioner DIC; tolerance 1e-5; relTol 0.02; }
    pFinal { $p; relTol 0; }
    "(U|UFinal)" { solver PBiCGStab; preconditioner DILU; tolerance 1e-6; relTol 0; }
}
PIMPLE { nOuterCorrectors 1; nCorrectors 2; nNonOrthogonalCorrectors 0; }
"""

_PRESSURE = """dimensions [0 2 -2 0 0 0 0]; internalField uniform 0;
boundaryField
{
    inlet { type zeroGradient; }
    outlet { type fixedValue; value uniform 0; }
    walls { type zeroGradient; }
    cylinder { type zeroGradient; }
    frontAndBack { type empty; }
}
"""
