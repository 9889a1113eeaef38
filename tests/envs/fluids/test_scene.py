"""What a scene refuses and how it ends; what it computes is held against the literature in tests/validation."""

import pytest

from distrl.core.errors import ConfigError
from distrl.envs.fluids.bodies import Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.scene import Scene


def test_a_body_outside_the_domain_ends_the_run() -> None:
    scene = Scene(Fluid(20, 20, 0.1, 0.05), {"circle": RigidBody.circle(4.0, 10.0, 8)})
    assert scene.advance(1).outcome == "left_domain"


def test_a_motion_for_a_body_that_is_not_there_is_refused() -> None:
    scene = Scene(Fluid(20, 20, 0.1, 0.05), {"circle": RigidBody.circle(10.0, 10.0, 8)})
    with pytest.raises(ConfigError, match=r"'square', but the scene has circle"):
        scene.advance(1, {"square": Motion(10.0, 10.0)})
