"""Every figure carries what it depends on; figures of unlike protocols are refused, with the difference named."""

from typing import Any

import numpy as np
import pytest

from genpipe.errors import ComparisonError, DataError, FormatError
from genpipe.evaluation import cards
from genpipe.evaluation.scores import FORMAT, scored
from genpipe.metrics import SCORES

ROW = {"value": 5.0, "low": 4.0, "high": 6.0, "floor": 1.0, "baseline": 9.0}


def metrics_of(**changed: Any) -> dict[str, Any]:
    card = {
        "generator": "gan", "weights": "moving average (EMA), decay 0.999", "sampling": {"truncation": 1.0},
        "samples_digest": "a" * 64, "split": "test", "count_of_a_draw": 180, "draws": 10, "seed": 0,
        "prepare": {"size": 28, "colour": "grey"}, "evaluator_digest": "3fa" + 61 * "0",
        "estimators": {"frechet_distance": "frechet_distance 1", "recall": "recall 1"},
    }  # fmt: skip
    return {"format": FORMAT, "frechet_distance": ROW, "recall": ROW, "card": card | changed}


def test_the_card_of_a_score_is_the_protocol_with_what_is_its_own() -> None:
    found = cards.card_of(metrics_of(), "recall")
    assert {name: found[name] for name in ROW} == ROW
    assert (found["score"], found["better"], found["estimator"]) == ("recall", "higher", "recall 1")
    assert (found["count_of_a_draw"], found["split"], found["seed"]) == (180, "test", 0)
    assert "estimators" not in found


def test_contestants_may_differ_in_what_they_are_and_in_their_figures() -> None:
    other = metrics_of(generator="vae", weights="raw", sampling={"temperature": 0.7}, samples_digest="b" * 64)
    other["recall"] = {**ROW, "value": 5.5}
    assert cards.differences(metrics_of()["card"], other["card"]) == []
    assert cards.differences(cards.card_of(metrics_of(), "recall"), cards.card_of(other, "recall")) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"split": "validation"}, "split: test against validation"),
        ({"count_of_a_draw": 90}, "count_of_a_draw: 180 against 90"),
        ({"evaluator_digest": "9bc" + 61 * "0"}, "evaluator_digest: 3fa000000000… against 9bc000000000…"),
        ({"prepare": {"size": 32, "colour": "grey"}}, "prepare.size: 28 against 32"),
        (
            {"estimators": {"frechet_distance": "frechet_distance 2", "recall": "recall 1"}},
            "estimators.frechet_distance: frechet_distance 1 against frechet_distance 2",
        ),
        ({"training_cap": 100}, "training_cap: nothing against 100"),  # a key that only one of them knows
    ],
)
def test_unlike_protocols_are_refused_with_the_difference_named(changed: dict[str, Any], line: str) -> None:
    one, other = metrics_of()["card"], metrics_of(**changed)["card"]
    assert cards.differences(one, other) == [line]
    with pytest.raises(ComparisonError, match="unlike protocols and are not compared") as caught:
        cards.refuse_unlike(one, other)
    assert caught.value.differences == (line,)


def test_cards_of_two_scores_differ_in_the_score() -> None:
    one, other = (cards.card_of(metrics_of(), score) for score in ("frechet_distance", "recall"))
    assert cards.differences(one, other)[0] == "score: frechet_distance against recall"


@pytest.mark.parametrize("written", [{}, {"format": FORMAT - 1}])
def test_a_file_of_another_format_is_refused_with_the_remedy(written: dict[str, Any]) -> None:
    metrics = {name: value for name, value in metrics_of().items() if name != "format"} | written
    with pytest.raises(DataError, match=rf"reads format {FORMAT}; `genpipe run` or `dvc repro evaluate`"):
        scored(metrics)
    with pytest.raises(DataError, match="format"):
        cards.card_of(metrics, "recall")


def test_a_file_of_a_newer_genpipe_is_refused() -> None:
    with pytest.raises(FormatError, match=rf"is of format {FORMAT + 1}, made by a newer genpipe; .* upgrade it"):
        scored(metrics_of() | {"format": FORMAT + 1})


def test_every_score_has_an_estimator_with_a_version() -> None:
    labelled, unlabelled = (cards.estimators(found, classifies=True) for found in (True, False))
    assert set(labelled) == set(SCORES)
    assert (
        set(unlabelled) == set(cards.estimators(labelled=True, classifies=False)) == set(SCORES) - {"label_agreement"}
    )
    assert labelled["kernel_distance"] == "kernel_distance_by_label 1"
    assert unlabelled["kernel_distance"] == "kernel_distance 1"


def test_a_digest_tells_type_shape_and_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert cards.digest(pixels) == cards.digest(np.asfortranarray(pixels))
    other = [pixels.reshape(4, 3, 2), pixels.astype(np.int8), pixels[::-1], pixels[:1]]
    assert len({cards.digest(array) for array in [pixels, *other]}) == 5
    assert cards.digest(pixels, np.arange(2)) != cards.digest(pixels)
