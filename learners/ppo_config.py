"""Hyperparameters of PPO, APPO and IMPALA flow in from a run configuration, the algorithm flows out of ``build`` (it
loads torch): one algorithm, three sets of defaults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
from pydantic import Field, ValidationInfo, field_validator, model_validator

from distrl.core.contracts import Algorithm
from distrl.core.errors import ConfigError
from distrl.core.spaces import leaves
from distrl.core.types import EnvSpec, PolicySpec, import_path
from distrl.learners.actor_recipes import action_recipe, actor_inputs
from distrl.learners.bonus_config import BonusConfig
from distrl.learners.image_layers import output_shapes
from distrl.learners.inputs import MASK, STATE, image_paths, input_size
from distrl.learners.registry import AlgorithmConfig
from distrl.learners.switching_policy import CENTRAL, OWN, SWITCH

_MODULES = "distrl.cluster.rllib"  # what imports RLlib, named and not imported: it is above this room
_OF_THE_NETWORKS = (
    "hidden",
    "memory_size",
    "convolutions",
    "central_critic",
    "switching_cost",
    "normalize_observations",
    "initial_log_std",
    "bonus",
)
_Share = Annotated[float, Field(ge=0.0, le=1.0)]

Hidden = Annotated[
    tuple[Annotated[int, Field(ge=1, le=16384)], ...],
    Field(min_length=1, max_length=8, description="Widths of the hidden layers of actor and critic, with tanh."),
]
BatchSize = Annotated[
    int,
    Field(
        ge=1,
        le=1 << 24,
        description="Transitions of one rollout: a whole number of fragments of every environment. All of them are "
        "trained on, then thrown away.",
    ),
]
MaxStaleness = Annotated[
    int,
    Field(
        ge=0,
        le=1000,
        description="How many rollouts ahead of the learner an env worker may begin to act: 0 waits for the weights of "
        "the last one, more keeps environments and learner busy at once.",
    ),
]
Epochs = Annotated[int, Field(ge=1, le=1000, description="How often each rollout is gone through.")]
Minibatches = Annotated[
    int, Field(ge=1, le=1 << 20, description="Gradients in one epoch, each of an equal share of the transitions.")
]
Lambda = Annotated[
    _Share,
    Field(description="Trace decay of GAE or V-trace: 1 trusts the rewards alone, 0 the values alone."),
]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0, description="Adam's step size.")]
Advantages = Annotated[
    Literal["gae", "vtrace"],
    Field(
        description="gae takes a rollout as if the newest policy had acted (Schulman et al. 2016); vtrace corrects for "
        "the policy that did (Espeholt et al. 2018)."
    ),
]
Surrogate = Annotated[
    Literal["clipped", "policy_gradient", "tapered"],
    Field(
        description="clipped: no gain beyond `clip` (Schulman et al. 2017); policy_gradient: the plain gradient, "
        "weighted by how probable the action has become, at most `rho_max` (Espeholt et al. 2018); tapered: the same, "
        "but what did better counts in full, and what did worse at most so (Le Roux et al. 2025, arXiv 2503.14286)."
    ),
]
Decoupled = Annotated[
    bool,
    Field(
        description="Clip around the policy that the learner begins the rollout with, not around the older one that "
        "acted, which stays in a weight of at most `rho_max` (AReaL, arXiv 2505.24298)."
    ),
]
EntropyCost = Annotated[float, Field(ge=0.0, le=1e3, description="Weight of the entropy bonus; more explores longer.")]


class PPO(AlgorithmConfig):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with the details of CleanRL."""

    on_policy: ClassVar[bool] = True

    hidden: Hidden = (64, 64)
    memory_size: int | None = Field(
        default=None,
        ge=1,
        le=16384,
        description="Width of a recurrent layer behind the hidden layers, which actor and critic then share (of a "
        "central critic, it is an input); unset: no memory. Minibatches are then whole rows of the rollout.",
    )
    memory: Literal["gru", "lstm"] = Field(
        default="gru",
        description="What that layer is: a gated recurrent unit, or long short-term memory, which keeps twice as many "
        "numbers.",
    )
    convolutions: Literal["small", "large"] = Field(
        default="small",
        description="Layers for images (uint8 of three axes), in place of `hidden`: two convolutions and 256 units, or "
        "the three and 512 of Mnih et al. 2015, which take about three times as long.",
    )
    central_critic: bool = Field(
        default=False,
        description='Whether the observation\'s entry "state" (`env.agents.state`) is seen by the critic alone, beside '
        "the agent's own observation: MAPPO (Yu et al. 2022, arXiv 2103.01955). Otherwise it is an input of the actor "
        "like any other.",
    )
    switching_cost: float | None = Field(
        default=None,
        ge=0.0,
        description="Cost of each step at which an agent's learning is centralised, in units of its reward: where it "
        "is not worth that, the agent has an actor and a critic of its own (after MANSA, Mguni et al. 2023, arXiv "
        "2302.05910). With `central_critic` and Discrete actions; unset: it always is.",
    )
    module: str | None = Field(
        default=None,
        description='An RLModule of RLlib\'s in place of these networks, "package.module:Class": of torch, with '
        "ValueFunctionAPI, without state. Its distribution and its initial parameters are its own.",
    )
    module_config: dict[str, Any] = Field(default_factory=dict, description="Its `model_config`.")
    batch_size: BatchSize = 2048
    max_staleness: MaxStaleness = 0
    epochs: Epochs = 10
    minibatches: Minibatches = 32
    gamma: _Share = Field(
        default=0.99, description="Discount per env step; about 1 / (1 − gamma) steps are looked ahead."
    )
    gae_lambda: Lambda = 0.95
    learning_rate: LearningRate = 3e-4
    anneal_steps: int | None = Field(
        default=None,
        ge=1,
        description='Transitions over which the learning rate falls linearly to zero; with "run", run.steps of them; '
        "unset: it stays.",
    )
    advantages: Advantages = "gae"
    normalize_advantages: bool = Field(
        default=True, description="Whether each minibatch's advantages are brought to mean 0 and standard deviation 1."
    )
    surrogate: Surrogate = "clipped"
    clip: float = Field(
        default=0.2, gt=0.0, le=10.0, description="Change of an action's probability that still pays, as a share."
    )
    decoupled: Decoupled = False
    rho_max: float = Field(
        default=1.0,
        gt=0.0,
        description="Most that an action counts for having become more probable since it was taken, ρ̄ of V-trace.",
    )
    c_max: float = Field(
        default=1.0, gt=0.0, description="The same for the traces of V-trace, c̄: how far back a correction reaches."
    )
    value_cost: float = Field(default=0.5, ge=0.0, le=1e3, description="Weight of the critic's loss.")
    value_clip: float | None = Field(
        default=None,
        gt=0.0,
        description="Change of a value beyond which its loss stops to pull, as `clip` for probabilities; unset: none.",
    )
    entropy_cost: EntropyCost = 0.0
    max_gradient_norm: float = Field(
        default=0.5, gt=0.0, description="Longer gradients, over all parameters together, are shortened to it."
    )
    target_kl: float | None = Field(
        default=None,
        gt=0.0,
        description="An epoch that ends with the policy changed by more nats is the rollout's last; unset: none is.",
    )
    normalize_observations: bool = Field(
        default=False,
        description="Whether observations are brought to mean 0 and standard deviation 1 over all of the run so far, "
        "and limited to ±10.",
    )
    scale_rewards: bool = Field(
        default=False,
        description="Whether rewards are divided by the standard deviation of the discounted returns so far, and "
        "limited to ±10.",
    )
    initial_log_std: float = Field(
        default=0.0,
        ge=-20.0,
        le=2.0,
        description="Logarithm of the standard deviation that Box actions begin with, in half widths of the Box.",
    )

    bonus: BonusConfig | None = Field(default=None, description="A reward for what is new; unset: none.")

    @field_validator("anneal_steps", mode="before")
    @classmethod
    def _of_the_run(cls, value: Any, info: ValidationInfo) -> Any:
        return info.context["run_steps"] if value == "run" and info.context else value

    @model_validator(mode="after")
    def _minibatches_have_transitions(self) -> PPO:
        if self.minibatches > self.batch_size:
            raise ValueError(
                f"algorithm.minibatches ({self.minibatches}) must not exceed algorithm.batch_size ({self.batch_size})"
            )
        return self

    @model_validator(mode="after")
    def _one_correction(self) -> PPO:
        if self.decoupled and self.surrogate != "clipped":
            raise ValueError(
                f'algorithm.surrogate = "{self.surrogate}" weighs actions against the policy that acted, and '
                "algorithm.decoupled clips around another one: set algorithm.decoupled = false"
            )
        return self

    @model_validator(mode="after")
    def _a_switch_has_what_it_needs(self) -> PPO:
        if self.switching_cost is None:
            return self
        if not self.central_critic:
            raise ValueError("algorithm.switching_cost is the price of a central critic: set algorithm.central_critic")
        plain = (self.memory_size, self.bonus, self.max_staleness, self.advantages, self.surrogate, self.decoupled)
        if plain != (None, None, 0, "gae", "clipped", False):
            raise ValueError(
                "algorithm.switching_cost needs plain PPO: no memory_size, no bonus, max_staleness = 0, advantages = "
                "'gae', surrogate = 'clipped' and decoupled = false"
            )
        return self

    @model_validator(mode="after")
    def _a_module_is_all_of_the_networks(self) -> PPO:
        if self.module is None:
            if self.module_config:
                raise ValueError("algorithm.module_config is that of an algorithm.module, and none was named")
            return self
        for name in _OF_THE_NETWORKS:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"algorithm.module takes the place of distrl's networks, but algorithm.{name} = "
                    f"{getattr(self, name)!r} came: leave it out, or put it into the module"
                )
        return self

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        if self.module is not None:
            return import_path(f"{_MODULES}.module:policy_spec")(self.module, self.module_config, env_spec)
        if self.switching_cost is None:
            return self._policy_spec(env_spec)
        if not isinstance(env_spec.action_space, gymnasium.spaces.Discrete):
            raise ConfigError(f"algorithm.switching_cost needs Discrete actions; they are {env_spec.action_space}")
        kwargs = {name: config.policy_spec(spec).kwargs for name, (config, spec) in self.parts(env_spec).items()}
        return PolicySpec("distrl.learners.switching_policy:SwitchedPolicy", kwargs)

    def parts(self, env_spec: EnvSpec) -> dict[str, tuple[PPO, EnvSpec]]:
        """With a ``switching_cost`` c, what each learner is and what it sees: the agents' own, without the state; the
        centralised one; and the switch, which chooses 0 or 1 and has no mask.

        The switch's entropy is worth 0.3 c: where centralising is worth nothing, it is still tried in 3.4 % of steps,
        1 / (1 + exp(1 / 0.3)). That takes its advantages in units of the reward.
        """
        central = self.model_copy(update={"switching_cost": None})
        central.policy_spec(env_spec)  # is it possible?
        alone = {"switching_cost": None, "central_critic": False}
        own = self.model_copy(update={**alone, "advantages": "vtrace", "decoupled": True})
        tried = {"entropy_cost": 0.3 * (self.switching_cost or 0.0), "normalize_advantages": False}
        switch = self.model_copy(update={**alone, **tried})
        choice: gymnasium.Space = gymnasium.spaces.Discrete(2)
        return {
            OWN: (own, replace(env_spec, observation_space=_without(STATE, env_spec))),
            CENTRAL: (central, env_spec),
            SWITCH: (switch, replace(env_spec, observation_space=_without(MASK, env_spec), action_space=choice)),
        }

    def _policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        observed, actions = env_spec.observation_space, action_recipe(env_spec)
        inputs = actor_inputs(observed, actions, self.central_critic)
        network: dict[str, Any] = {"inputs": inputs, "memory": self.memory_size and [self.memory, self.memory_size]}
        shapes = {leaf.path: list(leaf.spec.shape) for leaf in leaves(observed)}
        images = [shapes[path] for path in image_paths(inputs)]
        if not images:
            network["num_layers"] = len(self.hidden) + 1
            return PolicySpec("distrl.learners.actor_policies:mlp_policy", {"network": network, "actions": actions})
        if self.bonus is not None:
            raise ConfigError(f"algorithm.bonus needs observations without images; got {observed}: leave it out")
        for shape in images:
            output_shapes(shape, self.convolutions)
        network |= {"images": images, "num_flat": input_size(observed, inputs), "convolutions": self.convolutions}
        return PolicySpec("distrl.learners.images:image_policy", {"network": network, "actions": actions})

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners import ppo, switching

        if self.module is not None:
            return import_path(f"{_MODULES}.module_ppo:ModulePPO")(self, env_spec, device, seed)
        if self.switching_cost is not None:
            return switching.SwitchingPPO(self, env_spec, device, seed)
        return ppo.PPO(self, env_spec, device, seed)


class APPO(PPO):
    """PPO on rollouts that may be some updates old: V-trace, one epoch, clipped around the newest policy."""

    max_staleness: MaxStaleness = 1
    epochs: Epochs = 1
    minibatches: Minibatches = 4
    advantages: Advantages = "vtrace"
    decoupled: Decoupled = True


class IMPALA(PPO):
    """Importance-weighted actor-learner (Espeholt et al. 2018, arXiv 1802.01561): V-trace without clipping."""

    max_staleness: MaxStaleness = 2
    epochs: Epochs = 1
    minibatches: Minibatches = 4
    gae_lambda: Lambda = 1.0
    learning_rate: LearningRate = 6e-4
    advantages: Advantages = "vtrace"
    surrogate: Surrogate = "policy_gradient"
    entropy_cost: EntropyCost = 0.01


def _without(entry: str, env_spec: EnvSpec) -> gymnasium.spaces.Dict:
    entries = env_spec.observation_space.spaces
    return gymnasium.spaces.Dict({name: space for name, space in entries.items() if name != entry})
