"""Adam is torch's, target networks lag, parts of a vector go where the whole would, bad gradients are skipped."""

import math

import pytest
import torch

from distrl.core.errors import RunFailed
from distrl.learners.optimizer import MAX_SKIPPED, Optimizer, Rule, Trained
from tests.learners.tape import instead_of_graphs

torch.set_num_threads(1)


def draw(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_a_step_is_torchs_own_adam():
    vector, theirs = Trained(draw(50, 0), Rule(0.01, epsilon=1e-5)), torch.nn.Parameter(draw(50, 0))
    reference = torch.optim.Adam([theirs], lr=0.01, eps=1e-5)
    for seed in range(5):
        theirs.grad = draw(50, seed)
        vector.step(draw(50, seed))
        reference.step()
        torch.testing.assert_close(vector.flat, theirs.detach())


def test_a_rate_scales_the_step():
    whole, half = Trained(torch.zeros(3), Rule(0.01)), Trained(torch.zeros(3), Rule(0.01))
    whole.step(torch.ones(3))
    half.step(torch.ones(3), rate=0.5)
    torch.testing.assert_close(half.flat, 0.5 * whole.flat)


def test_the_target_network_lags_by_tau_every_target_period():
    vector = Trained(torch.zeros(2), Rule(0.1, tau=0.25, target_period=2))
    vector.step(torch.ones(2))
    assert torch.equal(vector.target, torch.zeros(2))
    vector.step(torch.ones(2))
    torch.testing.assert_close(vector.target, 0.25 * vector.flat)


def test_a_long_gradient_is_shortened():
    optimizer = Optimizer({"actor": Trained(torch.zeros(4), Rule(0.1, max_gradient_norm=1.0))})
    gradient = optimizer.trained["actor"].limited(torch.full((4,), 3.0))
    assert float(gradient.norm()) == pytest.approx(1.0, rel=1e-5)
    short = torch.full((4,), 0.1)
    assert torch.equal(optimizer.trained["actor"].limited(short), short)


def test_parts_of_a_vector_go_where_the_whole_goes_bit_for_bit():
    """What parameter servers rest on: the vector is cut at any multiple of 64 elements."""
    rule = Rule(3e-4, tau=0.005)
    whole = Trained(draw(1003, 0), rule)
    parts = [Trained(draw(1003, 0)[begin:end].clone(), rule) for begin, end in ((0, 320), (320, 1003))]
    for seed in range(1, 30):
        gradient = draw(1003, seed)
        whole.step(gradient)
        for part, (begin, end) in zip(parts, ((0, 320), (320, 1003)), strict=True):
            part.step(gradient[begin:end].clone())
    assert torch.equal(whole.flat, torch.cat([part.flat for part in parts]))
    assert torch.equal(whole.target, torch.cat([part.target for part in parts]))


def test_only_vectors_with_a_gradient_are_stepped():
    optimizer = Optimizer({"actor": Trained(torch.zeros(2), Rule(0.1)), "critic": Trained(torch.zeros(2), Rule(0.1))})
    assert optimizer.step({"critic": torch.ones(2)})
    assert torch.equal(optimizer.trained["actor"].flat, torch.zeros(2))
    assert optimizer.updates == optimizer.trained["critic"].steps == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_ten_in_a_row_end_the_run(bad):
    optimizer = Optimizer({"actor": Trained(torch.zeros(3), Rule(0.1)), "critic": Trained(torch.ones(3), Rule(0.1))})
    gradients = {"actor": torch.ones(3), "critic": torch.tensor([1.0, bad, 1.0])}
    for _ in range(MAX_SKIPPED - 1):
        assert not optimizer.step(gradients)
    assert optimizer.step({"actor": torch.ones(3), "critic": torch.ones(3)})  # in a row, that is
    for _ in range(MAX_SKIPPED - 1):
        optimizer.step(gradients)
    assert optimizer.updates == 1
    assert optimizer.skipped == 2 * (MAX_SKIPPED - 1)
    with pytest.raises(RunFailed, match="10 gradients in a row were not finite, after 1 updates"):
        optimizer.step(gradients)


@pytest.mark.parametrize("graphs", [False, True])
def test_what_a_gpu_decides_by_itself_comes_out_the_same(graphs, monkeypatch):
    """There nobody asks at every step whether it was finite; here that is tried on a CPU."""
    if graphs:
        instead_of_graphs(monkeypatch)

    def new(look_period):
        rule = Rule(0.1, max_gradient_norm=2.0, tau=0.1)
        optimizer = Optimizer({"critic": Trained(draw(5, 0), rule), "actor": Trained(draw(3, 1), Rule(0.01))})
        optimizer.look_period = look_period
        return optimizer

    asking, looking = new(1), new(100)
    for seed in range(30):
        gradients = {"critic": draw(5, seed), "actor": draw(3, seed)}
        if seed % 7 == 2 or seed > 25:
            gradients["actor"][1] = math.nan
        for optimizer in (asking, looking):
            optimizer.step(gradients)
    state = looking.state()
    for name, expected in asking.state().items():
        assert expected == state[name] if name == "updates" else expected["steps"] == state[name]["steps"]
        if name != "updates":
            assert all(torch.equal(expected[kind], state[name][kind]) for kind in expected if kind != "steps")
    assert asking.skipped == looking.skipped == 8

    bad = {"critic": torch.full((5,), math.inf)}
    for _ in range(MAX_SKIPPED - 5):  # the row began before the look
        looking.step(bad)
    looking.look()
    looking.step(bad)
    with pytest.raises(RunFailed, match="10 gradients in a row were not finite, after 22 updates"):
        looking.look()


def test_its_state_continues_bit_for_bit_and_another_networks_is_refused():
    def new(size=5):
        return Optimizer({"critic": Trained(torch.zeros(size), Rule(0.1, tau=0.1, target_period=3))})

    first, other = new(), new()
    for seed in range(4):
        first.step({"critic": draw(5, seed)})
    other.load_state(first.state())
    for seed in range(4, 10):
        for optimizer in (first, other):
            optimizer.step({"critic": draw(5, seed)})
    assert torch.equal(first.trained["critic"].flat, other.trained["critic"].flat)
    assert torch.equal(first.trained["critic"].target, other.trained["critic"].target)
    assert first.updates == other.updates == 10
    with pytest.raises(ValueError, match=r"needs 'critic' of shape \(7,\), but holds \(5,\)"):
        new(7).load_state(first.state())
