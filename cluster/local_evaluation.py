"""Published weights in, evaluations of a run that is one process out: recorded, and the best policies kept."""

from __future__ import annotations

from distrl.cluster import checks, components
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec
from distrl.parameter_server import ParameterServer


class LocalEvaluation:
    """Environments for evaluations, on the selection seeds.

    Args:
        server: has the weights. recorder: takes the returns. recipes: of the policies; None: the configuration's.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        spec: EnvSpec,
        server: ParameterServer,
        recorder: Recorder,
        recipes: components.PolicySpecs | None = None,
    ):
        self._config, self._run, self._spec, self._server, self._recorder = config, run, spec, server, recorder
        self._recipes = checks.policy_specs(config, spec) if recipes is None else recipes
        self._policies = {name: recipe.build(seed=0, deterministic=True) for name, recipe in self._recipes.items()}
        evaluation = config.evaluation
        self._runner = components.evaluation_runner(
            config, components.SELECTION_SEEDS, evaluation.episodes, evaluation.envs, run.scratch(), inline=True
        )

    def evaluate(self) -> None:
        """Deterministic episodes with the newest weights."""
        config, recorder = self._config, self._recorder
        pulled = self._server.pull_all(self._policies)
        for name, (_, weights) in pulled.items():
            self._policies[name].load(weights)
        act = components.evaluation_act(config, self._spec, self._policies, config.evaluation.envs)
        results = self._runner.run(act)
        returns = [result.episode_return for result in results]
        versions = sum(version for version, _ in pulled.values())
        if recorder.evaluated(
            recorder.env_steps, versions, [r.seed for r in results], returns, [r.length for r in results]
        ):
            components.save_best(self._run.path, pulled, self._recipes, recorder.best_return)

    def close(self) -> None:
        """End the environments."""
        self._runner.close()
