"""Features and a state flow in, the next state flows out: the layer that gives a policy memory, in torch, for autograd.

Both are in torch's form, from features x_t and what was kept of step t − 1; σ is the logistic function, · the product
of entries. A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) keeps h:

    r = σ(W_r x + b_r + U_r h + c_r),  z = σ(W_z x + b_z + U_z h + c_z),
    n = tanh(W_n x + b_n + r · (U_n h + c_n)),  h_t = (1 − z) · n + z · h_{t−1}

Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) keeps h and c:

    i, f, o = σ(W x + b + U h + c) each,  g = tanh(W_g x + b_g + U_g h + c_g),
    c_t = f · c_{t−1} + i · g,  h_t = o · tanh(c_t)

Parameters are ``memory/input/weight`` [in, G], ``memory/input/bias`` [G], ``memory/hidden/weight`` [H, G] and
``memory/hidden/bias`` [G], where G is 3H in the order r, z, n, or 4H in the order i, f, o, g. What actors compute in
numpy is in ``distrl.learners.actor_policies``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from distrl.learners.actor_policies import NUM_STATES


class Memory(NamedTuple):
    """What a recurrent network knows beside the inputs of T steps of n rows, S = T · n of them, time by time.

    Attributes:
        given: bool [T, n]: the step begins from ``state`` instead of from what the step before has left. True at t = 0,
            where an episode begins, and where another stretch of steps follows in the row.
        state: float32 [T, n, K], what the actor began each step from.
    """

    given: Tensor
    state: Tensor


class RecurrentLayer:
    """Args: kind: "gru" or "lstm". size: H.

    Attributes:
        state_size: K, of the state [n, K]: h, or h and then c.
    """

    def __init__(self, kind: str, size: int):
        self.size, self.state_size = size, NUM_STATES[kind] * size
        self._next = {"gru": _gru, "lstm": _lstm}[kind]
        self._num_gates = {"gru": 3, "lstm": 4}[kind]

    def initial(self, num_inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Each gate's weights orthogonal with gain 1, biases zero."""
        parameters = {}
        for side, inputs in (("input", num_inputs), ("hidden", self.size)):
            shape = (self.size, inputs)
            gates = [torch.nn.init.orthogonal_(torch.empty(shape), generator=generator) for _ in range(self._num_gates)]
            parameters[f"memory/{side}/weight"] = torch.cat([gate.t() for gate in gates], 1)
            parameters[f"memory/{side}/bias"] = torch.zeros(self._num_gates * self.size)
        return parameters

    def next_state(self, named: Mapping[str, Tensor], x: Tensor, state: Tensor) -> Tensor:
        """[n, K] from features [n, in] and the state before [n, K]; its first H columns are the layer's output h."""
        return self._step(named, self._from_input(named, x), state)

    def unroll(self, named: Mapping[str, Tensor], x: Tensor, memory: Memory) -> Tensor:
        """States behind each of T steps of n rows, [T · n, K], from features [T · n, in]."""
        from_input = self._from_input(named, x).view(*memory.given.shape, -1)
        given, state, states = memory.given.unsqueeze(2), memory.state[0], []
        for now, begins, stored in zip(from_input.unbind(), given.unbind(), memory.state.unbind(), strict=True):
            state = self._step(named, now, torch.where(begins, stored, state))
            states.append(state)
        return torch.cat(states)

    def _from_input(self, named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.addmm(named["memory/input/bias"], x, named["memory/input/weight"])

    def _step(self, named: Mapping[str, Tensor], from_input: Tensor, state: Tensor) -> Tensor:
        h = state[:, : self.size]
        from_hidden = torch.addmm(named["memory/hidden/bias"], h, named["memory/hidden/weight"])
        return self._next(from_input, from_hidden, state, self.size)


def _gru(from_input: Tensor, from_hidden: Tensor, state: Tensor, size: int) -> Tensor:
    gates = torch.sigmoid(from_input[:, : 2 * size] + from_hidden[:, : 2 * size])
    reset, keep = gates[:, :size], gates[:, size:]
    new = torch.tanh(torch.addcmul(from_input[:, 2 * size :], reset, from_hidden[:, 2 * size :]))
    return torch.lerp(new, state, keep)


def _lstm(from_input: Tensor, from_hidden: Tensor, state: Tensor, size: int) -> Tensor:
    gates = from_input + from_hidden
    write, forget, show = torch.sigmoid(gates[:, : 3 * size]).split(size, 1)
    cell = torch.addcmul(forget * state[:, size:], write, torch.tanh(gates[:, 3 * size :]))
    return torch.cat([show * torch.tanh(cell), cell], 1)
