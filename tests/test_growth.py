"""A dataset that grows: what is new, relabelled or known, by hand and on disk; failures leave it as it was."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genpipe.data import dataset, parallel
from genpipe.data.dataset import Row, Stored
from genpipe.data.held import Held, ids_in, keys_of
from genpipe.data.rows import Later, encoded, identify, quick_id
from genpipe.data.stamps import Stamps
from genpipe.errors import DataError
from genpipe.modalities import image
from genpipe.sources import _own, digits
from genpipe.stages import ingest
from tests import projects

ABOUT = replace(digits.DATASET, name="squares")
IDS = ["c5fbf5878ab868121e9b842065c6000a", "0605edad4c5b1feee2baa5a6ef59b2f8"]  # of the first digit and of the last
ONE, TWO = "01" * 16, "02" * 15 + "00"


def row(value: int, label: int | None = 0, **others: str) -> Row:
    return {"image": np.full((4, 4), value, np.uint8), "label": label, **others}


def many(count: int, first: int = 0) -> Iterator[Row]:
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        yield {"image": draw.integers(0, 256, (6, 5), np.uint8), "label": number % 10}


def held(stored: Stored) -> list[tuple[int, int | None]]:
    """Grey value and label of each row, in order."""
    return [(int(image.decode(row)[0, 0, 0]), row["label"]) for row in stored.read_rows()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def keys(*rows: tuple[str, int]) -> np.ndarray:
    return keys_of([name for name, _ in rows], [(label,) for _, label in rows])


def test_rows_are_crossed_off_once_each() -> None:
    have = Held(keys((ONE, 7), (TWO, 7), (ONE, 7), (TWO, 8)))
    asked = keys((ONE, 7), (TWO, 9), (ONE, 7), (ONE, 7), (TWO, 7))
    assert have.take(asked).tolist() == [True, False, True, False, True]
    assert have.take(asked).tolist() == [False] * 5
    assert have.take(keys((TWO, 8))).tolist() == [True]


def test_of_the_rows_left_over_one_is_superseded_for_each_new_row_of_its_content() -> None:
    have = Held(keys((ONE, 1), (ONE, 2), (ONE, 3), (TWO, 4)))
    have.take(keys((ONE, 2)))
    new = ids_in(keys((ONE, 8), ("03" * 16, 4)))
    assert have.superseded(new).tobytes() in (keys((ONE, 1)).tobytes(), keys((ONE, 3)).tobytes())
    assert len(have.superseded(np.repeat(new, 5))) == 2
    assert len(Held(keys()).superseded(new)) == len(have.superseded(new[:0])) == 0


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_an_array_is_identified_as_the_picture_that_is_made_of_it(shape: tuple[int, ...]) -> None:
    given = {"image": np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)}
    assert quick_id(given, image) == identify(encoded(given, image), image)


def test_a_row_with_another_label_takes_the_place_of_the_one_that_was(tmp_path: Path) -> None:
    dataset.add(tmp_path, ABOUT, [row(1, 1), row(2, 2), row(3, 3)])
    stored, written = dataset.add(tmp_path, ABOUT, [row(1, 1), row(2, 9)])
    assert written == 1
    assert held(stored) == [(1, 1), (3, 3), (2, 9)]  # 3 is no longer given, and stays
    assert held(dataset.add(tmp_path, ABOUT, [row(1, 1), row(2, 9), row(3, 3)])[0]) == held(stored)
    assert set(bytes_of(stored.folder)) == {"dataset.yaml", *(shard.name for shard in stored.shards)}


def test_a_content_that_the_source_gives_with_two_labels_is_two_rows(tmp_path: Path) -> None:
    stored, _ = dataset.add(tmp_path, ABOUT, [row(1, 1), row(1, 2)])
    assert dataset.add(tmp_path, ABOUT, [row(1, 2), row(1, 1)]) == (stored, 0)
    grown, _ = dataset.add(tmp_path, ABOUT, [row(1, 2), row(1, 1), row(1, 3)])
    assert held(grown) == [(1, 1), (1, 2), (1, 3)]


def test_another_caption_takes_the_place_of_the_one_that_was_and_another_split_does_not(tmp_path: Path) -> None:
    about = replace(ABOUT, columns=("split", "text"))
    dataset.add(tmp_path, about, [row(1, text="a", split="train"), row(2, text="b", split="train")])
    given = [row(1, text="a", split="test"), row(2, text="c", split="train")]
    stored, written = dataset.add(tmp_path, about, given)
    assert [(row["text"], row["split"]) for row in stored.read_rows()] == [("a", "train"), ("c", "train")]
    assert written == 1


def test_classes_that_are_held_keep_their_numbers(tmp_path: Path) -> None:
    pets = replace(ABOUT, classes=("cat", "dog"))
    before, _ = dataset.add(tmp_path, pets, [row(1, 0), row(2, 1)])
    more = replace(ABOUT, classes=("ant", "cat", "dog"))  # sorted by the source
    stored, written = dataset.add(tmp_path, more, [row(3, 0), row(1, 1), row(2, 2)])
    assert stored.about.classes == ("cat", "dog", "ant")
    assert (held(stored), written) == ([(1, 0), (2, 1), (3, 2)], 1)
    assert stored.shards[: len(before.shards)] == before.shards


def test_classes_of_which_none_is_held_are_new_ones_and_rename_no_row(tmp_path: Path) -> None:
    dataset.add(tmp_path, replace(ABOUT, classes=("cat", "dog")), [row(1, 0), row(2, 1)])
    stored, written = dataset.add(tmp_path, replace(ABOUT, classes=("chat", "chien", "vache")), [row(1, 0), row(3, 2)])
    assert stored.about.classes == ("cat", "dog", "chat", "chien", "vache")
    assert (held(stored), written) == ([(2, 1), (1, 2), (3, 4)], 2)  # 1 is relabelled, 2 is a dog as before


def test_a_label_that_is_none_of_the_sources_never_falls_on_a_held_class(tmp_path: Path) -> None:
    dataset.add(tmp_path, replace(ABOUT, classes=("ant", "bee")), [row(1, 0)])
    stored, _ = dataset.add(tmp_path, replace(ABOUT, classes=("ant", "cow")), [row(2, 2), row(3, 1), row(4, None)])
    assert stored.about.classes == ("ant", "bee", "cow")
    assert held(stored) == [(1, 0), (2, -1), (3, 2), (4, None)]


def test_a_source_that_gives_no_labels_any_more_is_refused(tmp_path: Path) -> None:
    before = bytes_of(dataset.add(tmp_path, ABOUT, [row(1, 5)])[0].folder)
    with pytest.raises(DataError, match=r"ingest.source gives no labels, but the rows of 'squares' have the classes 0"):
        dataset.add(tmp_path, replace(ABOUT, classes=()), [row(1, None)])
    assert bytes_of(tmp_path / "squares") == before


@pytest.mark.parametrize("columns", [("split",), ()])
def test_a_relabelled_row_stays_in_its_split(tmp_path: Path, columns: tuple[str, ...]) -> None:
    """Wherever the source has moved it, and also where the source says no splits any more."""
    about = replace(ABOUT, columns=("split",))
    first = [row(1, 1, split="train"), row(2, 2, split="test"), row(3, 3)]
    dataset.add(tmp_path, about, first)
    moved = [row(1, 4, split="test"), row(2, 5, split="train"), row(3, 6, split="test"), row(7, 7, split="test")]
    given = moved if columns else [{name: said for name, said in one.items() if name != "split"} for one in moved]
    stored, _ = dataset.add(tmp_path, replace(about, columns=columns), given)
    assert held(stored) == [(1, 4), (2, 5), (3, 6), (7, 7)]
    new = "test" if columns else None
    assert [one["split"] for one in stored.read_rows()] == ["train", "test", None, new]


def test_a_broken_file_is_known_by_its_bytes_and_an_absent_one_by_its_path() -> None:
    def name(content: bytes | None, path: str) -> str:
        return identify({"image": {"bytes": content, "path": path}}, image)

    assert name(b"no picture", "a.png") == name(b"no picture", "moved/a.png") != name(b"none, too", "a.png")
    assert name(b"no picture", "a.png") == hashlib.sha256(b"no picture").hexdigest()[:32]
    assert name(None, "a.png") != name(None, "moved/a.png")


def test_the_ids_of_the_digits_are_those_that_they_ever_had(tmp_path: Path) -> None:
    first, *_, last = digits.rows(digits.Config(), tmp_path)
    assert [quick_id(one, image) for one in (first, last)] == IDS


def test_labels_that_come_later_are_taken(tmp_path: Path) -> None:
    dataset.add(tmp_path, replace(ABOUT, classes=()), [row(1, None), row(2, None)])
    assert held(dataset.add(tmp_path, ABOUT, [row(1, 5), row(2, 6)])[0]) == [(1, 5), (2, 6)]


def test_the_publishers_splits_are_those_of_the_first_rows(tmp_path: Path) -> None:
    about = replace(ABOUT, columns=("split",))
    dataset.add(tmp_path, about, [row(1, split="train")])
    grown, _ = dataset.add(tmp_path, about, [row(1, split="train"), row(2, split="test")])
    assert (grown.published, Stored.find(tmp_path)) == (("train",), grown)
    with pytest.raises(DataError, match="the source gives the split 'dev'; known splits: train, validation, test"):
        dataset.add(tmp_path, about, [row(3, split="dev")])


@pytest.mark.skipif(parallel.cores() < 2, reason="one core: all work is done in this process")
def test_many_rows_are_encoded_by_several_processes_in_order(tmp_path: Path) -> None:
    shared, _ = dataset.add(tmp_path / "all at once", ABOUT, many(6000))
    for count in (1500, 3000, 4500, 6000):
        alone, _ = dataset.add(tmp_path / "in portions", ABOUT, many(count))  # each so few that none is started
    assert shared.digest == alone.digest
    assert [shard.name for shard in shared.shards] == ["00000.parquet", "00001.parquet"]
    assert dataset.add(tmp_path / "all at once", ABOUT, many(6000)) == (shared, 0)


def test_a_source_that_fails_in_the_middle_leaves_the_dataset_as_it_was(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from many(dataset.ROWS_A_SHARD + 1000)
        raise DataError("the archive ends here")

    stored, _ = dataset.add(tmp_path, ABOUT, many(20))
    before = bytes_of(stored.folder)
    with pytest.raises(DataError, match="the archive ends here"):
        dataset.add(tmp_path, ABOUT, broken())
    assert bytes_of(stored.folder) == before


def in_a_child(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    head = "import resource, sys\nfrom tests.test_growth import *\n"
    command = [sys.executable, "-c", head + code, *map(str, words)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


def test_a_full_disk_is_told_and_leaves_the_dataset_as_it_was(tmp_path: Path) -> None:
    stored, _ = dataset.add(tmp_path, ABOUT, many(20))
    before = bytes_of(stored.folder)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    said = in_a_child(limit + "dataset.add(Path(sys.argv[1]), ABOUT, many(900))", tmp_path).stderr
    assert "no room to write" in said
    assert "make room on its disk and run this again" in said
    assert bytes_of(stored.folder) == before


def test_what_a_killed_ingest_has_left_is_gone_after_the_next(tmp_path: Path) -> None:
    killed = """
def rows():
    yield from many(dataset.ROWS_A_SHARD + 2500)
    print(sorted(file.name for file in Path(sys.argv[1]).glob("*/*")), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

dataset.add(Path(sys.argv[1]), ABOUT, rows())
"""
    stored, _ = dataset.add(tmp_path, ABOUT, many(20))
    done = in_a_child(killed, tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert "00001.parquet" in done.stdout
    (stored.folder / ".00001.parquet.x1.parquet").write_bytes(b"half a shard")
    (stored.folder / "notes.txt").write_text("somebody's own")
    assert len(held(Stored.find(tmp_path))) == 20
    dataset.add(tmp_path, ABOUT, many(20))
    assert set(bytes_of(stored.folder)) == {"00000.parquet", "dataset.yaml", "notes.txt"}


PEAK = """
dataset.add(Path(sys.argv[1]), ABOUT, many(int(sys.argv[2])))
dataset.add(Path(sys.argv[1]), ABOUT, many(int(sys.argv[2]) + 10))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    few, lots = (int(in_a_child(PEAK, tmp_path / str(count), count).stdout) for count in (2_000, 60_000))
    assert lots - few < 60 * 1024  # KiB; the rows as Python objects would take 100 MB more


def photographs(folder: Path, count: int) -> list[Path]:
    """Files of pictures in `folder`, made unless they are there."""
    files = [folder / f"{number}.png" for number in range(count)]
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        if not file.exists():
            file.write_bytes(image.encode(np.full((4, 4), number, np.uint8))["image"]["bytes"])
    return files


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path: Path) -> None:
    asked = list[str]()

    def read(file: Path) -> dict[str, Any]:
        asked.append(file.stem)
        return {"bytes": file.read_bytes(), "path": None}

    def ingest(count: int, depends: str = "") -> tuple[int, str]:
        """How many rows the dataset holds, and the files that were read for it."""
        asked.clear()
        stamps, files = Stamps(tmp_path / "stamps", depends), photographs(tmp_path / "files", count)
        rows = [{"image": Later(partial(read, file), repr(_own.stamp(file)), 100), "label": 0} for file in files]
        stored, _ = dataset.add(tmp_path / "data", ABOUT, rows, stamps)
        stamps.keep()
        return stored.rows, " ".join(asked)

    assert ingest(3) == (3, "0 1 2")
    assert ingest(5) == (5, "3 4")
    assert ingest(5) == (5, "")
    (tmp_path / "files" / "1.png").write_bytes(image.encode(np.full((5, 4), 77, np.uint8))["image"]["bytes"])
    assert ingest(5) == (6, "1")
    assert ingest(5, "another decoder") == (6, "0 1 2 3 4")
    (entry,) = (tmp_path / "stamps").iterdir()
    entry.write_bytes(entry.read_bytes()[:-16] + bytes(16))
    assert ingest(5, "another decoder") == (6, "0 1 2 3 4")


def test_a_folder_that_has_grown_costs_what_was_added(tmp_path: Path) -> None:
    project = projects.make(tmp_path, ingest={"source": {"kind": "folder", "name": "own", "path": "files"}})
    photographs(tmp_path / "files", 20)
    source = project.section("ingest", ingest.Config).source
    assert ingest.take_in(source, project)[1] == 20
    old = photographs(tmp_path / "files", 25)[3]
    before = old.stat()
    old.write_bytes(bytes(before.st_size))  # behind its stamp, so that reading it would be seen
    os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ingest.take_in(source, project)[1] == 5
