"""A flow in OpenFOAM's files in, an rgb image of its vorticity out: OpenFOAM itself samples the velocity on a grid."""

from __future__ import annotations

import numpy as np

from distrl.envs.cfd.cylinder_case import CENTRE, HEIGHT, RADIUS, write_probes
from distrl.envs.cfd.cylinder_flow import CylinderFlow
from distrl.envs.dynamics import picture

_SPACING, _LENGTH, _SCALE = 0.1, 14.0, 4  # D; D of the channel that are shown; pixels of a point
_RANGE = 6.0  # vorticity in U/D at which a colour is full
_GREY = np.array([150, 156, 168], np.uint8)


def image(flow: CylinderFlow) -> np.ndarray:
    """uint8 [164, 560, 3]: blue turns clockwise, amber anticlockwise; a spoke shows the rotation, upright for none."""
    x = (np.arange(round(_LENGTH / _SPACING)) + 0.5) * _SPACING
    y = (np.arange(round(HEIGHT / _SPACING)) + 0.5) * _SPACING
    points = [(a, b) for a in x for b in y]
    write_probes(flow.folder, "picture", points)
    flow.post_process("picture")
    u, v = flow.table("picture", "U")[-1, 1:].reshape(len(x), len(y), 3)[..., :2].transpose(2, 0, 1)
    inside = np.abs(u) > 1e9  # OpenFOAM's value where there is no fluid
    u[inside] = v[inside] = 0.0
    vorticity = np.gradient(v, _SPACING, axis=0) - np.gradient(u, _SPACING, axis=1)
    shown = picture.heat(vorticity, -_RANGE, _RANGE, _SCALE)
    height, width = shown.shape[:2]
    px = (np.arange(width) + 0.5) * _SPACING / _SCALE - CENTRE
    py = (height - np.arange(height) - 0.5)[:, None] * _SPACING / _SCALE - CENTRE
    shown[px**2 + py**2 < RADIUS**2] = _GREY
    angle = np.pi / 2 + flow.rotation
    across, along = py * np.cos(angle) - px * np.sin(angle), px * np.cos(angle) + py * np.sin(angle)
    shown[(np.abs(across) < 0.05) & (along > 0) & (along < RADIUS)] = 255
    return shown
