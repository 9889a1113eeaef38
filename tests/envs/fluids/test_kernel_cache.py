"""What numba's cache key is made of: a kernel must be compiled once on a machine, not once in every process."""

import inspect

import pytest

from distrl.envs.fluids import scene


@pytest.mark.parametrize("kernel", [scene._advance, scene._fill_edges, scene.move_filament])
def test_the_scenes_kernels_are_keyed_by_their_sources_and_by_nothing_that_differs_between_processes(kernel) -> None:
    """The key holds the closure pickled; another kernel in it is pickled with an identity of this process."""
    assert inspect.getclosurevars(kernel.py_func).nonlocals == {"sources": scene.kernel_sources()}
