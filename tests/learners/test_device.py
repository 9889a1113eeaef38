"""What goes to a device arrives in one copy, and what is recorded there sees each call's inputs."""

from contextlib import nullcontext

import numpy as np
import torch

from distrl.learners.device import Captured, to_device

CPU = torch.device("cpu")


def test_arrays_arrive_in_their_shapes_as_float32():
    arrays = [
        np.arange(6.0).reshape(2, 3)[:, ::-1],
        np.ones(4, np.int8),
        np.zeros((2, 0, 5), "f4"),
        np.float32(7)[None],
    ]
    found = to_device(arrays, CPU)
    assert all(part.dtype == torch.float32 and part.is_contiguous() for part in found)
    assert all(np.array_equal(part.numpy(), array) for part, array in zip(found, arrays, strict=True))
    assert len({part.untyped_storage().data_ptr() for part in found}) == 1


def test_on_a_cpu_a_function_is_just_called():
    assert Captured(lambda left, right: (left, right), CPU)(1, 2) == (1, 2)


def test_a_recorded_function_sees_the_inputs_of_each_call_and_is_recorded_once_a_shape(monkeypatch):
    """With a stand-in for CUDA that records what the function does to memory as the graph would: by doing it again."""
    calls, recording = [], []

    class Graph:
        def replay(self):
            """Into the memory of the recorded results."""
            self.results.copy_(self.results_of(*self.inputs))

    class Stream:
        def wait_stream(self, other):
            """Nothing runs beside."""

    def function(left, right):
        calls.append(len(left))
        result = left + 2 * right
        if recording:
            recording[0].inputs, recording[0].results = (left, right), result
            recording[0].results_of = lambda left, right: left + 2 * right
        return {"sum": result}

    class Recording:
        def __init__(self, graph, capture_error_mode):
            self.graph = graph

        def __enter__(self):
            recording.append(self.graph)

        def __exit__(self, *_):
            recording.clear()

    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    captured = Captured(function, torch.device("cuda"))
    for size in (3, 5, 3):
        for value in (1.0, 4.0):
            left, right = torch.full((size,), value), torch.ones(size)
            assert torch.equal(captured(left, right)["sum"], left + 2 * right)
            assert torch.equal(left, torch.full((size,), value))  # the caller's is left alone
    assert calls == [3] * 4 + [5] * 4
