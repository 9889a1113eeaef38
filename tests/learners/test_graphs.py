"""What is recorded for a GPU sees each call's inputs, and so learns what it would learn unrecorded: on a tape."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from distrl.learners.graphs import Captured
from distrl.learners.registry import algorithm_config
from tests.learners.off_policy import BOX, batch_of, check_replayed_updates, observing
from tests.learners.tape import instead_of_graphs

CPU = torch.device("cpu")


def test_on_a_cpu_a_function_is_just_called():
    assert Captured(lambda left, right: (left, right), CPU)(1, 2) == (1, 2)


def test_a_recorded_function_sees_the_inputs_of_each_call_and_is_recorded_once_a_shape_and_flag(monkeypatch):
    tapes, calls = instead_of_graphs(monkeypatch), []

    def function(left, right, *, times):
        calls.append((len(left), times))
        return {"sum": left + times * right, "parts": (2 * left[:1], None)}

    captured = Captured(function, CPU)
    for value in range(9):
        for size, times in ((3, 2), (5, 2), (3, 4)):
            left, right = torch.full((size,), float(value)), torch.ones(size)
            found = captured(left.clone(), right, times=times)
            assert found["sum"].tolist() == [value + times] * size
            assert found["parts"][0].tolist() == [2 * value]
    assert calls == [(3, 2), (5, 2), (3, 4)] * 4  # as it is three times, then recorded
    assert [tape.replays for tape in tapes if tape.replays] == [6, 6, 6]


def test_inputs_may_be_nested_and_lack_parts(monkeypatch):
    class Pair(NamedTuple):
        left: torch.Tensor
        right: torch.Tensor | None

    instead_of_graphs(monkeypatch)
    captured = Captured(lambda pair, more: sum(more, pair.left * (2 if pair.right is None else pair.right)), CPU)
    for value in map(float, range(6)):
        one = torch.full((1,), value)
        assert float(captured(Pair(one, None), (one, one))) == 4 * value
        assert float(captured(Pair(one, one), ())) == value * value


def test_what_lies_where_it_was_is_read_and_changed_in_every_call(monkeypatch):
    instead_of_graphs(monkeypatch)
    total = torch.zeros(2)
    captured = Captured(lambda more: total.add_(more) * 2, CPU)
    for call in range(1, 9):
        assert captured(torch.ones(2)).tolist() == [2 * call] * 2
    assert total.tolist() == [8.0, 8.0]


def test_beyond_so_many_shapes_nothing_more_is_recorded(monkeypatch):
    tapes = instead_of_graphs(monkeypatch)
    captured = Captured(lambda values: values * 2, CPU)
    for size in range(1, 21):
        for value in range(5):
            assert captured(torch.full((size,), float(value))).tolist() == [2 * value] * size
    assert sum(tape.replays > 0 for tape in tapes) == 16


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x + torch.randn(3), "randn.default draws or asks"),
        (lambda x: x * float(x.sum()), "_local_scalar_dense.default draws or asks"),
        (lambda x: x[x > 0], "counts what is true"),
        (lambda x: x.nonzero(), "depends on values"),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0]), "copies from the host"),
    ],
)
def test_the_tape_refuses_what_a_graph_cannot_do(monkeypatch, function, words):
    instead_of_graphs(monkeypatch)
    captured = Captured(function, CPU)
    for _ in range(3):
        captured(torch.ones(3))
    with pytest.raises(AssertionError, match=words):
        captured(torch.ones(3))


def test_the_tape_keeps_what_python_has_computed(monkeypatch):
    """As a graph does, which is why a function takes such numbers as flags."""
    instead_of_graphs(monkeypatch)
    numbers = iter(range(9))
    captured = Captured(lambda x: x + next(numbers), CPU)
    assert [float(captured(torch.zeros(1))) for _ in range(6)] == [0, 1, 2, 3, 3, 3]


DISCRETE = replace(BOX, action_space=Discrete(4, start=2))
MASKED = Dict(
    {"x": Box(-1, 1, (3,)), "view": Box(0, 255, (36, 36, 1), np.uint8), "action_mask": Box(0, 1, (4,), np.int8)}
)
RND = {"bonus": {"kind": "rnd", "hidden": [4]}}


PROBLEM = ("name", "spec", "options")
PROBLEMS = [
    pytest.param("sac", BOX, {}, id="sac"),
    pytest.param("sac", BOX, {"value_loss": "hl_gauss", "num_bins": 11, "max_gradient_norm": 1.0}, id="sac, bins"),
    pytest.param("td3", BOX, {"policy_delay": 3}, id="td3"),
    pytest.param("dsact", BOX, {}, id="dsact"),
    pytest.param("sequence-sac", BOX, {"sequence_length": 3}, id="sequence-sac"),
    pytest.param("dqn", DISCRETE, {"tau": 0.5, "target_period": 3}, id="dqn"),
    pytest.param("dqn", replace(DISCRETE, observation_space=MASKED), {}, id="dqn, pictures and a mask"),
]
CURIOUS = [pytest.param("sac", BOX, RND, id="sac, bonus"), pytest.param("dqn", DISCRETE, RND, id="dqn, bonus")]


@pytest.mark.parametrize(PROBLEM, PROBLEMS)
def test_an_update_on_a_device_waits_for_nothing_and_has_no_part_on_the_cpu(name, spec, options):
    """Where tensors have a shape and no values (PyTorch's meta device), whoever asks for one fails."""
    algorithm = algorithm_config(name)(hidden=(8,), **options).build(spec, device="meta")
    for update in range(3):
        batch = observing(batch_of(spec, 16, update), spec.observation_space)
        gradients, metrics = algorithm.gradients(batch, None)
        found = [value for value in (*gradients.values(), *metrics.values()) if isinstance(value, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in (*found, batch.error))
        assert all(
            gradient.shape == algorithm.optimizer.trained[name].flat.shape for name, gradient in gradients.items()
        )
        algorithm.apply(gradients)
    assert algorithm.optimizer.updates == 3


@pytest.mark.parametrize(PROBLEM, PROBLEMS + CURIOUS)
def test_replayed_updates_are_those_of_calls(monkeypatch, name, spec, options):
    """Whatever the batch weighs and whose turn it is."""
    check_replayed_updates(
        monkeypatch,
        lambda: algorithm_config(name)(hidden=(8,), **options).build(spec, seed=3),
        lambda update: observing(batch_of(spec, 16, update, alike=update % 2 == 0), spec.observation_space),
    )
