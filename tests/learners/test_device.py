"""What goes to a device arrives in one copy."""

import numpy as np
import torch

from distrl.learners.device import to_device

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


def test_bytes_stay_bytes_and_tensors_stay_where_they_are():
    picture, there = np.arange(6, dtype="u1").reshape(1, 2, 3)[..., ::-1], torch.ones(2, dtype=torch.bool)
    number, picture_there, moved = to_device([np.int64(7)[None], picture, there], CPU)
    assert (number.dtype, number.tolist()) == (torch.float32, [7.0])
    assert (picture_there.dtype, picture_there.tolist()) == (torch.uint8, picture.tolist())
    assert (moved.dtype, moved.tolist()) == (torch.float32, [1.0, 1.0])
