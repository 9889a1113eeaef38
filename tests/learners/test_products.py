"""Products by whatever library are the same products, and networks written out have the gradients of autograd."""

import numpy as np
import pytest
import torch

from distrl.learners.networks import MLP, FlatParameters, squashed_gaussian, squashed_gaussian_backward
from distrl.learners.products import product

CPU = torch.device("cpu")


def random(*shape):
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape).astype("f4"))


@pytest.mark.parametrize("ensemble", [(), (2,)])
@pytest.mark.parametrize("sizes", [(5, 3, 2), (300, 24, 256), (40, 256, 1), (1, 7, 30)])
def test_products_of_any_shape_and_stride(sizes, ensemble):
    rows, inputs, outputs = sizes
    x, weight = random(*ensemble, rows, inputs), random(*ensemble, inputs, outputs)
    bias = random(*ensemble, *(1 for _ in ensemble), outputs)
    expected = (x.double() @ weight.double()).float()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(product(x, weight), expected, **close)
    torch.testing.assert_close(product(x.mT.contiguous().mT, weight.mT.contiguous().mT), expected, **close)
    torch.testing.assert_close(product(x[..., ::2, :], weight), expected[..., ::2, :], **close)
    torch.testing.assert_close(product(x, weight, bias), expected + bias, **close)
    torch.testing.assert_close(product(x, weight, bias, relu=True), (expected + bias).relu(), **close)


def plain(net, parameters, x):
    """The network by torch's own functions, for autograd."""
    x = x if net.ensemble is None else x.expand(net.ensemble, *x.shape)
    for i in range(len(net.sizes) - 1):
        x = (x.relu() if i else x) @ parameters[f"{i}/weight"] + parameters[f"{i}/bias"]
    return x


NETS = [
    MLP((7, 32, 24, 6)),
    MLP((7, 4)),
    MLP((7, 32, 24, 1), ensemble=2),
    MLP((7, 32, 18), ensemble=3),
    MLP((7, 16, 5), ensemble=1),
]


@pytest.mark.parametrize("at_once", [False, True])  # as on a CPU, as on a GPU
@pytest.mark.parametrize("net", NETS)
def test_written_out_networks_have_the_gradients_of_autograd(net, at_once):
    parameters = FlatParameters(net.initial(torch.Generator().manual_seed(0)), CPU)
    members = [parameters.frozen] if at_once else net.members(parameters.frozen)
    x = random(50, 7).requires_grad_()
    expected = plain(net, parameters.named, x)
    output, context = net.forward(members, x.detach())
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)

    d = random(*expected.shape)
    followed = parameters.gradient((expected * d)[..., :20, :].sum())  # by the loss of the first 20 rows
    (d_x,) = torch.autograd.grad((plain(net, parameters.frozen, x) * d).sum(), x)
    gradient, wanted = net.backward(members, context, d, slice(20), wanted=(slice(20, None), slice(4, None)))
    torch.testing.assert_close(gradient, followed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wanted, d_x[20:, 4:], rtol=1e-4, atol=1e-5)
    again, nothing = net.backward(members, context, d, slice(20))
    assert torch.equal(gradient, again)
    assert nothing is None


@pytest.mark.parametrize("net", NETS)
def test_called_networks_are_differentiated_by_autograd(net):
    parameters = FlatParameters(net.initial(torch.Generator().manual_seed(0)), CPU)
    x = random(50, 7).requires_grad_()
    for named in (parameters.named, parameters.frozen):  # the latter are constants, as critics in an actor's loss
        wanted = [x, *(named.values() if named is parameters.named else ())]
        expected = torch.autograd.grad(plain(net, named, x).square().sum(), wanted)
        found = torch.autograd.grad(net(named, x).square().sum(), wanted)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    constant = net(parameters.named, x.detach()).sum()  # of a gradient whose elements share their memory
    torch.testing.assert_close(
        parameters.gradient(constant), parameters.gradient(plain(net, parameters.named, x).sum()), rtol=1e-4, atol=1e-4
    )


def test_the_gaussians_gradient_is_autograds():
    outputs, noise = random(30, 6), random(30, 3)
    outputs[:3, 3:], outputs[3:6, 3:] = 5.0, -30.0  # beyond the limits of log σ, where nothing follows it
    outputs.requires_grad_()
    action, log_prob = squashed_gaussian(outputs, noise)
    d_action, d_log_prob = random(30, 3), random(30)
    (expected,) = torch.autograd.grad((action * d_action).sum() + (log_prob * d_log_prob).sum(), outputs)
    found = squashed_gaussian_backward(outputs.detach(), noise, action.detach(), d_action, d_log_prob)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected[:6, 3:] == 0).all()
