"""Random actions keep to what is allowed."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from distrl.core.errors import EnvironmentFault
from distrl.core.spaces import random_action


@pytest.mark.parametrize(
    ("space", "mask", "allowed"),
    [
        (Discrete(4, start=-1), [0, 1, 0, 1], {0, 2}),
        (MultiDiscrete([2, 3], start=[5, 0]), [0, 1, 1, 0, 1], {(6, 0), (6, 2)}),
        (MultiBinary(2), [1, 1, 0, 1], {(0, 1), (1, 1)}),
    ],
    ids=str,
)
def test_all_that_is_allowed_is_drawn_and_nothing_else(space, mask, allowed):
    space.seed(0)
    drawn = [random_action(space, {"action_mask": np.array(mask, np.int8)}) for _ in range(50)]
    assert all(space.contains(action) for action in drawn)
    assert {tuple(action.tolist()) if action.shape else int(action) for action in drawn} == allowed


def test_without_a_mask_of_the_actions_the_whole_space_is_drawn_from():
    space = Discrete(3, seed=0)
    for observation in (np.zeros(3), {"seen": np.zeros(3)}, {"action_mask": np.array([0, 1])}):
        assert {int(random_action(space, observation)) for _ in range(50)} == {0, 1, 2}
    box = Box(-1, 1, (2,), seed=0)
    assert box.contains(random_action(box, {"action_mask": np.zeros(2)}))


def test_a_mask_that_allows_nothing_is_the_environments_fault():
    with pytest.raises(EnvironmentFault, match="allows no action"):
        random_action(Discrete(2), {"action_mask": np.zeros(2, np.int8)})
