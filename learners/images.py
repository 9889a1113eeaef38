"""Images flow in, features flow out: convolutions for the learner, and the one policy of actors that loads torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.actor_critic import Inputs
from distrl.learners.actor_policies import (
    MEMORY,
    ActorPolicy,
    head_of,
    initial_memory,
    normalised,
    prepared_moments,
)
from distrl.learners.image_layers import LAYERS, channels_last, keep_memory, output_shapes
from distrl.learners.inputs import Layout, flat_inputs, image_paths
from distrl.learners.recurrent import RecurrentLayer
from distrl.learners.shared_network import SharedActorCritic, orthogonal


class ConvEncoder:
    """Each image through convolutions with ReLU, then all that is flat and the flattened images through one linear
    layer with ReLU; ``image/<j>/<i>/weight`` [out, in, k, k] and ``…/bias`` [out] of image j and convolution i,
    ``actor/0/weight`` [in, F] and ``actor/0/bias`` [F]. Implements ``distrl.learners.shared_network.Encoder``.

    Args:
        images: shape of each image, [height, width, channels] or [channels, height, width].
        num_flat: width of the flat inputs; 0: there are none, and ``Inputs`` begin with the first image.
        name: of the convolutions (distrl.learners.image_layers).
    """

    num_layers = 1

    def __init__(self, images: Sequence[Sequence[int]], num_flat: int, name: str):
        keep_memory()
        convolutions, self.num_features = LAYERS[name]
        self._channels_last = [channels_last(shape) for shape in images]
        self._strides = [stride for _, _, stride in convolutions]
        self._shapes = {}
        num_inputs = num_flat
        for j, shape in enumerate(images):
            channels = min(shape[0], shape[-1])
            for i, (outputs, kernel, _) in enumerate(convolutions):
                self._shapes[f"image/{j}/{i}"] = (outputs, channels, kernel, kernel)
                channels = outputs
            num_inputs += math.prod(output_shapes(shape, name)[-1])
        self._num_inputs, self._num_flat = num_inputs, num_flat

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Orthogonal with gain √2, biases zero."""
        parameters = {}
        for name, shape in self._shapes.items():
            parameters[f"{name}/weight"] = orthogonal(shape, math.sqrt(2.0), generator)
            parameters[f"{name}/bias"] = torch.zeros(shape[0])
        weight = orthogonal((self.num_features, self._num_inputs), math.sqrt(2.0), generator)
        return parameters | {"actor/0/weight": weight.t().contiguous(), "actor/0/bias": torch.zeros(self.num_features)}

    def features(self, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """See ``Encoder``; images are uint8 [S, …]."""
        parts = [inputs[0]] if self._num_flat else []
        # the backward pass is faster in this layout, the forward pass is not
        layout = torch.channels_last if parameters["actor/0/weight"].requires_grad else torch.preserve_format
        for j, (image, last) in enumerate(zip(inputs[len(parts) :], self._channels_last, strict=True)):
            x = (image.permute(0, 3, 1, 2) if last else image).to(torch.float32, memory_format=layout)
            for i, stride in enumerate(self._strides):
                weight, bias = parameters[f"image/{j}/{i}/weight"], parameters[f"image/{j}/{i}/bias"]
                if i == 0:
                    weight = weight * (1.0 / 255.0)  # in place of the image, which has more numbers
                x = torch.relu_(torch.conv2d(x, weight, bias, stride))
            parts.append(x.flatten(1))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return torch.relu_(torch.addmm(parameters["actor/0/bias"], joined, parameters["actor/0/weight"]))


def shared_network(network: Mapping[str, Any], num_outputs: int) -> SharedActorCritic:
    """What a policy's arguments ``network`` describe; see ``ImageNetwork``."""
    encoder = ConvEncoder(network["images"], network["num_flat"], network["convolutions"])
    layer = None if network["memory"] is None else RecurrentLayer(*network["memory"])
    return SharedActorCritic(encoder, layer, num_outputs)


def image_policy(seed: int, deterministic: bool, network: Mapping[str, Any], actions: Mapping[str, Any]) -> ActorPolicy:
    """An actor that sees images. ``network``: arguments of ``ImageNetwork`` but the last. ``actions``: see
    ``distrl.learners.actor_policies.head_of``."""
    head = head_of(actions)
    return ActorPolicy(seed, deterministic, ImageNetwork(network, head.num_outputs), head)


class ImageNetwork:
    """The learner's network in an actor; implements ``distrl.learners.actor_policies.Network``.

    Args:
        network: ``inputs``: the layout of the observations. ``images``, ``num_flat``, ``convolutions``: see
            ``ConvEncoder``. ``memory``: kind and size of ``distrl.learners.recurrent.RecurrentLayer``, or None.
        num_outputs: of the actor.
    """

    def __init__(self, network: Mapping[str, Any], num_outputs: int):
        self._inputs: Layout = network["inputs"]
        self._images, self._memory = image_paths(self._inputs), network["memory"]
        self._num_flat = network["num_flat"]
        self._network = shared_network(network, num_outputs)
        self._device = "cpu"

    def to(self, device: str) -> None:
        """See ``Network``."""
        self._device = device

    def prepared(self, weights: Weights) -> Any:
        """See ``Network``."""
        named = {name: torch.tensor(array, device=self._device) for name, array in weights.items()}
        return named, prepared_moments(weights)

    def initial_state(self, num_rows: int) -> Columns:
        """See ``Network``."""
        return initial_memory(self._memory, num_rows)

    @torch.inference_mode()
    def outputs(self, prepared: Any, observation: Observation, state: Columns) -> tuple[np.ndarray, Columns]:
        """See ``Network``."""
        named, moments = prepared
        inputs = [torch.from_numpy(observation[path]) for path in self._images]
        if self._num_flat:
            inputs.insert(0, torch.from_numpy(normalised(flat_inputs(observation, self._inputs), moments)))
        memory = torch.from_numpy(state[MEMORY]).to(self._device) if state else None
        outputs, following = self._network.act(named, tuple(part.to(self._device) for part in inputs), memory)
        return outputs.t().cpu().numpy(), {} if following is None else {MEMORY: following.cpu().numpy()}
