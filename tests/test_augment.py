"""augment at scale: the publisher's splits, growth that costs what was added, memory that stays, a full disk."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genpipe import PACKAGE
from genpipe.data import arrays, cache, dataset, parallel
from genpipe.data.arrays import Arrays, Column
from genpipe.data.dataset import Row, Stored
from genpipe.errors import DataError
from genpipe.project import Project
from genpipe.sources import digits
from genpipe.stages import augment
from tests import projects

ABOUT = replace(digits.DATASET, name="noise")
FEW = {"validate": {"min_accepted": 10, "max_quarantined": 0.5}}


def pictures(count: int, first: int = 0, **others: str) -> Iterator[Row]:
    """Noise, coarse enough that no two look alike."""
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        yield {"image": draw.integers(0, 256, (6, 5), np.uint8), "label": number % 10, **others}


def augmented(project: Project) -> dict[str, dict[str, tuple[int, bytes]]]:
    """Split → id → label and pixels."""
    found = {}
    for split in arrays.SPLITS:
        columns = Arrays(project.artifacts / "augment" / split)
        rows = zip(columns["id"], columns["label"], columns["image"], strict=True)
        found[split] = {str(name): (int(label), pixels.tobytes()) for name, label, pixels in rows}
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return projects.make(tmp_path, **FEW)


def test_a_column_is_written_piece_by_piece_as_numpy_writes_it_whole(tmp_path: Path) -> None:
    for values in (np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.array(list("abcdef"), "U32"), np.arange(6)):
        with Column(tmp_path / "pieces.npy", 6) as column:
            for piece in (values[:1], values[1:1], values[1:5], values[5:]):
                column.write(piece)
        np.save(tmp_path / "whole.npy", values)
        assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with pytest.raises(ValueError, match="1 rows of 2 were written"), Column(tmp_path / "short.npy", 2) as column:
        column.write(np.zeros(1))


def test_rows_that_were_accepted_of_other_data_are_not_taken_for_these(project: Project) -> None:
    """One is removed and another one comes: as many rows, each at the place of its neighbour."""
    projects.run(projects.with_rows(project, ABOUT, list(pictures(60))), "validate", "augment")
    before = augmented(project)
    first = next(Stored.find(project.data).read_rows(["id"]))["id"]
    dataset.remove(project.data, [first])
    projects.with_rows(project, ABOUT, list(pictures(61)))
    with pytest.raises(DataError, match="tells of other rows than data/ holds; `dvc repro validate`"):
        projects.run(project, "augment")
    assert augmented(project) == before
    projects.run(project, "validate", "augment")
    dataset.remove(project.data, [row["id"] for row in Stored.find(project.data).read_rows(["id"])][-1:])
    with pytest.raises(DataError, match="tells of other rows than data/ holds"):  # the last is in no shard
        projects.run(project, "augment")


def test_an_empty_split_is_told_with_what_decides_it(project: Project) -> None:
    about = replace(ABOUT, columns=("split",))
    flat = {"image": np.zeros((6, 5), np.uint8), "label": 0, "split": "test"}
    projects.with_rows(project, about, [*pictures(60, split="train"), flat])
    projects.run(project, "validate")
    with pytest.raises(DataError, match="into test; the publisher says what is test, and validate accepted no such"):
        projects.run(project, "augment")
    with pytest.raises(DataError, match=r"into train; more data, or other shares \(augment.validation"):
        augment.refuse_empty(["train"], [])


def test_the_publishers_splits_are_kept_and_what_is_missing_is_taken_from_train(project: Project) -> None:
    about = replace(ABOUT, columns=("split",))
    given = [*pictures(200, split="train"), *pictures(50, 200, split="test")]
    projects.run(projects.with_rows(project, about, given), "validate", "augment")
    before = augmented(project)
    named = {row["image"].tobytes(): row["split"] for row in given}
    assert {named[pixels] for _, pixels in before["test"].values()} == {"test"}
    assert {named[pixels] for _, pixels in before["validation"].values()} == {"train"}
    assert len(before["test"]) == 50
    assert 5 < len(before["validation"]) < 40  # a tenth of 200

    more = [*given, *pictures(20, 300, split="validation"), *pictures(30, 400, split="train")]
    projects.run(projects.with_rows(project, about, more), "validate", "augment")
    after = augmented(project)
    assert all(before[split].items() <= after[split].items() for split in before)
    assert sum(map(len, after.values())) == 300


def test_a_content_in_two_published_splits_is_in_one(project: Project) -> None:
    about = replace(ABOUT, columns=("split",))
    given = [*pictures(150, split="train"), *pictures(40, 110, split="test")]  # 40 of them again
    projects.run(projects.with_rows(project, about, [*given, *pictures(20, 200, split="test")]), "validate", "augment")
    found = augmented(project)
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 170


def test_shards_that_were_there_are_not_prepared_again_and_a_damaged_result_is(project: Project) -> None:
    projects.run(projects.with_rows(project, ABOUT, list(pictures(100))), "validate", "augment")
    before, kept = augmented(project), cache.folder(project, "augment")
    (first,) = kept.iterdir()
    time = first.stat().st_mtime_ns
    projects.run(projects.with_rows(project, ABOUT, list(pictures(160))), "validate", "augment")
    assert first.stat().st_mtime_ns == time
    assert len(list(kept.iterdir())) == 2
    first.write_bytes(first.read_bytes()[:-5] + b"wrong")
    projects.run(project, "augment")
    after = augmented(project)
    assert all(before[split].items() <= after[split].items() for split in before)
    cache.forget(project)
    projects.run(project, "augment")
    assert augmented(project) == after


def test_columns_of_an_earlier_run_and_what_a_kill_has_left_are_gone(project: Project) -> None:
    projects.run(projects.with_rows(project, ABOUT, list(pictures(100))), "validate", "augment")
    train = project.artifacts / "augment" / "train"
    np.save(train / ".image.npy.killed.npy", np.zeros(3))
    np.save(train / "text.npy", np.zeros(3))
    projects.run(project, "augment")
    assert set(Arrays(train)) == {"id", "image", "label"}


@pytest.mark.skipif(parallel.cores() < 2, reason="one core: all work is done in this process")
def test_several_processes_give_the_arrays_that_one_gives(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genpipe.data.dataset.ROWS_A_SHARD", 40)
    projects.run(projects.with_rows(project, ABOUT, list(pictures(130))), "validate", "augment")
    alone = augmented(project)
    cache.forget(project)
    monkeypatch.setattr(cache, "SMALL_BYTES", 0)
    projects.run(project, "augment")
    assert augmented(project) == alone


def test_a_full_disk_is_told_and_leaves_no_half_of_an_array(project: Project) -> None:
    projects.run(projects.with_rows(project, ABOUT, list(pictures(900))), "validate")
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom genpipe import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))\nrun.run_stage(Path(sys.argv[1]), 'augment')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, project.root], env=os.environ, capture_output=True, text=True, check=False
    )
    assert "DataError: no room to write" in done.stderr
    assert not list((project.artifacts / "augment").rglob("*.npy"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_in_any_stage() -> None:
    """By the benchmark, with each stage in a process of its own."""
    script = PACKAGE.parent / "benchmarks" / "data.py"
    told = subprocess.check_output([sys.executable, script, "--sizes", "1000", "40000"], env=os.environ, text=True)
    largest = re.findall(r"\| ([\d,]+) \| (\w+) \|.*\| (\d+) MiB \| \d+ MiB \|", told)
    few, many = (
        {stage: int(size) for images, stage, size in largest if images == asked} for asked in ("1,000", "40,000")
    )
    grown = {stage: many[stage] - few[stage] for stage in ("ingest", "validate", "augment")}
    assert max(grown["ingest"], grown["augment"]) < 25  # MiB; a copy of the pixels alone would take 30
    assert grown["validate"] < 70  # up to 100,000 rows of the manifest are in memory at once
