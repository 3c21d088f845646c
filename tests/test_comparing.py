"""Contestants on one bench: unlike ones are refused, samples must be those that were scored, the better is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genpipe.champion import contestants, trial
from genpipe.champion.comparing import rows
from genpipe.champion.contestants import Contestant
from genpipe.data.arrays import DataSpec, write_arrays
from genpipe.errors import ComparisonError, StageError
from genpipe.evaluation import cards
from genpipe.project import Project

IMAGES = DataSpec("image", (1, 8, 8), ("a", "b"))


@pytest.fixture
def contestant(tmp_path: Path) -> Contestant:
    return Contestant("version 3", tmp_path, IMAGES, "gan", True, {})


def test_unlike_contestants_are_refused_with_every_difference(contestant: Contestant) -> None:
    contestants.refuse_unlike(contestant, replace(contestant, name="version 1", kind="vae", options={"spread": 2}))
    other = replace(contestant, name="version 1", data=DataSpec("image", (3, 8, 8), ("a",)), conditional=False)
    with pytest.raises(ComparisonError, match="version 3 and version 1 make unlike things") as caught:
        contestants.refuse_unlike(contestant, other)
    assert caught.value.differences == (
        "shape: (1, 8, 8) against (3, 8, 8)",
        "classes: ('a', 'b') against ('a',)",
        "condition: label against none",
    )


def test_a_version_must_give_the_samples_that_were_scored(contestant: Contestant, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 250, (6, 1, 8, 8), np.uint8)
    project, card = Project(tmp_path), {"samples_digest": cards.digest(samples)}
    write_arrays(tmp_path / "artifacts" / "evaluate" / "samples", {"image": samples[:3]})  # of the first draw
    trial.refuse_other_samples(project, contestant, samples, card)
    rounded = samples.copy()
    rounded[1, 0, 2:4] += 1  # as another processor might
    trial.refuse_other_samples(project, contestant, rounded, card)
    many = np.repeat(samples, 100, 0)  # 19,200 values of the first draw
    write_arrays(tmp_path / "artifacts" / "evaluate" / "samples", {"image": many[:300]})
    card, rounded = {"samples_digest": cards.digest(many)}, many.copy()
    rounded[0, 0, :2, :8] += 2  # 16 of them, at an edge
    trial.refuse_other_samples(project, contestant, rounded, card)
    rounded[1, 0, :2, :8] += 2  # 32
    with pytest.raises(StageError, match=r"0\.17% of the values differ by more than 1, .* up to 2; at most 0\.1% may"):
        trial.refuse_other_samples(project, contestant, rounded, card)
    with pytest.raises(StageError, match=r"of shape \(300, 1, 8\) and type uint8, not \(300, 1, 8, 8\)"):
        trial.refuse_other_samples(project, contestant, many[:, :, 0], card)


def test_the_better_one_is_named_where_the_interval_shows_it() -> None:
    scores = {"frechet_distance": 10.0, "recall": 0.5, "near_copies": 0.0}
    first = [{**scores, "frechet_distance": 10.0 + n} for n in range(3)]
    second = [
        {**scores, "frechet_distance": 8.0 + 1.1 * n, "recall": 0.5 + 0.1 * (n - 1), "near_copies": 0.1}
        for n in range(3)
    ]
    distance, recall, copies = rows(("version 1", first), ("version 2", second))
    # Differences -2, -1.9, -1.8: mean -1.9, s = 0.1, t(0.95; 2) = 2.92, √(1/3 + 0.1) = 0.6583.
    assert (distance.first, distance.second, distance.better) == (11, pytest.approx(9.1), "version 2")
    assert (distance.low, distance.high) == (pytest.approx(-2.0922, abs=1e-3), pytest.approx(-1.7078, abs=1e-3))
    assert recall.better == "not shown"
    assert copies.better == "–"
    assert rows(("version 2", second), ("version 1", first))[0].better == "version 2"
