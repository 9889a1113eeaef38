"""What numba's cache key is made of: a kernel must be compiled once on a machine, not once in every process."""

import inspect

import pytest

from distrl.envs.fluids import coupling


@pytest.mark.parametrize("kernel", [coupling.advance, coupling.fill_edges, coupling.move_filament])
def test_the_scenes_kernels_are_keyed_by_their_sources_and_by_nothing_that_differs_between_processes(kernel) -> None:
    """The key holds the closure pickled; another kernel in it is pickled with an identity of this process."""
    assert inspect.getclosurevars(kernel.py_func).nonlocals == {"sources": coupling.kernel_sources()}
