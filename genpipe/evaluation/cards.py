"""Metric cards: what a figure depends on, and whether two figures may stand side by side.

metrics.json states what all its scores share once, as `card`; the card of one score is that with what is its own. The
half that names the contestant may differ between two cards. All else is the protocol and must agree: a key that is
added to it is compared from then on.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from genpipe.errors import ComparisonError
from genpipe.evaluation.scores import FORMAT, PARTS, scored
from genpipe.metrics import SCORES, agreement, frechet, kernel, memorisation, neighbours

CONTESTANT = {"generator", "weights", "sampling", "device", "training_digest", "model_digest", "samples_digest"}
TOLD = {"dataset_licence", "dataset_citation", "dataset_source"}  # told, and no part of the protocol
ABSENT = "nothing"
SHOWN = 12  # characters of a digest
VERSIONS = {
    "frechet_distance": frechet.VERSION,
    "kernel_distance": kernel.VERSION,
    **dict.fromkeys(neighbours.Overlap._fields, neighbours.VERSION),
    "label_agreement": agreement.VERSION,
    **dict.fromkeys(memorisation.Memorisation._fields, memorisation.VERSION),
}


def estimators(labelled: bool, classifies: bool) -> dict[str, str]:
    """Score → the estimator that computes it, with the version of its numbers.

    Samples are `labelled` when they were asked for by label; the evaluator `classifies` when it tells labels apart.
    """
    by_label = {"kernel_distance": "kernel_distance_by_label"} if labelled else {}
    names = [name for name in SCORES if (labelled and classifies) or name != "label_agreement"]
    return {name: f"{by_label.get(name, name)} {VERSIONS[name]}" for name in names}


def card_of(metrics: Mapping[str, Any], score: str) -> dict[str, Any]:
    """All that one score of metrics.json depends on, its figures among it. Raises DataError for an unknown format."""
    figures, common = scored(metrics)[score], dict(metrics["card"])
    estimator = common.pop("estimators")[score]
    about = {"score": score, "better": SCORES[score].better, "estimator": estimator}
    return {"format": FORMAT, **about, **figures, **common}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of two protocols is unlike, a line each: `split: test against validation`. Cards of scores or of files."""
    left, right = flat(one), flat(other)
    names = [name for name in dict.fromkeys([*left, *right]) if name not in PARTS]
    unlike = [name for name in names if left.get(name, ABSENT) != right.get(name, ABSENT)]
    return [f"{name}: {shown(name, left)} against {shown(name, right)}" for name in unlike]


def refuse_unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises ComparisonError with every difference of two protocols, when there is any."""
    if found := differences(one, other):
        raise ComparisonError(found)


def flat(card: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a card, a mapping within it by dotted names."""
    found: dict[str, Any] = {}
    for name, value in card.items():
        if name in CONTESTANT | TOLD:
            continue
        found |= (
            {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return found


def shown(name: str, card: Mapping[str, Any]) -> str:
    value = str(card.get(name, ABSENT))
    return f"{value[:SHOWN]}…" if name.endswith("digest") and len(value) > SHOWN else value


def digest(*arrays: np.ndarray) -> str:
    """sha256 over type, shape and bytes of arrays, memory-mapped ones a piece at a time."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        step = max(1, 2**24 // max(array[:1].nbytes, 1))
        for first in range(0, len(array), step):
            found.update(np.ascontiguousarray(array[first : first + step]).data)
    return found.hexdigest()
