"""Ingesting: rows are added once, files that need not change stay untouched, a crash leaves the old dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genpipe.data import dataset
from genpipe.data.dataset import Row, Stored
from genpipe.errors import DataError
from genpipe.modalities import image
from genpipe.sources import digits

ABOUT = replace(digits.DATASET, name="squares")


def rows(*values: int) -> list[Row]:
    return [{**image.encode(np.full((4, 4), value, np.uint8)), "label": value % 10} for value in values]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_digits_are_all_there_and_decode_to_what_scikit_learn_has(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    stored, added = dataset.add(tmp_path, digits.DATASET, digits.rows(digits.Config(), tmp_path))
    assert (stored.rows, added) == (1797, 1797)
    found = list(stored.read_rows())
    assert [row["label"] for row in found] == load_digits().target.tolist()
    pixels = np.stack([image.decode(row) for row in found])[..., 0]
    assert np.array_equal(pixels, np.rint(load_digits().images * 255 / 16))


def test_unchanged_rows_leave_every_file_untouched(tmp_path: Path) -> None:
    first, _ = dataset.add(tmp_path, ABOUT, rows(1, 2, 3))
    before = bytes_of(first.folder)
    again, added = dataset.add(tmp_path, ABOUT, rows(3, 2, 1))
    assert added == 0
    assert again == first
    assert bytes_of(first.folder) == before


def test_new_rows_become_a_new_shard(tmp_path: Path) -> None:
    first, _ = dataset.add(tmp_path, ABOUT, rows(1, 2))
    before = (first.folder / "00000.parquet").read_bytes()
    grown, added = dataset.add(tmp_path, ABOUT, rows(1, 2, 3))
    assert (added, grown.rows, grown.shard_count) == (1, 3, 2)
    assert (first.folder / "00000.parquet").read_bytes() == before
    assert grown.digest != first.digest


def test_the_same_picture_twice_is_two_rows_with_one_id(tmp_path: Path) -> None:
    stored, added = dataset.add(tmp_path, ABOUT, rows(1, 1))
    assert added == 2
    assert len({row["id"] for row in stored.read_rows()}) == 1


def test_a_shard_without_its_entry_is_no_part_of_the_dataset(tmp_path: Path) -> None:
    stored, _ = dataset.add(tmp_path, ABOUT, rows(1, 2))
    (stored.folder / "00001.parquet").write_bytes(b"half a shard that a crash has left")
    assert len(list(Stored.find(tmp_path).read_rows())) == 2
    grown, _ = dataset.add(tmp_path, ABOUT, rows(1, 2, 3))
    assert len(list(grown.read_rows())) == 3


def test_another_dataset_in_the_project_is_refused(tmp_path: Path) -> None:
    dataset.add(tmp_path, ABOUT, rows(1))
    with pytest.raises(DataError, match="holds squares; a project has one dataset"):
        dataset.add(tmp_path, digits.DATASET, rows(1))


def test_an_empty_source_is_an_error_and_leaves_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gave no example"):
        dataset.add(tmp_path, ABOUT, [])
    with pytest.raises(DataError, match="must hold one dataset and holds none"):
        Stored.find(tmp_path)
