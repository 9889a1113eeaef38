"""The name of an algorithm flows in, its configuration class flows out; torch is loaded only by ``Config.build``."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from distrl.core.contracts import Algorithm
from distrl.core.errors import ConfigError
from distrl.core.types import EnvSpec, PolicySpec, import_path

#: Name → "module:Config". A user's own algorithm needs no entry: its import path is its name.
ALGORITHMS: dict[str, str] = {
    "sac": "distrl.learners.sac_config:Config",
    "td3": "distrl.learners.td3_config:Config",
    "dsact": "distrl.learners.dsact_config:Config",
    "sequence-sac": "distrl.learners.sequence_config:Config",
    "dqn": "distrl.learners.dqn_config:Config",
    "ppo": "distrl.learners.ppo_config:PPO",
    "appo": "distrl.learners.ppo_config:APPO",
    "impala": "distrl.learners.ppo_config:IMPALA",
    "vdn": "distrl.learners.qmix_config:VDN",
    "qmix": "distrl.learners.qmix_config:QMIX",
    "masac": "distrl.learners.masac_config:Config",
    "bc": "distrl.learners.offline_config:BC",
    "iql": "distrl.learners.offline_config:IQL",
    "ga": "distrl.learners.ga_config:Config",
}


class AlgorithmConfig(BaseModel):
    """Base of every algorithm's ``Config``: hyperparameters with bounds, and the way from them to the algorithm.

    Attributes:
        on_policy: whether it trains on fresh fragments through a queue, instead of on sample batches from a replay.
        episodic: whether an update takes ``batch_size`` whole episodes as they come, instead of a rollout: then no
            env worker waits for newer weights, and there is no ``max_staleness``. For those that are ``on_policy``.
        offline_only: whether it learns from what others did alone, so that acting by itself would lead nowhere.
        tells_errors: whether its gradients leave ``SampleBatch.error``, which a prioritised replay draws by.
        takes_tensors: whether a sample batch's observations may be tensors on its device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    on_policy: ClassVar[bool] = False
    episodic: ClassVar[bool] = False
    offline_only: ClassVar[bool] = False
    tells_errors: ClassVar[bool] = False
    takes_tensors: ClassVar[bool] = False

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """The recipe of the policy that acts, without loading torch.

        Raises:
            ConfigError: it cannot handle the environment's spaces.
        """
        raise NotImplementedError

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """The algorithm with freshly initialised parameters.

        Raises:
            ConfigError: it cannot handle the environment's spaces.
        """
        raise NotImplementedError


def algorithm_config(name: str) -> type[Any]:
    """The ``Config`` of a registered name or of an import path ``"module:Config"``.

    Raises:
        ConfigError: nothing is found there.
    """
    path = ALGORITHMS.get(name, name)
    if ":" not in path:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"algorithm.name needs one of {', '.join(ALGORITHMS)} or an import path 'module:Config'; got {name!r}{hint}"
        )
    try:
        config = import_path(path)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"algorithm.name = {name!r} cannot be imported: {error}") from error
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise ConfigError(
            f"algorithm.name = {name!r} needs to name a pydantic model with a method build; it is {config!r}"
        )
    return config
