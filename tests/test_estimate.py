"""What a run would take: told from a measurement that leaves the project as it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genpipe import summary
from genpipe.data import dataset
from genpipe.data.dataset import Dataset, Stored
from genpipe.errors import ConfigError, StageError, TooFewError
from genpipe.project import Project
from genpipe.rehearsal import estimate, measuring, slices
from genpipe.rehearsal.costs import Cost, Data, Failure, Memory
from genpipe.rehearsal.estimate import Estimate
from genpipe.stages import STAGES
from tests import projects

ABOUT = Dataset("grey", "image", "none", "", "made up", classes=("dark", "light"))


def rows(first: int, count: int) -> Iterator[dict[str, object]]:
    """Each a picture of its own: its number stands in the first pixels."""
    for number in range(first, first + count):
        picture = np.full((8, 8), 40 if number % 2 else 200, np.uint8)
        picture[0, :2] = divmod(number, 256)
        yield {"image": picture, "label": number % 2}


def files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_the_seconds_of_a_stage_are_its_work_and_its_start() -> None:
    known = Estimate(["train", "evaluate"], free=10**9, start=2.0)
    for piece in (Data("three"), Cost("train", 50, "steps", 40, 70, 300), Cost("validate", 9, "rows", size=5)):
        known.take(piece)
    known.take(Memory(10**8, 0))
    begun = 2.0 * estimate.STARTS["train"]
    assert known.seconds("train") == (begun + 40, begun + 50, begun + 70)
    assert (known.size, known.measured, known.unmeasured) == (300, ["train"], ["evaluate"])
    assert set(estimate.STARTS) == set(STAGES)


def test_the_time_of_rows_that_are_new_is_not_known_and_the_sum_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    known = Estimate(["ingest", "validate", "train"], free=10**9, complete=True)
    known.take(Cost("validate", 20, "rows"))
    summary.show_estimate(known)
    assert "all" not in capsys.readouterr().out  # training is no small part that may lack
    known.take(Cost("train", 100, "steps"))
    summary.show_estimate(known)
    printed = capsys.readouterr().out
    assert ("all but ingest" in printed, "120 s" in printed, "Not measured: ingest" in printed) == (True, True, True)


def test_the_steps_after_warm_up_tell_how_steady_they_are() -> None:
    assert measuring.steadiness([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]) == (1, 3, 5)
    assert measuring.steadiness([2.0]) == (2, 2, 2)


def test_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [summary.duration(seconds) for seconds in (0.2, 56.1, 165, 600, 9000)] == [
        "1 s", "56 s", "165 s", "10 min", "2.5 h",
    ]  # fmt: skip
    assert [summary.in_bytes(count) for count in (400_000, 12e6, 1.5e9, 68e9)] == ["0.4 MB", "12 MB", "1.5 GB", "68 GB"]


def test_a_slice_is_spread_over_all_shards_and_is_a_dataset(tmp_path: Path) -> None:
    project = projects.make(tmp_path / "project")
    for first in range(0, 300, 50):  # each its own shard
        dataset.add(project.data, ABOUT, rows(0, first + 50))
    whole = Stored.find(project.data)
    assert (len(whole.shards), whole.rows) == (6, 300)
    before = files(project.root)
    taken = slices.take(project, tmp_path / "slice", 20)
    assert taken is not None
    found, ids = Stored.find(tmp_path / "slice"), [row["id"] for row in whole.read_rows(["id"])]
    assert (taken.rows, taken.counted, found.rows, found.about) == (300, True, 20, ABOUT)
    chosen = [ids.index(row["id"]) for row in found.read_rows(["id"])]
    assert (chosen[0], chosen[-1], chosen) == (0, 299, sorted(chosen))
    assert files(project.root) == before


def test_before_ingest_the_source_is_counted_and_a_slice_of_it_taken(tmp_path: Path) -> None:
    project = projects.make(tmp_path / "project")
    before = files(project.root)
    taken = slices.take(project, tmp_path / "slice", 100)
    assert taken is not None
    assert (taken.rows, taken.counted, taken.stored.rows) == (1797, True, 100)
    assert taken.pace > 0
    assert files(project.root) == before
    assert slices.counted(iter(rows(0, 500)), -1) == (100, False)  # no time at all


def test_what_must_be_fetched_is_known_by_what_is_published_or_not_at_all(tmp_path: Path) -> None:
    published = projects.make(tmp_path / "mnist", ingest={"source": {"kind": "catalogue", "name": "cifar10"}})
    taken = slices.take(published, tmp_path / "slice", 20)
    assert taken is not None
    assert (taken.rows, taken.stored.rows, len(taken.stored.about.classes)) == (60_000, 20, 10)
    file = {"url": "https://example.invalid/a.zip", "sha256": "0" * 64}
    source = {"kind": "url", "files": [file], "read": {"kind": "folder", "name": "a", "path": "."}}
    assert slices.take(projects.make(tmp_path / "url", ingest={"source": source}), tmp_path / "none", 20) is None
    assert not (tmp_path / "mnist" / ".genpipe").exists()


@pytest.fixture
def small(tmp_path: Path) -> Project:
    return projects.make(tmp_path, train={"generator": {"kind": "vae", "hidden_dim": 16}, "steps": 3000, "threads": 1})


@pytest.mark.slow
def test_every_stage_is_measured_and_nothing_is_left_behind(
    small: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(small.root)
    found = estimate.of(small, list(STAGES), seconds=60)
    assert (found.unmeasured, found.failure, found.complete) == ([], None, True)
    assert files(small.root) == before
    low, expected, high = found.seconds("train")
    assert 0 < low <= expected <= high
    assert found.costs["train"].how.startswith("3,000 steps of ")
    assert found.memory is not None
    assert found.memory.process > 50e6
    arrays = measuring.COPIES * 64 * 1797  # bytes of the digits
    assert found.costs["augment"].size == arrays
    monkeypatch.setenv("COLUMNS", "160")
    summary.show_estimate(found)
    printed = capsys.readouterr().out
    assert "digits: 1,797 examples, 10 classes (in the source)" in printed
    assert "10 draws of 179 samples" in printed
    found.free = 10
    summary.show_estimate(found)
    assert "The disk has no room for this run." in capsys.readouterr().out


def test_too_few_examples_are_told_from_the_split_that_is_expected(tmp_path: Path) -> None:
    few = projects.make(tmp_path / "project", evaluate={"held_out_share": 0.1})
    (tmp_path / "slice").mkdir()
    with pytest.raises(TooFewError, match=r"a draw has 35 examples and the scores need 65 .* of a test split of 359;"):
        list(measuring.pieces(few, list(STAGES), tmp_path / "slice"))


@pytest.mark.slow
def test_settings_with_which_the_run_would_fail_are_told(small: Project) -> None:
    small.params["train"] |= {"generator": {"kind": "vae"}, "parts": {"critic": {"lr": 0.1}}}
    found = estimate.of(small, list(STAGES), seconds=60)
    assert "train" in found.unmeasured
    assert "validate" in found.measured
    with pytest.raises(ConfigError, match=r"train.parts.critic is no part of 'vae'; its parts: "):
        estimate.refuse_failure(found)


@pytest.mark.slow
def test_the_measurement_ends_at_its_deadline(small: Project) -> None:
    import psutil

    found = estimate.of(small, list(STAGES), seconds=0)
    assert not found.complete
    assert "train" in found.unmeasured
    left = [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert left == []


def test_a_failure_that_no_setting_mends_is_told_too() -> None:
    known = Estimate(["train"], free=1)
    estimate.refuse_failure(known)
    known.take(Failure("the device's memory is full", ()))
    with pytest.raises(StageError, match="memory is full"):
        estimate.refuse_failure(known)
