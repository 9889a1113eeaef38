"""GAE and V-trace against slow transcriptions of the papers' sums, episode by episode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distrl.learners.returns import gae, next_values, vtrace


@st.composite
def rollouts(draw):
    """Rewards, values and ends of T steps of N rows; a step may be terminated and truncated at once."""
    num_steps, num_rows = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    shape = (num_steps, num_rows)

    def floats(*shape):
        return draw(arrays.arrays(np.float64, shape, elements=st.floats(-10, 10)))

    terminated, truncated = (draw(arrays.arrays(np.bool_, shape)) for _ in range(2))
    index = np.argwhere(terminated | truncated)
    ratio = draw(arrays.arrays(np.float64, shape, elements=st.floats(0.0, 5.0)))
    return {
        "reward": floats(*shape),
        "value": floats(num_steps + 1, num_rows),
        "final_value": floats(len(index)),
        "index": index,
        "terminated": terminated,
        "truncated": truncated,
        "ratio": ratio,
    }


def following(rollout, t, n):
    """V of what follows (t, n), by the definition of a fragment."""
    if rollout["terminated"][t, n]:
        return 0.0
    if rollout["truncated"][t, n]:
        return rollout["final_value"][np.flatnonzero((rollout["index"] == (t, n)).all(1))[0]]
    return rollout["value"][t + 1, n]


def rest_of_episode(rollout, t, n):
    """The steps from t to the end of the episode or of the rollout, whichever is first."""
    ended = rollout["terminated"][:, n] | rollout["truncated"][:, n]
    for step in range(t, len(ended)):
        yield step
        if ended[step]:
            return


def delta(rollout, t, n, gamma):
    return rollout["reward"][t, n] + gamma * following(rollout, t, n) - rollout["value"][t, n]


def slow_gae(rollout, gamma, lam):
    """Equation 16 of Schulman et al. 2016."""
    advantage = np.zeros_like(rollout["reward"])
    for t, n in np.ndindex(advantage.shape):
        steps = rest_of_episode(rollout, t, n)
        advantage[t, n] = sum((gamma * lam) ** (step - t) * delta(rollout, step, n, gamma) for step in steps)
    return advantage


def slow_vtrace(rollout, gamma, lam, rho_max, c_max):
    """Equation 1 of Espeholt et al. 2018, and q_s − V(x_s) of its section 4.2."""
    ratio, value = rollout["ratio"], rollout["value"]
    target = np.zeros_like(ratio)
    for s, n in np.ndindex(ratio.shape):
        target[s, n] = value[s, n]
        for t in rest_of_episode(rollout, s, n):
            traces = np.prod([lam * min(c_max, ratio[i, n]) for i in range(s, t)])
            target[s, n] += gamma ** (t - s) * traces * min(rho_max, ratio[t, n]) * delta(rollout, t, n, gamma)
    advantage = np.zeros_like(ratio)
    for s, n in np.ndindex(ratio.shape):
        last = list(rest_of_episode(rollout, s, n)) == [s]  # of its episode, or of the rollout
        next_target = following(rollout, s, n) if last else target[s + 1, n]
        advantage[s, n] = rollout["reward"][s, n] + gamma * next_target - value[s, n]
    return target, advantage


def tensors(rollout):
    found = {name: torch.from_numpy(array) for name, array in rollout.items()}
    return {
        "reward": found["reward"],
        "value": found["value"][:-1],
        "next_value": next_values(found["value"], found["final_value"], found["index"]),
        "terminated": found["terminated"],
        "truncated": found["truncated"],
    }


@settings(deadline=None, max_examples=40)
@given(rollouts(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_papers_sum(rollout, gamma, lam):
    np.testing.assert_allclose(gae(**tensors(rollout), gamma=gamma, lam=lam), slow_gae(rollout, gamma, lam), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(rollouts(), st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 2), st.floats(0.5, 2))
def test_vtrace_is_the_papers_sum(rollout, gamma, lam, rho_max, c_max):
    ratio = torch.from_numpy(rollout["ratio"])
    found = vtrace(**tensors(rollout), ratio=ratio, gamma=gamma, lam=lam, rho_max=rho_max, c_max=c_max)
    for mine, papers in zip(found, slow_vtrace(rollout, gamma, lam, rho_max, c_max), strict=True):
        np.testing.assert_allclose(mine, papers, atol=1e-8)


@given(rollouts())
@settings(deadline=None, max_examples=30)
def test_on_policy_vtrace_targets_are_gaes(rollout):
    """With π = μ and λ = 1 both are the episode's discounted rewards plus the bootstrap (section 4.1, remark 1)."""
    steps = tensors(rollout)
    target, _ = vtrace(**steps, ratio=torch.ones_like(steps["reward"]), gamma=0.9)
    np.testing.assert_allclose(target, gae(**steps, gamma=0.9, lam=1.0) + steps["value"], atol=1e-8)


def test_a_truncated_and_a_terminated_episode_by_hand():
    """Two steps a row, the first of which ends its episode: nothing of the second reaches it."""
    steps = {
        "reward": torch.tensor([[1.0, 1.0], [5.0, 5.0]]),
        "value": torch.tensor([[0.5, 0.5], [2.0, 2.0]]),
        "next_value": next_values(
            torch.tensor([[0.5, 0.5], [2.0, 2.0], [3.0, 3.0]]),
            torch.tensor([10.0, 10.0]),
            torch.tensor([[0, 0], [0, 1]]),
        ),
        "terminated": torch.tensor([[True, False], [False, False]]),
        "truncated": torch.tensor([[False, True], [False, False]]),
    }
    expected = [[1 - 0.5, 1 + 0.9 * 10 - 0.5], [5 + 0.9 * 3 - 2] * 2]
    np.testing.assert_allclose(gae(**steps, gamma=0.9, lam=0.8), expected, rtol=1e-6)


def test_shapes_that_do_not_fit_are_refused():
    one, other = torch.zeros(3, 2), torch.zeros(3, 1)
    ends = torch.zeros(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one shape \[T, N\]"):
        gae(one, other, one, ends, ends, 0.9, 0.9)
