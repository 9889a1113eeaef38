"""What an environment may return and what not, entry by entry, and how a space becomes named arrays."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.types import ARRAY, ArraySpec
from distrl.envs.checks import describe_exception, flatten_observation, plain_scalars, unpack_step

F32 = spaces.Box(-1, 1, (2,), np.float32)
U8 = spaces.Box(0, 255, (2,), np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (F32, np.array([0.1, 0.2]), np.array([0.1, 0.2], np.float32)),  # float64 is rounded
        (F32, [1, 2], np.array([1, 2], np.float32)),  # beyond the Box's bounds: not enforced
        (U8, np.array([3, 255]), np.array([3, 255], np.uint8)),
        (spaces.Discrete(3), np.int32(2), np.int64(2)),
        (spaces.MultiBinary(2), np.array([True, False]), np.array([1, 0], np.int8)),
    ],
)
def test_accepted(space, value, expected):
    found = flatten_observation(space, value)[ARRAY]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.asarray(expected).dtype


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (F32, np.zeros(3), r"shape \(2,\); it returned shape \(3,\)"),
        (F32, np.array([1e300, 0]), "finite numbers; it returned 1e\\+300 at flat index 0"),
        (F32, np.array([np.inf, 0], np.float32), "finite"),
        (F32, np.array([1j, 0]), "dtype complex128"),
        (F32, [[1], [1, 2]], "ragged"),
        (U8, np.array([0.0, 1.0]), "dtype uint8; it returned dtype float64"),
        (U8, np.array([-1, 256]), "values that fit uint8; it returned -1 … 256"),
        (spaces.Discrete(3, start=1), 0, "a value of Discrete"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "a value of MultiDiscrete"),
        (spaces.Dict({"a": F32}), {"b": np.zeros(2)}, r"'a' with an entry 'a'; it returned keys \['b'\]"),
        (spaces.Dict({"a": F32}), np.zeros(2), "an entry 'a'"),
        (spaces.Tuple((F32,)), (), "an entry 0"),
    ],
)
def test_refused(space, value, text):
    with pytest.raises(EnvironmentFault, match=text) as caught:
        flatten_observation(space, value)
    assert caught.value.kind == ("divergence" if "finite" in text else "protocol")


def test_paths_and_specs():
    space = spaces.Dict({"b": spaces.Tuple((F32, spaces.Discrete(2))), "a": U8})
    assert observation_leaves(space) == {
        "a": ArraySpec((2,), "uint8"),
        "b/0": ArraySpec((2,), "float32"),
        "b/1": ArraySpec((), "int64"),
    }
    assert list(observation_leaves(F32)) == [ARRAY]
    assert action_leaf(spaces.Discrete(4)) == ArraySpec((), "int64")


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Text(5), "is a Text"),
        (spaces.Dict({"a": spaces.Sequence(F32)}), "'a' is a Sequence"),
        (spaces.Dict({"a/b": F32}), "must not contain '/'"),
    ],
)
def test_spaces_that_cannot_be_hosted(space, text):
    with pytest.raises(ConfigError, match=text):
        observation_leaves(space)


def test_composite_actions_are_refused():
    with pytest.raises(ConfigError, match="flatten it in the environment"):
        action_leaf(spaces.Tuple((F32, F32)))


def test_reward_and_flags():
    observation = np.zeros(2)
    for reward in (1, 1.0, np.float32(1), np.int64(1), np.array(1.0), True):
        assert unpack_step((observation, reward, np.bool_(False), True, {}))[1:4] == (1.0, False, True)
    for reward in (float("inf"), 1e39, 1j, "1", np.zeros(1)):
        with pytest.raises(EnvironmentFault):
            unpack_step((observation, reward, False, False, {}))


def test_plain_scalars():
    info = {"a": 1, "b": np.float32(0.5), "c": "x", "d": np.zeros(2), "e": "x" * 500, "f": None, "g": True, 3: 4}
    assert plain_scalars(info) == {"a": 1, "b": 0.5, "c": "x", "g": True, "3": 4}


def test_exceptions_are_placed_in_the_users_code():
    def user():
        np.linalg.inv(np.zeros((2, 2)))

    with pytest.raises(np.linalg.LinAlgError) as caught:
        user()
    line = user.__code__.co_firstlineno + 1
    assert describe_exception(caught.value) == f"LinAlgError: Singular matrix ({__file__}:{line})"
