"""Histograms of values against a slow transcription of the paper's formula."""

import itertools
import math

import numpy as np
import torch

from distrl.learners.hl_gauss import HLGauss, Squared

CPU = torch.device("cpu")


def slow_probabilities(y, edges, sigma):
    """p_i(y), bin by bin; Farebrother et al. 2024, section 3.1."""

    def below(x):
        return 0.5 * (1 + math.erf((x - y) / (sigma * math.sqrt(2))))

    masses = np.array([below(right) - below(left) for left, right in itertools.pairwise(edges)])
    return masses / (below(edges[-1]) - below(edges[0]))


def test_probabilities_values_and_loss_are_the_papers():
    values, edges = HLGauss(-2.0, 3.0, 10, 0.75, CPU), np.linspace(-2, 3, 11)
    targets = [-2.0, -1.3, 0.0, 0.51, 2.99, 3.0]
    expected = np.stack([slow_probabilities(y, edges, 0.375) for y in targets])
    found = values.probabilities(torch.tensor(targets))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)

    outputs = np.random.default_rng(0).normal(size=(2, 6, 10))  # of two critics
    chances = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    tensor = torch.from_numpy(outputs).float()
    np.testing.assert_allclose(values.values(tensor), chances @ (edges[1:] + edges[:-1]) / 2, rtol=1e-4, atol=1e-5)
    loss = values.loss(tensor, torch.tensor(targets))
    np.testing.assert_allclose(loss, -(expected * np.log(chances)).sum(-1), rtol=1e-4)


def test_the_mean_of_the_histogram_is_the_target():
    values = HLGauss(-10.0, 10.0, 51, 0.75, CPU)
    targets = torch.linspace(-8, 8, 101)
    decoded = values.values(values.probabilities(targets).log())
    np.testing.assert_allclose(decoded, targets, atol=1e-3)


def test_targets_beyond_are_taken_as_the_nearest_bound():
    values = HLGauss(-1.0, 1.0, 20, 0.75, CPU)
    far, near = values.probabilities(torch.tensor([-1e6, 1e6])), values.probabilities(torch.tensor([-1.0, 1.0]))
    assert torch.equal(far, near)
    assert torch.isfinite(far).all()


def test_squared_is_the_number_itself():
    outputs = torch.tensor([[[1.0], [2.0]], [[3.0], [5.0]]])  # of two critics
    assert Squared().values(outputs).tolist() == [[1.0, 2.0], [3.0, 5.0]]
    assert Squared().loss(outputs, torch.tensor([1.0, 4.0])).tolist() == [[0.0, 2.0], [2.0, 0.5]]
