"""A fragment can be cut along time and joined again without losing what a step bootstraps from."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distrl.core.fragments import join, part, runs
from distrl.core.types import ARRAY, FINAL, OBSERVATION
from tests.fakes.fragments import fragment


def same(a, b):
    assert a.columns.keys() == b.columns.keys()
    for name, column in a.columns.items():
        np.testing.assert_array_equal(b.columns[name], column, err_msg=name)
        assert b.columns[name].dtype == column.dtype


@given(st.integers(1, 12), st.lists(st.integers(1, 11), max_size=4))
def test_cut_anywhere_and_joined_it_is_the_same(steps, cuts):
    whole = fragment(steps, episode_uid=7, terminated=True)
    bounds = sorted({0, steps, *(cut for cut in cuts if cut < steps)})
    same(whole, join([part(whole, 0, a, b) for a, b in itertools.pairwise(bounds)]))


def test_a_part_has_its_own_bootstrap_row():
    piece = part(fragment(6, rows=2, episode_uid=3), 1, 2, 4)
    assert piece.num_rows == 1
    assert piece.columns["step"][:, 0].tolist() == [2, 3]
    assert piece.columns["episode_uid"][:, 0].tolist() == [4, 4]
    assert piece.columns[OBSERVATION + ARRAY][:, 0, 0].tolist() == [402, 403, 404]


def rectangle_with_an_end_inside():
    """Row 1 ends an episode after its step 2; its final observation is given apart."""
    whole = fragment(5, rows=2)
    whole.columns["truncated"][2, 1] = True
    whole.columns["episode_uid"][3:, 1] = 99
    whole.columns["step"][3:, 1] = [0, 1]
    whole.columns["final_index"] = np.array([[2, 1]], np.int32)
    whole.columns[FINAL + ARRAY] = np.full((1, 3), 777, np.float32)
    return whole


def test_a_final_observation_goes_with_its_step():
    whole = rectangle_with_an_end_inside()
    assert part(whole, 1, 1, 3).columns["final_index"].tolist() == [[1, 0]]
    assert part(whole, 1, 1, 3).columns[FINAL + ARRAY][0, 0] == 777
    assert part(whole, 1, 3, 5).columns["final_index"].shape == (0, 2)
    assert part(whole, 0, 0, 5).columns["final_index"].shape == (0, 2)
    again = join([part(whole, 1, 0, 1), part(whole, 1, 1, 5)])
    assert again.columns["final_index"].tolist() == [[2, 0]]


def test_runs_are_the_stretches_of_one_episode():
    assert list(runs(rectangle_with_an_end_inside())) == [(0, 0, 5), (1, 0, 3), (1, 3, 5)]
