"""The cylinder at rest against Schäfer & Turek's benchmark 2D-2, in OpenFOAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distrl.envs.cfd.cylinder_case import FIDELITIES
from distrl.envs.cfd.cylinder_flow import CylinderFlow
from distrl.envs.cfd.developed_flow import flow_pool

#: Schäfer & Turek 1996, test case 2D-2: bounds of the maximum drag coefficient and of the Strouhal number f D / U
DRAG_MAX, STROUHAL = (3.22, 3.24), (0.295, 0.305)
DURATION = 14.0  # D/U: four periods


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fidelity", "drag_tolerance", "strouhal_tolerance"), [("default", 0.01, 0.05), ("fine", 0.01, 0.02)]
)
def test_schaefer_turek_2d_2(
    fidelity: str, drag_tolerance: float, strouhal_tolerance: float, flows: Path, tmp_path: Path
) -> None:
    """The mean of the benchmark's bounds is met within the tolerance."""
    flow = CylinderFlow(tmp_path, FIDELITIES[fidelity])
    flow.load(flow_pool(FIDELITIES[fidelity], flows).flow(0))
    flow.run([(0.0, 0.0), (DURATION, 0.0)], patience=2 * DURATION)
    time, drag, lift = flow.history().T
    lift -= lift.mean()
    before = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
    crossings = time[before] - lift[before] * (time[before + 1] - time[before]) / (lift[before + 1] - lift[before])
    strouhal = 1 / np.diff(crossings).mean()
    print(f"{fidelity}: maximum C_D {drag.max():.3f}, C_L ±{np.abs(lift).max():.3f}, St {strouhal:.4f}")
    assert drag.max() == pytest.approx(np.mean(DRAG_MAX), rel=drag_tolerance)
    assert strouhal == pytest.approx(np.mean(STROUHAL), rel=strouhal_tolerance)
