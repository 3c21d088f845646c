"""Settings: every fault in one message, in the words of the file."""

from typing import Annotated, Any, Literal

import pytest

from genpipe.config import Choice, Field, Plugin, explain, faults_of, parse, plain, settings
from genpipe.errors import ConfigError


@settings
class Inner:
    rate: float = Field(default=0.1, gt=0, description="how fast")
    how: Literal["up", "down"] = "up"


@settings
class Outer:
    inner: Inner = Inner()
    parts: dict[str, Inner] = Field(default_factory=dict)
    count: int = Field(default=3, ge=1, le=9)
    generator: Annotated[Any, Plugin("genpipe.generators")] = Field(default="gan")


def test_all_faults_stand_in_one_message() -> None:
    given = {
        "inner": {"rate": 0, "how": "left"},
        "parts": {"critic": {"rat": 1}},
        "count": 10,
        "generator": {"kind": "vae", "latent": 3},
        "colour": "red",
    }
    with pytest.raises(ConfigError) as caught:
        parse(Outer, given, "train")
    message = str(caught.value)
    assert "params.yaml: train.inner.rate is 0; it must be more than 0" in message
    assert "params.yaml: train.inner.how is 'left'; allowed: 'up' or 'down'" in message
    assert "params.yaml: train.parts.critic.rat is not a key; known keys: rate, how" in message
    assert "params.yaml: train.count is 10; it must be at most 9" in message
    assert "params.yaml: train.colour is not a key; known keys: inner, parts, count, generator" in message
    assert "params.yaml: train.generator.latent is not a key; known keys: latent_dim" in message
    assert message.endswith("6 faults; nothing was run")


@settings
class Checked:
    pair: tuple[int, int]
    inner: Inner = Inner()
    generator: Annotated[Any, Plugin("genpipe.generators")] = Field(default="gan")

    def __post_init__(self) -> None:
        raise ConfigError(["params.yaml: x.pair is crooked"])


def test_faults_of_a_class_s_own_checks_stand_beside_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Checked, {"pair": [1, 2], "generator": {"kind": "gan", "latent": 3}}, "x")
    assert caught.value.faults[0].startswith("params.yaml: x.generator.latent is not a key")
    assert caught.value.faults[1:] == ("params.yaml: x.pair is crooked",)


def test_a_pair_that_is_short_is_told_so_and_one_that_lacks_is_missing() -> None:
    assert faults_of(Checked, {"pair": [1]}, "x")[1] == ["params.yaml: x.pair is [1]; it must be a list of 2 values"]
    assert faults_of(Checked, {}, "x")[1] == ["params.yaml: x.pair is missing; it has no default"]


@pytest.mark.parametrize("value", [".inf", "nan", float("inf")])
def test_numbers_are_finite(value: object) -> None:
    with pytest.raises(ConfigError, match=r"x\.rate is .*(finite|valid) number"):
        parse(Inner, {"rate": value}, "x")


def test_an_unknown_plugin_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"train.generator.kind is 'vaa'; known generators: gan, vae"):
        parse(Outer, {"generator": "vaa"}, "train")


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="train is 3; it must be a mapping"):
        parse(Outer, 3, "train")


def test_yaml_numbers_without_a_point_are_numbers() -> None:
    assert parse(Inner, {"rate": "1e-3"}, "x").rate == 0.001  # YAML 1.1 reads 1e-3 as text


def test_plain_writes_every_default_out() -> None:
    whole = parse(Outer, {"generator": {"kind": "vae", "latent_dim": 5}}, "train")
    assert isinstance(whole.generator, Choice)
    content = plain(whole)
    assert content["inner"] == {"rate": 0.1, "how": "up"}
    assert content["generator"]["kind"] == "vae"
    assert content["generator"]["latent_dim"] == 5
    assert parse(Outer, content, "train") == whole


def test_explain_walks_settings_within_settings() -> None:
    rows = {row.key: row for row in explain(Outer, "train")}
    assert rows["train.inner.rate"] == ("train.inner.rate", "float", "0.1", "how fast")
    assert rows["train.inner.how"].type == "up | down"
    assert rows["train.generator.kind"].default == "gan"
