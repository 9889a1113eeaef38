"""A CUDA graph's stand-in on a CPU: it writes down each operation with the memory it worked on, and repeats it there.

What a graph cannot do fails here too: drawing, asking for a value, results whose shape depends on values, and
what is made of Python's numbers, which a graph would have to copy from the host. What a graph would not see is not
seen either: Python runs once, so a number it has computed stays what it was.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from distrl.learners import graphs

_IMPOSSIBLE = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output}
_FROM_THE_HOST = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}
_BYTES = (torch.bool, torch.uint8)


class Tape(TorchDispatchMode):
    """Implements ``distrl.learners.graphs.Graph``."""

    def __init__(self, device):
        super().__init__()
        self.operations, self.replays = [], 0

    def run(self, work):
        """See ``Graph``."""
        return work()

    def record(self, work):
        """Unlike a graph this does what it records, so that the first replay has nothing left to do."""
        with self:
            return work()

    def replay(self):
        """See ``Graph``."""
        self.replays += 1
        for operation, args, kwargs, results in self.operations if self.replays > 1 else ():
            with torch.no_grad():
                found = operation(*args, **kwargs)
            for result, new in zip(tensors(results), tensors(found), strict=True):
                if result.data_ptr() != new.data_ptr():  # else it is a view, or has been changed in place
                    result.copy_(new)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert not _IMPOSSIBLE & set(operation.tags), f"{operation} draws or asks for a value"
        assert operation not in _FROM_THE_HOST, f"{operation} copies from the host"
        if torch.Tag.dynamic_output_shape in operation.tags:
            indexes = tensors(args[1:])
            assert operation is torch.ops.aten.index.Tensor, f"the shape of what {operation} gives depends on values"
            assert all(index.dtype not in _BYTES for index in indexes), f"{operation} counts what is true"
        results = operation(*args, **(kwargs or {}))
        self.operations.append((operation, *tree_map(_memory_of, (args, kwargs or {}, results))))
        return results


def _memory_of(leaf):
    """Of a tensor, without what autograd knows of it."""
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def tensors(results):
    """Those among nested results."""
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def instead_of_graphs(monkeypatch):
    """From now on tapes record what is on the CPU; the list of them."""
    made = []

    def new(on):
        made.append(Tape(on))
        return made[-1]

    monkeypatch.setitem(graphs.GRAPHS, "cpu", new)
    return made
