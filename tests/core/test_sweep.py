"""A sweep's TOML: what it draws from, and what it refuses."""

import pytest

from distrl.core.config_input import presets_directory
from distrl.core.errors import ConfigError
from distrl.core.sweep import SweepConfig

PLAIN = {"config": "sac", "set": {"env": {"id": "Pendulum-v1"}}}
SPACE = {
    "algorithm": {
        "actor_learning_rate": {"loguniform": [1e-4, 1e-2]},
        "hidden": {"choice": [[64, 64], [256, 256]]},
        "n_step": {"int": [1, 5], "when": {"algorithm": {"hidden": [[256, 256]]}}},
    },
    "replay.samples_per_insert": {"uniform": [32.0, 256.0]},
}


def sweep(**keys):
    return SweepConfig.validated(PLAIN | {"space": SPACE} | keys)


@pytest.mark.parametrize("name", sorted(file.stem for file in presets_directory("sweeps").glob("*.toml")))
def test_every_shipped_sweep_is_accepted(name):
    from distrl.cluster.checks import check_sweep

    check_sweep(SweepConfig.load(name))


def test_a_space_may_be_nested_or_flat():
    assert list(sweep().space) == [
        "algorithm.actor_learning_rate",
        "algorithm.hidden",
        "algorithm.n_step",
        "replay.samples_per_insert",
    ]


def test_a_trial_is_the_configuration_with_what_is_set_and_drawn():
    config = sweep().run_config({"algorithm.hidden": [64, 64], "replay.samples_per_insert": 40.0})
    assert config.env.id == "Pendulum-v1"
    assert config.algorithm.options["hidden"] == [64, 64]
    assert config.replay.samples_per_insert == 40.0


def test_a_condition_decides_whether_a_parameter_is_drawn():
    n_step = sweep().space["algorithm.n_step"]
    assert n_step.is_there({"algorithm.hidden": [256, 256]})
    assert not n_step.is_there({"algorithm.hidden": [64, 64]})


def test_a_choice_of_lists_goes_through_tune_and_back():
    found = sweep()
    drawn = {"algorithm.hidden": found.encode([256, 256]), "algorithm.n_step": 3}
    assert isinstance(drawn["algorithm.hidden"], str)
    assert found.decode(drawn) == {"algorithm.hidden": [256, 256], "algorithm.n_step": 3}


def test_what_is_written_down_is_read_back():
    found = sweep(scheduler={"name": "median", "by": "env_steps"})
    assert SweepConfig.validated(found.model_dump(by_alias=True)) == found


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"metric": "retrun_mean"}, "did you mean 'return_mean'"),
        ({"sampels": 3}, "unknown key sampels; did you mean samples"),
        ({"config": "kss"}, "there is no preset 'kss'; did you mean 'ks'"),
        ({"space": {"replay.min_sizes": {"int": [1, 5]}}}, "did you mean replay.min_size"),
        ({"space": {"replay.min_size": {"int": [0, 5]}}}, "replay.min_size = 0"),
        ({"space": {"replay.min_size": {"int": [5, 1]}}}, r"the smaller first, but \[5, 1\] came"),
        ({"space": {"run.seed": {"loguniform": [0, 5]}}}, "two numbers above 0"),
        ({"space": {"run.seed": {"int": [0, 5], "choice": [1]}}}, "int and choice came"),
        ({"space": {"run.seed": {"int": [0, 5], "when": {"run.steps": 3}}}}, "run.steps, which is not in the space"),
        ({"space": {}}, "space"),
        ({"scheduler": {"name": "pbt"}}, "changes values while a trial runs.*space.algorithm.n_step has a condition"),
        ({"scheduler": {"by": "core_hours"}}, "needs runs that end at some: give set.run.core_hours"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(keys, sentence):
    with pytest.raises(ConfigError, match=sentence):
        sweep(**keys)


def test_an_algorithm_s_own_options_are_checked_before_anything_starts():
    from distrl.cluster.checks import check_sweep

    wrong = sweep(space={"algorithm.learning_rat": {"uniform": [0.1, 0.2]}})
    with pytest.raises(ConfigError, match=r"has algorithm.learning_rat = 0.1, and then: unknown key algorithm.learn"):
        check_sweep(wrong)


def test_there_is_no_such_sweep():
    with pytest.raises(ConfigError, match="there is no sweep 'kz'; did you mean 'ks'"):
        SweepConfig.load("kz")
