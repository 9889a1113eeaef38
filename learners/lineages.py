"""Seeds flow in, parameters of networks flow out: an individual is the list of its seeds, however large its network.

    θ(s₁, …, sₙ) = scale · ε(s₁) + σ · ε(s₂) + … + σ · ε(sₙ)

Such et al. 2017, "Deep Neuroevolution", arXiv 1712.06567, section 3.1. ε(s) is standard normal noise, which NumPy's
counter-based Philox generator draws with s as its key: so a seed means the same in every process (of one NumPy, which
may change how it makes normal numbers of random bits). The list without seeds is the *root*: its parameters are zero.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np

ROOT = 0  # id of the list without seeds
MAX_SEED = 2**63 - 1  # seeds and ids are int64 arrays' elements; a seed is at least 1


def noise(seed: int, size: int) -> np.ndarray:
    """ε(seed), float32 [size]."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(size, np.float32)


def child_id(parent: int, seed: int) -> int:
    """Id of the list that goes on with ``seed`` where the list with the id ``parent`` ends.

    It follows from the seeds alone, so that nobody has to hand out numbers, and a learner that goes back to a
    checkpoint never means another individual by one.
    """
    digest = hashlib.blake2b(struct.pack("<qq", parent, seed), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1


def lineage_ids(seeds: Sequence[int]) -> list[int]:
    """Ids of the lists that begin as ``seeds`` does: of none of them (``ROOT``), of the first, …, of all."""
    return list(itertools.accumulate(seeds, child_id, initial=ROOT))


class Lineages:
    """Decodes lists of seeds into the parameters of networks with tanh between linear layers.

    Args:
        sizes: of the input, of each hidden layer, and of the output.
        sigma: σ.

    Attributes:
        num_parameters: P: of each layer the weights [in, out], then its biases [out]. root: float32 [P] of the root.
    """

    def __init__(self, sizes: Sequence[int], sigma: float):
        self._shapes = list(itertools.pairwise(sizes))
        self._sigma = np.float32(sigma)
        # weights that keep the size of what passes through them, and biases of 0
        parts = [part for i, o in self._shapes for part in (np.full(i * o, 1.0 / math.sqrt(i)), np.zeros(o))]
        self._scale = np.concatenate(parts).astype(np.float32)
        self.num_parameters = len(self._scale)
        self.root = np.zeros(self.num_parameters, np.float32)

    def child(self, parent: int, parameters: np.ndarray, seed: int) -> np.ndarray:
        """float32 [P] of the individual that goes on with ``seed``; ``parent``, ``parameters``: id and [P] of the one
        before."""
        fresh = noise(seed, self.num_parameters)
        if parent == ROOT:
            return self._scale * fresh
        fresh *= self._sigma
        fresh += parameters
        return fresh

    def decoded(self, seeds: Sequence[int], known: Mapping[int, np.ndarray]) -> np.ndarray:
        """float32 [P] of an individual. ``known``: parameters by id, of which the nearest ancestor's save work."""
        ids = lineage_ids(seeds)
        begin = next((n for n in range(len(seeds), 0, -1) if ids[n] in known), 0)
        parameters = known[ids[begin]] if begin else self.root
        for n in range(begin, len(seeds)):
            parameters = self.child(ids[n], parameters, seeds[n])
        return parameters

    def outputs(self, parameters: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """float32 [N, out] of ``inputs`` float32 [N, in], each row through the network of its ``parameters`` [N, P], or
        all through one, [1, P]."""
        x, begin, last = inputs[:, None], 0, len(self._shapes) - 1
        for layer, (size, out) in enumerate(self._shapes):
            middle, end = begin + size * out, begin + size * out + out
            x = x @ parameters[:, begin:middle].reshape(-1, size, out)
            x += parameters[:, None, middle:end]
            if layer < last:
                np.tanh(x, out=x)
            begin = end
        return x[:, 0]
