"""Ingesting: rows are added once, files that need not change stay untouched, a crash leaves the old dataset."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genpipe.data import dataset
from genpipe.data.dataset import Row, Stored
from genpipe.errors import DataError, FormatError
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
    assert (added, grown.rows, len(grown.shards)) == (1, 3, 2)
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


def test_a_dataset_of_a_newer_genpipe_is_refused_and_one_that_says_no_format(tmp_path: Path) -> None:
    file = dataset.add(tmp_path, ABOUT, rows(1))[0].folder / "dataset.yaml"
    text = file.read_text()
    file.write_text(text.replace("format: 1", "format: 2"))
    with pytest.raises(FormatError, match=r"dataset.yaml is of format 2, made by a newer genpipe; .* upgrade it"):
        Stored.find(tmp_path)
    with pytest.raises(FormatError):
        dataset.add(tmp_path, ABOUT, rows(1, 2))
    file.write_text(text.replace("format: 1\n", ""))
    with pytest.raises(DataError, match="says no format; remove the folder and ingest again"):
        Stored.find(tmp_path)


def test_shards_that_a_killed_first_ingest_left_of_another_dataset_are_told(tmp_path: Path) -> None:
    (tmp_path / "circles").mkdir()
    (tmp_path / "circles" / "00000.parquet").write_bytes(b"as the kill left it")
    with pytest.raises(DataError, match=r"ingest.source is 'squares', but .* holds circles; .* remove the old one"):
        dataset.add(tmp_path, ABOUT, rows(1))
    (tmp_path / "circles" / "00000.parquet").rename(tmp_path / "circles" / "notes.txt")  # no file of ours
    assert dataset.add(tmp_path, ABOUT, rows(1))[1] == 1


def test_an_empty_source_is_an_error_and_leaves_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gave no example; ingest.source names where"):
        dataset.add(tmp_path, ABOUT, [])
    with pytest.raises(DataError, match="must hold one dataset and holds none"):
        Stored.find(tmp_path)


def ids(stored: Stored) -> list[str]:
    return [row["id"] for row in stored.read_rows(["id"])]


def three_shards(folder: Path) -> Stored:
    for values in [(1, 2), (1, 2, 3, 4), (1, 2, 3, 4, 5)]:
        stored, _ = dataset.add(folder, ABOUT, rows(*values))
    return stored


def test_removed_rows_are_gone_and_only_their_shards_are_written_anew(tmp_path: Path) -> None:
    stored = three_shards(tmp_path)
    before, names = bytes_of(stored.folder), ids(stored)
    left = dataset.remove(tmp_path, [names[2], names[4]])  # the first of the second shard, all of the third
    assert ids(left) == [names[0], names[1], names[3]]
    assert left == Stored.find(tmp_path)
    after = bytes_of(stored.folder)
    assert sorted(after) == ["00000.parquet", "00003.parquet", "dataset.yaml"]
    assert after["00000.parquet"] == before["00000.parquet"]
    assert left.digest == dataset.add(tmp_path / "same", ABOUT, rows(1, 2, 4))[0].digest


def test_removed_rows_are_never_taken_in_again(tmp_path: Path) -> None:
    stored = three_shards(tmp_path)
    gone = ids(stored)[1]
    dataset.remove(tmp_path, [gone])
    again, added = dataset.add(tmp_path, ABOUT, rows(1, 2, 3, 4, 5, 6))
    assert added == 1
    assert gone not in ids(again)
    assert again.removed == (gone,)
    assert dataset.remove(tmp_path, [gone]) == again  # for the second time


def test_every_copy_of_a_removed_row_is_gone(tmp_path: Path) -> None:
    stored, _ = dataset.add(tmp_path, ABOUT, rows(1, 2, 1))
    one, two, _ = ids(stored)
    assert ids(dataset.remove(tmp_path, [one])) == [two]


def test_the_last_row_may_go_too(tmp_path: Path) -> None:
    stored, _ = dataset.add(tmp_path, ABOUT, rows(1))
    left = dataset.remove(tmp_path, ids(stored))
    assert (left.rows, left.shards) == (0, ())
    assert dataset.add(tmp_path, ABOUT, rows(1)) == (left, 0)


def test_an_unknown_id_removes_nothing(tmp_path: Path) -> None:
    stored = three_shards(tmp_path)
    before = bytes_of(stored.folder)
    with pytest.raises(DataError, match="squares holds no row 0123, abcd; nothing was removed"):
        dataset.remove(tmp_path, ["abcd", ids(stored)[0], "0123"])
    assert bytes_of(stored.folder) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from genpipe.data import dataset

left = int(sys.argv[2])

def count(event, arguments):
    global left
    if event in ("os.rename", "os.remove") and str(sys.argv[1]) in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
dataset.remove(Path(sys.argv[1]), sys.argv[3:])
"""


def test_a_removal_that_is_killed_leaves_the_old_rows_or_the_new(tmp_path: Path) -> None:
    seen = set()
    for step in range(9):
        folder = tmp_path / str(step)
        stored = three_shards(folder)
        gone = [ids(stored)[number] for number in (3, 4)]
        done = subprocess.run([sys.executable, "-c", KILLED, folder, str(step), *gone], env=os.environ, check=False)
        assert done.returncode in (0, -signal.SIGKILL)
        found = len(ids(Stored.find(folder)))
        seen.add((done.returncode, found))
        finished = dataset.remove(folder, gone)
        assert len(ids(finished)) == 3
        assert set(bytes_of(stored.folder)) == {"dataset.yaml", *(shard.name for shard in finished.shards)}
        if done.returncode == 0:
            break
    assert seen == {(-signal.SIGKILL, 5), (-signal.SIGKILL, 3), (0, 3)}
