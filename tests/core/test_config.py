"""Configurations are validated before anything starts, and a mistake is one sentence that names the key."""

import pytest
from pydantic import BaseModel

from distrl.core.config import RunConfig, to_toml
from distrl.core.config_input import known_keys, presets_directory, read_toml
from distrl.core.errors import ConfigError


def test_overrides_are_toml_values_or_bare_words():
    config = RunConfig.load(
        "sac",
        ["run.steps=5000", "env.id=HalfCheetah-v5", "algorithm.hidden=[64, 64]", "replay.samples_per_insert=unlimited"],
    )
    assert config.run.steps == 5000
    assert config.env.id == "HalfCheetah-v5"
    assert config.algorithm.options["hidden"] == [64, 64]
    assert config.replay.samples_per_insert is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run.step=5", r"unknown key run\.step; did you mean run\.steps\?"),
        ("actors.env_worker=5", r"unknown key actors\.env_worker; did you mean actors\.env_workers\?"),
        ("run.steps=many", r"run\.steps = 'many': input should be a valid integer"),
        ("run.steps=0", r"run\.steps = 0: input should be greater than or equal to 1"),
        ("replay.min_size=2000000", r"replay\.min_size \(2000000\) must not exceed replay\.capacity"),
        ("steps", "an override has the form key.path=value"),
        ("run.steps.x=1", "steps is a value, not a table"),
    ],
)
def test_a_mistake_is_one_sentence(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        RunConfig.load("sac", [override])


def test_unknown_presets_and_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no preset 'sacc'; did you mean 'sac'"):
        RunConfig.load("sacc")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        RunConfig.load("missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\nsteps = 1")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        RunConfig.load(broken)


def test_a_config_survives_toml(tmp_path):
    config = RunConfig.load(
        "sac",
        [
            'env.kwargs={text="a \\"b\\"", list=[1, 2.5], flag=true}',
            "replay.samples_per_insert=unlimited",
            "algorithm.gamma=0.9",
            "run.out=x",
        ],
    )
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert RunConfig.load(path) == config


@pytest.mark.parametrize("path", sorted(presets_directory().rglob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_toml_is_valid(path):
    from distrl.cluster.checks import algorithm_model

    algorithm_model(RunConfig.validated(read_toml(path)))


def test_every_field_says_what_it_decides():
    def walk(model: type[BaseModel]) -> list[str]:
        silent = []
        for name, field in model.model_fields.items():
            nested = [
                kind
                for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(kind, type)
            ]
            section = next((kind for kind in nested if issubclass(kind, BaseModel)), None)
            silent += walk(section) if section else [] if field.description else [name]
        return silent

    assert walk(RunConfig) == []
    assert "actors.env_workers" in known_keys(RunConfig)


def test_algorithm_options_are_checked_by_the_algorithms_own_model():
    from distrl.cluster.checks import algorithm_model

    with pytest.raises(ConfigError, match=r"unknown key algorithm\.gama; did you mean algorithm\.gamma\?"):
        algorithm_model(RunConfig.load("sac", ["algorithm.gama=0.9"]))
    with pytest.raises(ConfigError, match=r"algorithm.name needs one of"):
        algorithm_model(RunConfig.load("sac", ["algorithm.name=sca"]))
