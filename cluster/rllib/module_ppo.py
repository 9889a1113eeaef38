"""A rollout and an RLModule flow in, gradients of the module's parameters flow out: distrl's PPO over RLlib's networks
and distributions, by autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn
from torch.func import functional_call

from distrl.cluster.rllib.module import as_space, build_module
from distrl.core.spaces import leaves
from distrl.core.types import Columns as Arrays
from distrl.core.types import EnvSpec
from distrl.learners.actor_critic import Inputs, Network
from distrl.learners.distributions import Distribution
from distrl.learners.networks import FlatParameters
from distrl.learners.ppo import PPO
from distrl.learners.recurrent import Memory
from distrl.learners.rollout import Rollout


class ModulePPO(PPO):
    """``PPO`` (and APPO, IMPALA) with ``algorithm.module`` in place of its networks; its arguments."""

    def _parts(self, env_spec: EnvSpec, seed: int) -> tuple[Distribution, Network]:
        module = build_module(**self._policy_spec.kwargs, seed=seed)
        self._paths = [leaf.path for leaf in leaves(env_spec.observation_space)]
        return ModuleDistribution(module), ModuleNetwork(module, env_spec.observation_space, self._paths)

    def _inputs(self, rollout: Rollout) -> tuple[Inputs, Inputs]:
        def of(found: Arrays, axes: int) -> Inputs:
            return tuple(self._tensor(found[path].reshape(-1, *found[path].shape[axes:])) for path in self._paths)

        return of(rollout.observation, 2), of(rollout.final_observation, 1)


class _Outputs(nn.Module):
    """Distribution inputs [S, A] and values [S] of a batch; its parameters are ``module.<name>``."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        outputs = self.module.forward_train(batch)
        values = self.module.compute_values(batch, embeddings=outputs.get(Columns.EMBEDDINGS))
        return outputs[Columns.ACTION_DIST_INPUTS], values


class ModuleNetwork:
    """Implements ``distrl.learners.actor_critic.Network``.

    Args:
        space: of the observations. paths: of the inputs, in their order.
    """

    recurrent = False

    def __init__(self, module: Any, space: gymnasium.Space, paths: Sequence[str]):
        self._outputs, self._space, self._paths = _Outputs(module), space, paths

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The module's own, which the seed that it was built with has decided; nothing is drawn."""
        return {name: value.detach().clone() for name, value in self._outputs.module.named_parameters()}

    def evaluate(
        self,
        parameters: FlatParameters,
        inputs: Inputs,
        final: Inputs,
        final_index: Tensor,
        memory: Memory | None,
        with_outputs: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See ``Network``."""
        with torch.no_grad():
            outputs, value = self._call(parameters.frozen, inputs)
            final_value = self._call(parameters.frozen, final)[1] if len(final[0]) else value[:0]
        return outputs.t(), value, final_value

    def forward(self, parameters: FlatParameters, inputs: Inputs, memory: Memory | None) -> tuple[Tensor, Tensor, Any]:
        """See ``Network``."""
        with torch.enable_grad():
            outputs, value = self._call(parameters.named, inputs)
        return outputs.detach().t(), value.detach(), (outputs, value)

    def backward(
        self, parameters: FlatParameters, context: Any, d_outputs: Tensor, d_value: Tensor, gradients: dict[str, Tensor]
    ) -> None:
        """See ``Network``."""
        outputs, value = context
        named = parameters.named
        found = torch.autograd.grad(
            (outputs, value), list(named.values()), (d_outputs.t(), d_value), materialize_grads=True
        )
        gradients.update(zip(named, found, strict=True))

    def _call(self, named: Mapping[str, Tensor], inputs: Inputs) -> tuple[Tensor, Tensor]:
        parts = dict(zip(self._paths, inputs, strict=True))
        batch = {Columns.OBS: as_space(parts, self._space)}
        return functional_call(self._outputs, {f"module.{name}": value for name, value in named.items()}, (batch,))


class ModuleDistribution:
    """Implements ``distrl.learners.distributions.Distribution`` with the class that the module trains with."""

    def __init__(self, module: Any):
        self._class, self._space = module.get_train_action_dist_cls(), module.action_space

    @property
    def num_outputs(self) -> int:
        """As many as the class wants for the actions."""
        return self._class.required_input_dim(self._space)

    def initial(self) -> dict[str, Tensor]:
        """Its parameters are the module's."""
        return {}

    def actions(self, action: np.ndarray, device: torch.device) -> Tensor:
        """[k, S], k numbers an action."""
        return torch.from_numpy(np.require(action.reshape(len(action), -1).T, requirements=["C", "W"])).to(device)

    def forward(
        self, parameters: Mapping[str, Tensor], outputs: Tensor, action: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Any]:
        """See ``Distribution``; masks are the module's own."""
        taken = action.t().reshape(-1, *self._space.shape)
        with torch.enable_grad():
            inputs = outputs.t().detach().requires_grad_()
            distribution = self._class.from_logits(inputs)
            log_prob, entropy = distribution.logp(taken), distribution.entropy()
        return log_prob.detach(), entropy.detach(), (inputs, log_prob, entropy)

    def backward(self, context: Any, d_log_prob: Tensor, d_entropy: Tensor, gradients: dict[str, Tensor]) -> Tensor:
        """See ``Distribution``."""
        inputs, log_prob, entropy = context
        return torch.autograd.grad((log_prob, entropy), inputs, (d_log_prob, d_entropy))[0].t()
