"""A figure and its reference in, a test that passes or fails out; with ``--record``, also the result as JSON."""

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write what the validation gave to tests/validation/results")


def machine() -> str:
    """Cores and processor that the times depend on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of an {model}"


@dataclass
class Confirm:
    """What a validation test says of its figures: each is asserted at once and kept for the page."""

    figures: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __call__(
        self,
        quantity: str,
        got: float,
        reference: float | tuple[float | None, float | None],
        source: str,
        *,
        within: float | None = None,
    ) -> None:
        """Confirm one figure.

        Args:
            reference: one value, or the bounds between which the figure must lie (None: no bound).
            source: where the reference is from; "recalled" where it was not looked up.
            within: the relative tolerance of one value.
        """
        self.figures.append(
            {"quantity": quantity, "got": _short(got), "reference": reference, "within": within, "source": source}
        )
        if isinstance(reference, tuple):
            low, high = reference
            assert low is None or got >= low, f"{quantity} = {got:g} is below {low:g}"
            assert high is None or got <= high, f"{quantity} = {got:g} is above {high:g}"
        else:
            assert got == pytest.approx(reference, rel=within), quantity

    def curve(self, name: str, x: Any, y: Any) -> None:
        """Keep a curve for the plots."""
        self.curves[name] = {axis: [_short(v) for v in values] for axis, values in (("x", x), ("y", y))}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


@pytest.fixture
def confirm(request: pytest.FixtureRequest) -> Iterator[Confirm]:
    """What a validation test calls with each of its figures."""
    figures = Confirm()
    start = time.process_time()
    yield figures
    spent = time.process_time() - start
    if request.config.getoption("--record", default=False):
        result = {
            "case": (request.function.__doc__ or "").split("\n")[0].rstrip("."),
            "file": request.path.stem,
            "slow": request.node.get_closest_marker("slow") is not None,
            "cpu_s": round(spent, 1),
            "machine": machine(),
            "figures": figures.figures,
            "curves": figures.curves,
        }
        path = RESULTS / f"{request.node.name.removeprefix('test_')}.json"
        path.write_text(json.dumps(result, ensure_ascii=False) + "\n")
