"""IDX, NPZ, binary records and Parquet, made on the spot: the same pixels come out, and broken files are named."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genpipe.errors import DataError
from tests.pictures import COLOURED, PIXELS, chosen, described, idx, pixels_of, png, rows


def test_idx_files_of_two_splits_gzipped_and_not(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(PIXELS[:8])))
    (tmp_path / "a-labels").write_bytes(idx(np.arange(8, dtype=np.uint8)))
    (tmp_path / "b").write_bytes(idx(PIXELS[8:]))
    (tmp_path / "b-labels.gz").write_bytes(gzip.compress(idx(np.arange(4, dtype=np.int32))))
    parts = [{"images": "a.gz", "labels": "a-labels", "split": "train"}]
    source = chosen("idx", files=[*parts, {"images": "b", "labels": "b-labels.gz", "split": "test"}])
    assert described(source, tmp_path).classes == tuple("01234567")
    found = rows(source, tmp_path)
    assert np.array_equal(np.stack([pixels_of(row) for row in found]), PIXELS)
    assert [row["label"] for row in found] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert [row["split"] for row in found] == ["train"] * 8 + ["test"] * 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(PIXELS)[:-7], idx(np.zeros(12, np.uint8)), "ends 7 bytes before its head says"),
        (idx(PIXELS) + b"x", idx(np.zeros(12, np.uint8)), "goes on after the 360 values"),
        (gzip.compress(idx(PIXELS))[:-20], idx(np.zeros(12, np.uint8)), "can't be unpacked"),
        (idx(PIXELS), idx(np.zeros(11, np.uint8)), r"shape \(11,\) beside images of shape \(12, 6, 5\)"),
        (png(PIXELS[0]), idx(np.zeros(12, np.uint8)), "is no IDX file"),
        (b"", idx(np.zeros(12, np.uint8)), "ends 4 bytes before"),
        (idx(PIXELS.astype(np.int32)), idx(np.zeros(12, np.uint8)), "images are uint8"),
        (struct.pack(">HBB3I", 0, 8, 3, 12, 2**31, 2**31), idx(np.zeros(12, np.uint8)), "max_file_bytes allows"),
    ],
)
def test_broken_idx_files_are_told(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(DataError, match=message):
        rows(chosen("idx", files=[{"images": "images", "labels": "labels"}]), tmp_path)


def test_labels_of_an_idx_file_are_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(PIXELS[:1]))
    (tmp_path / "labels").write_bytes(struct.pack(">HBBIf", 0, 0x0D, 1, 1, 0.7))
    with pytest.raises(DataError, match=r"labels holds float32 .*must hold one whole number an image"):
        described(chosen("idx", files=[{"images": "images", "labels": "labels"}]), tmp_path)


def test_a_stray_label_does_not_make_classes_without_end(tmp_path: Path) -> None:
    stray = np.array([0, 1, 2**31 - 1], np.int32)
    (tmp_path / "images").write_bytes(idx(PIXELS[:3]))
    (tmp_path / "labels").write_bytes(idx(stray))
    np.savez(tmp_path / "data.npz", x=PIXELS[:3], y=stray)
    parquet(tmp_path / "data.parquet", {"image": [b"x"] * 3, "label": stray})
    choices: list[tuple[str, dict[str, Any]]] = [
        ("idx", {"files": [{"images": "images", "labels": "labels"}]}),
        ("npz", {"path": "data.npz", "arrays": [{"images": "x", "labels": "y"}]}),
        ("parquet", {"path": "data.parquet"}),
    ]
    for kind, given in choices:
        with pytest.raises(
            DataError, match=r"label 2147483647 makes more than 100000 classes.*ingest\.source\.classes"
        ):
            described(chosen(kind, **given), tmp_path)
        assert described(chosen(kind, classes=["a", "b"], **given), tmp_path).classes == ("a", "b")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_by_name(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "data.npz", x=PIXELS, y=np.arange(12) % 3, z=COLOURED.transpose(0, 3, 1, 2), w=np.full((4, 1), 2))
    arrays = [{"images": "x", "labels": "y", "split": "train"}, {"images": "z", "labels": "w", "split": "test"}]
    source = chosen("npz", path="data.npz", arrays=arrays, classes=["a", "b", "c"])
    assert described(source, tmp_path).classes == ("a", "b", "c")
    found = rows(source, tmp_path)
    assert [row["label"] for row in found] == [0, 1, 2] * 4 + [2] * 4
    assert np.array_equal(np.stack([pixels_of(row) for row in found[:12]]), PIXELS)
    assert np.array_equal(np.stack([pixels_of(row) for row in found[12:]]), COLOURED)


def test_a_bomb_of_packed_arrays_is_refused_before_it_is_read(tmp_path: Path) -> None:
    zeros = np.zeros((30_000, 10, 10), np.uint8)
    (tmp_path / "images").write_bytes(gzip.compress(idx(zeros)))
    np.savez_compressed(tmp_path / "data.npz", x=zeros)
    for kind, given in (
        ("idx", {"files": [{"images": "images"}]}),
        ("npz", {"path": "data.npz", "arrays": [{"images": "x"}]}),
    ):
        with pytest.raises(DataError, match=r"(images|'x\.npy'): unpacks to more than 2 times its size"):
            rows(chosen(kind, **given, unpack={"max_ratio": 2}), tmp_path)
        with pytest.raises(DataError, match=r"more than 9000 bytes unpacked; raise ingest\.source\.unpack\.max_bytes"):
            rows(chosen(kind, **given, unpack={"max_bytes": 9000}), tmp_path)
        assert len(rows(chosen(kind, **given), tmp_path)) == 30_000


def test_pickled_and_unusable_arrays_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "data.npz", objects=objects, fine=PIXELS, float=PIXELS / 255, few=np.arange(3))
    messages = {
        "objects": "holds Python objects: a pickle, which is never loaded",
        "absent": r"has no array 'absent'; it holds objects, fine, float, few",
        "float": r"holds float64 of shape \(12, 6, 5\); images are uint8",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            rows(chosen("npz", path="data.npz", arrays=[{"images": name}]), tmp_path)
    with pytest.raises(DataError, match=r"array 'few', holds .* it must hold 12 whole numbers"):
        rows(chosen("npz", path="data.npz", arrays=[{"images": "fine", "labels": "few"}]), tmp_path)
    (tmp_path / "data.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"can't be read as \.npz"):
        rows(chosen("npz", path="data.npz", arrays=[{"images": "fine"}]), tmp_path)


def test_binary_records_as_cifar_has_them(tmp_path: Path) -> None:
    stored = COLOURED.transpose(0, 3, 1, 2).reshape(4, -1)
    labels = np.array([[9, 1], [9, 0], [9, 2], [9, 1]], np.uint8)
    (tmp_path / "a.bin").write_bytes(np.hstack([labels, stored])[:3].tobytes())
    (tmp_path / "b.bin").write_bytes(np.hstack([labels, stored])[3:].tobytes())
    files = [{"path": "a.bin", "split": "train"}, {"path": "b.bin", "split": "test"}]
    source = chosen("records", files=files, shape=[3, 6, 5], label_bytes=2)
    found = rows(source, tmp_path)
    assert np.array_equal(np.stack([pixels_of(row) for row in found]), COLOURED)
    assert [(row["label"], row["split"]) for row in found] == [(1, "train"), (0, "train"), (2, "train"), (1, "test")]
    with pytest.raises(DataError, match="276 bytes is not made of records of 91 bytes"):
        rows(chosen("records", files=files, shape=[3, 6, 5], label_bytes=1), tmp_path)


def parquet(file: Path, columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    images = [{"bytes": png(pixels), "path": f"{number}.png"} for number, pixels in enumerate(PIXELS)]
    info = {"info": {"features": {"label": {"names": ["rose", "aster"], "_type": "ClassLabel"}}}}
    parquet(tmp_path / "d" / "train-00000-of-00001.parquet", {"image": images[:8], "label": [0, 1] * 4}, info)
    parquet(tmp_path / "d" / "test-00000-of-00001.parquet", {"image": images[8:], "label": [1] * 4}, info)
    source = chosen("parquet", path="d")
    about = described(source, tmp_path)
    assert (about.classes, about.columns) == (("rose", "aster"), ("split",))
    found = rows(source, tmp_path)
    assert [row["split"] for row in found] == ["test"] * 4 + ["train"] * 8  # files come in the order of their names
    assert [row["label"] for row in found] == [1] * 4 + [0, 1] * 4
    assert found[0]["image"]["path"] == "8.png"
    assert np.array_equal(np.stack([pixels_of(row) for row in found[4:]]), PIXELS[:8])


def test_parquet_with_binary_images_names_captions_and_a_column_of_splits(tmp_path: Path) -> None:
    columns = {"picture": [png(pixels) for pixels in PIXELS[:3]], "kind": ["rose", None, "aster"]}
    parquet(tmp_path / "own.parquet", {**columns, "caption": ["a", "b", None], "part": ["train", "val", None]})
    source = chosen("parquet", path="own.parquet", image="picture", label="kind", text="caption", split="part")
    assert described(source, tmp_path).classes == ("aster", "rose")
    found = [(row["label"], row["text"], row["split"]) for row in rows(source, tmp_path)]
    assert found == [(1, "a", "train"), (None, "b", "validation"), (0, None, None)]


def test_hidden_files_are_no_parquet(tmp_path: Path) -> None:
    parquet(tmp_path / "d" / "train.parquet", {"image": [png(PIXELS[0])]})
    (tmp_path / "d" / "._train.parquet").write_bytes(b"of the Finder")
    assert len(rows(chosen("parquet", path="d"), tmp_path)) == 1


def test_parquet_that_is_amiss_is_told(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"img": [b"x"], "label": [1.5]})
    with pytest.raises(DataError, match=r"no column 'image'; ingest\.source\.image is one of: img, label"):
        described(chosen("parquet", path="a.parquet"), tmp_path)
    with pytest.raises(DataError, match="column 'label', holds double; labels are whole numbers or names"):
        described(chosen("parquet", path="a.parquet", image="img"), tmp_path)
    parquet(tmp_path / "c.parquet", {"image": [b"x"], "text": [["a", "b"]]})
    with pytest.raises(DataError, match=r"column 'text', holds list.*; captions and splits are text"):
        described(chosen("parquet", path="c.parquet"), tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        described(chosen("parquet", path="b.parquet"), tmp_path)
