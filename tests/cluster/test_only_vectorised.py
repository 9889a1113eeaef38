"""An environment that exists only vectorised is trained, evaluated and compared end to end."""

from distrl.api import load_policy, train
from distrl.core.config import RunConfig
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.results import evaluate
from tests.cluster.test_local import balanced


def test_a_run_from_the_import_path_of_a_vector_environment(tmp_path, monkeypatch):
    monkeypatch.undo()  # it is evaluated, too
    config = RunConfig.load(
        "cartpole",
        [
            f"run.out={tmp_path / 'run'}",
            "run.steps=1024",
            "env.id=tests.fakes.vector_environments:CountedVector",
            "env.kwargs={modes=['NextStep']}",
            "actors.envs_per_worker=4",
            "actors.fragment_steps=16",
            "algorithm.batch_size=256",
            "algorithm.hidden=[16]",
            "evaluation.period=512",
            "evaluation.episodes=3",
            "evaluation.final_episodes=2",
        ],
    )
    result = train(config, local=True)
    assert balanced(result.summary)
    assert result.summary["env_steps"] >= 1024
    evaluations = [r for r in read_json_lines(result.directory / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert [len(evaluation["returns"]) for evaluation in evaluations] == [3] * len(evaluations)
    assert len(evaluations) >= 2
    assert {row["who"] for row in result.summary["comparison"]} == {"policy", "doing nothing", "random actions"}
    # row 0's episodes, in a process of their own, from the first on
    lengths = [episode.length for episode in evaluate(RunDirectory.open(result.directory), config, episodes=1)]
    assert lengths == [1]
    assert load_policy(result.directory).act([0.0, 0.0, 0.0, 0.0]).shape == (1,)
