"""Who may import whom, read from every import statement, and what loading a module really brings with it.

What a running environment process holds is looked at in tests/actors/test_processes.py.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("actors", "learners", "envs", "cluster", "tune_configs")

#: Room → the rooms it may import beside itself. ``parameter_server`` is a room of one file; the roof is the rest of
#: distrl/.
MAY_IMPORT = {
    "core": {"tune_configs"},  # its folder, to find presets
    "envs": {"core"},
    "learners": {"core"},
    "actors": {"core", "envs"},
    "parameter_server": {"core"},
    "monitor": {"core"},
    "tune_configs": set(),
    "cluster": {"core", "envs", "learners", "actors", "parameter_server", "monitor"},
    "roof": {"core", "envs", "learners", "actors", "parameter_server", "monitor", "cluster", "tune_configs"},
}
MAY_IMPORT_RAY = {
    f"cluster/{name}.py"
    for name in (
        *(
            "launch",
            "supervisor",
            "crew",
            "member",
            "placement",
            "ray_actors",
            "learner_actor",
            "learner_side",
            "acting_side",
            "parameter_shard_actor",
            "ray_links",
            "inference",
            "jobs",
        ),
        *("sweeps/search", "sweeps/sweep", "sweeps/trial", "prometheus", "watch"),
    )
} | {f"cluster/rllib/{name}.py" for name in ("baseline", "env_runner", "module", "module_ppo")}
FORBIDDEN_PACKAGES = {
    "core": {"torch"},
    "envs": {"torch", "pydantic"},
    "actors": {"torch", "pydantic"},
    "parameter_server": {"torch", "pydantic"},
    "monitor": {"torch"},
    "tune_configs": {"torch", "pydantic", "numpy"},
}


def sources() -> dict[str, Path]:
    """Path below the root → file, of every module of the package; the links in distrl/ are not followed."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += [
        path for path in (ROOT / "distrl").rglob("*.py") if not set(path.relative_to(ROOT).parts[1:2]) & set(ROOMS)
    ]
    return {path.relative_to(ROOT).as_posix(): path for path in files}


def room_of(path: str) -> str:
    """The room of a file below the root."""
    first, *rest = Path(path).parts
    if first in ROOMS:
        return first
    if rest[0] in ("core", "monitor"):
        return rest[0]
    return "parameter_server" if rest[0] == "parameter_server.py" else "roof"


def room_of_module(module: str) -> str:
    """The room of ``distrl.x.y``."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in {*ROOMS, "core", "monitor", "parameter_server"}:
        return parts[1]
    return "roof"


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, dotted name) of everything that a file imports, inside functions too; ``from a import b`` gives a.b."""

    def walk() -> Iterator[tuple[int, str]]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} imports relatively: write the whole name"
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    return tuple(walk())


def test_every_room_has_sources():
    assert {room_of(path) for path in sources()} == set(MAY_IMPORT)


def test_rooms_import_only_what_is_below_them():
    wrong = []
    for name, path in sources().items():
        room = room_of(name)
        if name == "distrl/__init__.py":  # names for type checkers; loaded when first used
            continue
        for line, module in imports(path):
            if module.split(".")[0] == "distrl" and module not in {"distrl.__version__", "distrl"}:
                target = room_of_module(module)
                if target != room and target not in MAY_IMPORT[room]:
                    wrong.append(f"{name}:{line} imports {module}: {room} must not know {target}")
    assert not wrong, "\n".join(wrong)


def test_only_a_few_files_import_ray():
    wrong = [
        f"{name}:{line}"
        for name, path in sources().items()
        for line, module in imports(path)
        if module.split(".")[0] == "ray" and name not in MAY_IMPORT_RAY
    ]
    assert not wrong, f"only {', '.join(sorted(MAY_IMPORT_RAY))} may import Ray, but so do {', '.join(wrong)}"


def test_light_rooms_import_no_heavy_package():
    wrong = []
    for name, path in sources().items():
        forbidden = FORBIDDEN_PACKAGES.get(room_of(name), set())
        wrong += [
            f"{name}:{line} imports {module}" for line, module in imports(path) if module.split(".")[0] in forbidden
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_configuration_uses_pydantic_on_the_ground_floor():
    users = {
        name
        for name, path in sources().items()
        if room_of(name) == "core" and any(module.split(".")[0] == "pydantic" for _, module in imports(path))
    }
    assert users == {
        f"distrl/core/{name}.py" for name in ("config", "config_input", "learning_sections", "sections", "sweep")
    }


def test_nobody_imports_a_room_by_its_bare_name():
    """``import envs`` would make a second copy of the module beside distrl.envs."""
    everywhere = [*sources().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    everywhere += [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
    wrong = [
        f"{path}:{line} {module}"
        for path in everywhere
        for line, module in imports(path)
        if module.split(".")[0] in ROOMS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("distrl", "numpy gymnasium pydantic torch ray distrl.core"),
        ("distrl.cli", "torch ray matplotlib distrl.cluster"),
        ("distrl.cluster.local", "ray torch"),
        ("distrl.cluster.components", "ray torch"),
        ("distrl.cluster.recorder", "ray torch"),
        ("distrl.cluster.ray_actors", "torch"),
        ("distrl.monitor.sidecar", "ray torch wandb tensorboard matplotlib"),
        ("distrl.parameter_server", "ray torch pydantic gymnasium"),
        ("distrl.actors.env_worker", "ray torch pydantic"),
        ("distrl.actors.inference_server", "ray torch pydantic"),
        ("distrl.actors.environment_process", "ray torch pydantic"),
        ("distrl.actors.fork_server", "ray torch pydantic"),
        ("distrl.envs.describe", "ray torch pydantic"),
        ("distrl.learners.policies", "ray torch pydantic"),
    ],
)
def test_importing_it_loads_nothing_heavy(module, absent):
    check = f"import sys, {module}; print(*(set({absent.split()!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
