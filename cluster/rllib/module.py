"""The import path of an RLlib ``RLModule`` goes in; what acts with it and what trains it come out, as distrl has both.

    batch {OBS} → forward_exploration → ACTION_DIST_INPUTS → the module's own distribution → action, log-probability

The module decides everything: networks, distribution, what it makes of masks. It must be one of torch that implements
``ValueFunctionAPI``, keep no state between steps, and hold all that it learns in parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.serialization import gym_space_from_dict, gym_space_to_dict
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action
from torch import Tensor

from distrl.core.errors import ConfigError
from distrl.core.spaces import action_leaf, nested
from distrl.core.types import Columns as Arrays
from distrl.core.types import EnvSpec, Observation, PolicySpec, Weights, import_path
from distrl.envs.checks import flatten_observation


def policy_spec(module: str, module_config: Mapping[str, Any], env_spec: EnvSpec) -> PolicySpec:
    """The recipe of a ``ModulePolicy`` whose module can be trained by PPO; the module is tried once.

    Args:
        module: "package.module:Class". module_config: its ``model_config``.

    Raises:
        ConfigError: what it names is no such module, or cannot be made for the spaces.
    """
    try:
        cls = import_path(module)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"algorithm.module = {module!r} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, TorchRLModule) and issubclass(cls, ValueFunctionAPI)):
        raise ConfigError(
            f"algorithm.module needs to name a TorchRLModule that implements ValueFunctionAPI (it must give the values "
            f"that PPO learns from); {module!r} is {cls!r}"
        )
    action_leaf(env_spec.action_space)  # refuses what cannot be hosted
    if np.any(getattr(env_spec.action_space, "start", 0)):
        raise ConfigError(f"an RLModule numbers its actions from 0; the action space is {env_spec.action_space}")
    spec = recipe(module, module_config, env_spec.observation_space, env_spec.action_space)
    try:
        built = build_module(**spec.kwargs)
    except Exception as error:
        raise ConfigError(
            f"algorithm.module = {module!r} cannot be made with algorithm.module_config = {dict(module_config)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check(module, built)
    return spec


def recipe(
    module: str,
    module_config: Mapping[str, Any],
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    catalog: str | None = None,
    normalize_actions: bool = True,
) -> PolicySpec:
    """The recipe of a ``ModulePolicy``, plain data.

    Args:
        catalog: import path of the ``catalog_class`` of RLlib's own modules. normalize_actions: RLlib's option of that
            name: Box actions of −1 … 1 are the Box's bounds; without, actions are clipped to it.
    """
    return PolicySpec(
        "distrl.cluster.rllib.module:ModulePolicy",
        {
            "module": module,
            "module_config": dict(module_config),
            "observation_space": gym_space_to_dict(observation_space),
            "action_space": gym_space_to_dict(action_space),
            "catalog": catalog,
            "normalize_actions": normalize_actions,
        },
    )


def build_module(
    module: str,
    module_config: Mapping[str, Any],
    observation_space: Mapping[str, Any],
    action_space: Mapping[str, Any],
    catalog: str | None = None,
    normalize_actions: bool = True,
    seed: int = 0,
    inference_only: bool = False,
) -> Any:
    """The module of a recipe's arguments; ``seed`` decides its first parameters. ``inference_only`` leaves out what
    only training needs, where the module says what that is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RLModuleSpec(
            module_class=import_path(module),
            observation_space=gym_space_from_dict(dict(observation_space)),
            action_space=gym_space_from_dict(dict(action_space)),
            model_config=dict(module_config),
            catalog_class=import_path(catalog) if catalog else None,
            inference_only=inference_only,
        ).build()


def _check(name: str, module: Any) -> None:
    """Refuse what PPO cannot train.

    Raises:
        ConfigError: naming it.
    """
    if module.is_stateful():
        raise ConfigError(
            f"algorithm.module = {name!r} keeps a state between steps (get_initial_state), which is not supported: use "
            "a module without one, or distrl's own networks with algorithm.memory_size"
        )
    learned = dict(module.named_parameters())
    if left := [entry for entry in module.state_dict() if entry not in learned]:
        raise ConfigError(
            f"algorithm.module = {name!r} must keep all that it learns in parameters, but its buffer {left[0]!r} is in "
            "its state too: make it a parameter, or register it with persistent=False"
        )
    space = module.observation_space
    sample = {path: array[None] for path, array in flatten_observation(space, space.sample()).items()}
    with torch.no_grad():
        outputs = module.forward_train({Columns.OBS: as_tensors(sample, space, torch.device("cpu"))})
    if Columns.ACTION_DIST_INPUTS not in outputs:
        raise ConfigError(
            f"algorithm.module = {name!r} must return {Columns.ACTION_DIST_INPUTS!r} from _forward_train, as RLlib's "
            f"PPO wants it; it returned {', '.join(outputs)}"
        )


def as_tensors(observation: Observation, space: gymnasium.Space, device: torch.device) -> Any:
    """path → [N, …] → tensors in the form of the space, as RLlib's connectors give them: floats are float32."""
    # what came through shared memory cannot be written to, which torch warns about
    parts = {path: torch.from_numpy(np.require(array, requirements=["C", "W"])) for path, array in observation.items()}
    return as_space({path: tensor.to(device) for path, tensor in parts.items()}, space)


def as_space(parts: Mapping[str, Tensor], space: gymnasium.Space) -> Any:
    """path → [N, …], in the form of the space; floats become float32."""
    singles = {path: part.float() if part.dtype == torch.float64 else part for path, part in parts.items()}
    return nested(space, singles)


class ModulePolicy:
    """Acts with an RLModule; implements ``distrl.core.contracts.Policy``.

    Args:
        seed: of the action noise. deterministic: ``forward_inference``, and what is most probable, for evaluation.
        recipe: see ``recipe``.
    """

    def __init__(self, seed: int, deterministic: bool, **recipe: Any):
        self._recipe, self._deterministic = recipe, deterministic
        self._space = gym_space_from_dict(dict(recipe["action_space"]))
        self._observed = gym_space_from_dict(dict(recipe["observation_space"]))
        self._leaf = action_leaf(self._space)
        self._device = torch.device("cpu")
        self._loaded: Any = None
        self._noise = torch.Generator().manual_seed(seed).get_state()

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights."""
        return self._loaded is not None

    def to(self, device: str) -> None:
        """Compute on a device, from the next weights on."""
        self._device = torch.device(device)

    def load(self, weights: Weights) -> None:
        """The module's parameters, by their names; those that only training needs may be among them."""
        module = build_module(**self._recipe, inference_only=True)
        module.load_state_dict({name: torch.from_numpy(np.array(weights[name])) for name in module.state_dict()})
        # one assignment: a step in another thread sees the old weights or the new
        self._loaded = module.to(self._device).eval(), self._device

    def initial_state(self, num_rows: int) -> Arrays:
        """Nothing."""
        return {}

    @torch.no_grad()
    def step(
        self, observation: Observation, state: Arrays, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Arrays]:
        """Actions [N, …] as the module's distribution has them, log-probabilities float32 [N], and no state."""
        if self._loaded is None:
            raise RuntimeError("the policy needs weights before its first step: call load")
        module, device = self._loaded
        batch = {Columns.OBS: as_tensors(observation, self._observed, device)}
        if self._deterministic:
            outputs = module.forward_inference(batch)
            if Columns.ACTIONS in outputs:
                action = outputs[Columns.ACTIONS]
            else:
                inputs = outputs[Columns.ACTION_DIST_INPUTS]
                action = module.get_inference_action_dist_cls().from_logits(inputs).to_deterministic().sample()
            log_prob = torch.zeros(len(action))
        else:
            with torch.random.fork_rng(devices=[]):  # RLlib's distributions draw from the global generator
                torch.set_rng_state(self._noise)
                inputs = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
                distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
                action = distribution.sample()
                self._noise = torch.get_rng_state()
            log_prob = distribution.logp(action)
        shape = (len(action), *self._leaf.shape)
        return action.cpu().numpy().astype(self._leaf.dtype, copy=False).reshape(shape), log_prob.cpu().numpy(), {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """Box actions within the bounds, others as they are; see ``recipe``."""
        if not isinstance(self._space, gymnasium.spaces.Box):
            return action
        within = (unsquash_action if self._recipe["normalize_actions"] else clip_action)(action, self._space)
        return np.asarray(within, self._leaf.dtype)
