"""Rewards and values of a rollout flow in, advantages and value targets flow out: pure operators on tensors [T, N].

Three facts decide what follows step (t, n):

    terminated   nothing: the value of what follows is zero
    truncated    an episode that would have gone on: what follows is worth the value of its final observation
    neither      the next step; after the last one, the value of the bootstrap row

and at an ended step no trace reaches into the episode that begins behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def next_values(value: Tensor, final_value: Tensor, final_index: Tensor) -> Tensor:
    """Value of each step's next observation, [T, N]; not yet zero where the step terminated.

    Args:
        value: [T + 1, N], of ``observation``. final_value: [K], of ``final_observation``.
        final_index: int64 [K, 2], the (t, n) of each.
    """
    following = value[1:].clone()
    following[final_index[:, 0], final_index[:, 1]] = final_value
    return following


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates Σ_l (γλ)^l δ_{t+l} within the episode; Schulman et al. 2016, arXiv 1506.02438,
    equation 16, with δ_t = r_t + γ V(s_{t+1}) − V(s_t).

    Args:
        reward, value, next_value: float [T, N]; ``next_value`` as ``next_values`` gives it.
        terminated, truncated: bool [T, N].

    Returns:
        [T, N]; the target of the values is this plus ``value``.
    """
    _same_shape(reward, value, next_value, terminated, truncated)
    delta = reward + gamma * next_value.masked_fill(terminated, 0.0) - value
    return _sums_backwards(delta, gamma * lam * _goes_on(terminated, truncated, reward))


def vtrace(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    ratio: Tensor,
    gamma: float,
    lam: float = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace targets v_s, and advantages r_s + γ v_{s+1} − V(x_s); Espeholt et al. 2018, arXiv 1802.01561, equation 1
    and section 4.2:

        v_s = V(x_s) + Σ_t γ^{t−s} (Π_{s≤i<t} c_i) δ_t,   δ_t = ρ_t (r_t + γ V(x_{t+1}) − V(x_t)),
        ρ_t = min(ρ̄, π/μ),   c_i = λ min(c̄, π/μ)

    The advantages are without the weight ρ_s that the policy gradient multiplies them with: a surrogate brings its own.

    Args:
        reward, value, next_value: float [T, N]; ``next_value`` as ``next_values`` gives it.
        terminated, truncated: bool [T, N].
        ratio: float [T, N], π/μ: the target policy's probability of the action over the behaviour policy's.

    Returns:
        Targets [T, N], advantages [T, N].
    """
    _same_shape(reward, value, next_value, terminated, truncated, ratio)
    goes_on = _goes_on(terminated, truncated, reward)
    delta = ratio.clamp(max=rho_max) * (reward + gamma * next_value.masked_fill(terminated, 0.0) - value)
    correction = _sums_backwards(delta, gamma * lam * goes_on * ratio.clamp(max=c_max))  # v_s − V(x_s)
    next_target = next_value.clone()
    next_target[:-1] += goes_on[:-1] * correction[1:]
    return value + correction, reward + gamma * next_target.masked_fill(terminated, 0.0) - value


def _sums_backwards(term: Tensor, factor: Tensor) -> Tensor:
    """x_t = term_t + factor_t · x_{t+1}, from x_T = 0; [T, N]."""
    sums: list[Tensor] = []
    following = torch.zeros_like(term[0])
    for now, weight in zip(reversed(term.unbind()), reversed(factor.unbind()), strict=True):
        following = torch.addcmul(now, weight, following)
        sums.append(following)
    return torch.stack(sums[::-1])


def _goes_on(terminated: Tensor, truncated: Tensor, like: Tensor) -> Tensor:
    """1 where the next step is of the same episode, else 0."""
    return (~(terminated | truncated)).to(like.dtype)


def _same_shape(*arrays: Tensor) -> None:
    shapes = {tuple(array.shape) for array in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"a rollout's rewards, values, ends and ratios need one shape [T, N]; they have {shapes}")
