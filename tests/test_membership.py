"""The record of the rows that a model knows: written from the arrays, read again by id, small."""

from pathlib import Path

import numpy as np
import pytest

from genpipe.data.arrays import write_arrays
from genpipe.data.keys import packed, spelt
from genpipe.records import membership

TRAIN, VALIDATION, TEST = ([f"{number:032x}" for number in range(*span)] for span in ((0, 300), (300, 400), (400, 600)))


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    for split, ids in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        write_arrays(tmp_path / split, {"id": np.array(ids)})
    return tmp_path


def asked(augmented: Path, name: str, *ids: str) -> dict[str, str]:
    with membership.written(augmented, name) as file:
        known = membership.found(file, [bytes.fromhex(one) for one in ids])
    return {key.hex(): split for key, split in known.items()}


def test_a_row_is_found_with_its_split_and_another_one_is_not(augmented: Path) -> None:
    first, last, watched, held_out = TRAIN[0], TRAIN[-1], VALIDATION[5], TEST[7]
    known = asked(augmented, membership.TRAINED, first, last, watched, held_out, "f" * 32)
    assert known == {first: "train", last: "train", watched: "validation"}
    assert asked(augmented, membership.MEASURED, first, held_out) == {held_out: "test"}


def test_a_row_takes_little_more_than_sixteen_bytes(augmented: Path) -> None:
    write_arrays(augmented / "train", {"id": np.array([f"{number:032x}" for number in range(20_000)])})
    with membership.written(augmented, membership.TRAINED) as file:
        assert file.stat().st_size < 18 * 20_100
    assert not file.exists()


def test_ids_are_packed_and_spelt_without_loss() -> None:
    ids = ["00" * 16, "ab" * 15 + "00", "ff" * 16]
    assert spelt(packed(ids)) == ids
    assert spelt(np.unique(packed([*ids, *reversed(ids)]))) == ids
