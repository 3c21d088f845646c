"""Folders and tables of images: every example with its label, split and caption, and what is amiss by its name."""

import json
import os
import socket
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genpipe.data import dataset
from genpipe.data.rows import identify
from genpipe.errors import DataError
from genpipe.modalities import image
from genpipe.stages import ingest
from tests import projects
from tests.pictures import PIXELS, chosen, described, names, pixels_of, png, put, rows


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    put(tmp_path / "photos", "rose/1.png", "aster/deep/2.png", "rose/0.png")
    source = chosen("folder", path="photos", licence="CC0-1.0", citation="us")
    about = described(source, tmp_path)
    assert (about.classes, about.columns, about.licence, about.citation) == (("aster", "rose"), (), "CC0-1.0", "us")
    assert names(source, tmp_path) == [("aster/deep/2.png", 0), ("rose/0.png", 1), ("rose/1.png", 1)]
    assert np.array_equal(pixels_of(rows(source, tmp_path)[2]), PIXELS[0])


def test_classes_come_in_the_order_that_is_stated_and_others_are_for_validation_to_name(tmp_path: Path) -> None:
    put(tmp_path, "rose/1.png", "aster/2.png", "weed/3.png")
    source = chosen("folder", path=".", classes=["rose", "aster"])
    assert described(source, tmp_path).classes == ("rose", "aster")
    assert names(source, tmp_path) == [("aster/2.png", 1), ("rose/1.png", 0), ("weed/3.png", -1)]


def test_a_label_may_be_the_number_of_a_class_that_is_stated(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,1\n2.png,rose\n3.png,2\n")
    source = chosen("folder", path=".", classes=["rose", "aster"])
    assert names(source, tmp_path) == [("1.png", 1), ("2.png", 0), ("3.png", -1)]


def test_a_folder_without_classes(tmp_path: Path) -> None:
    put(tmp_path / "flat", "b.png", "a.png", "batch/c.png")
    source = chosen("folder", path="flat", class_folders=False)
    assert described(source, tmp_path).classes == ()
    assert rows(source, tmp_path)[0].keys() == {"image"}
    assert [name for name, _ in names(source, tmp_path)] == ["a.png", "b.png", "batch/c.png"]


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_a_split_above_the_classes_is_kept(tmp_path: Path, validation: str) -> None:
    put(tmp_path, "train/rose/1.png", f"{validation}/aster/2.png", "test/rose/3.png", "train/4.png")
    source = chosen("folder", path=".")
    found = {row["image"]["path"]: (row["split"], row["label"]) for row in rows(source, tmp_path)}
    assert found == {
        "train/rose/1.png": ("train", 1),
        f"{validation}/aster/2.png": ("validation", 0),
        "test/rose/3.png": ("test", 1),
        "train/4.png": ("train", None),
    }
    assert described(source, tmp_path).columns == ("split",)


def test_a_class_that_is_called_as_a_split_among_others_is_a_class(tmp_path: Path) -> None:
    put(tmp_path, "test/1.png", "rose/2.png")
    source = chosen("folder", path=".")
    assert described(source, tmp_path).classes == ("rose", "test")
    assert described(source, tmp_path).columns == ()


def test_splits_beside_other_folders_are_refused_rather_than_lost(tmp_path: Path) -> None:
    put(tmp_path, "train/rose/1.png", "test/rose/2.png", "__MACOSX/3.png")
    source = chosen("folder", path=".")
    assert [row["split"] for row in rows(source, tmp_path)] == ["test", "train"]
    put(tmp_path, "models/1.png")
    with pytest.raises(DataError, match=r"the splits test, train beside models; move .* ingest\.source\.path"):
        described(source, tmp_path)


def test_a_manifest_gives_labels_captions_and_splits(tmp_path: Path) -> None:
    put(tmp_path, "img/1.png", "img/2.png", "img/3.png", "left-over.png")
    lines = ["file_name,label,text,split", 'img/2.png,rose,"a red, red rose",train', "img/1.png,aster,,val"]
    (tmp_path / "metadata.csv").write_text("\ufeff" + "\n".join([*lines, "img/3.png,rose,again,test", "img/9.png,,,"]))
    source = chosen("folder", path=".")
    about = described(source, tmp_path)
    assert (about.classes, about.columns) == (("aster", "rose"), ("split", "text"))
    found = [(row["image"]["path"], row["label"], row["split"], row["text"]) for row in rows(source, tmp_path)]
    assert found == [
        ("img/2.png", 1, "train", "a red, red rose"),
        ("img/1.png", 0, "validation", None),
        ("img/3.png", 1, "test", "again"),
        ("img/9.png", None, None, None),  # it is not there, and has no bytes
        ("left-over.png", None, None, None),
    ]
    assert [row["image"]["bytes"] is None for row in rows(source, tmp_path)] == [False, False, False, True, False]


def test_a_manifest_in_each_split(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "test/2.png")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "one", "label": 10}\n')
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "2.png", "text": "two", "label": 9}\n\n')
    source = chosen("folder", path=".")
    assert described(source, tmp_path).classes == ("9", "10")  # numbers go by their value
    found = {row["image"]["path"]: (row["label"], row["split"], row["text"]) for row in rows(source, tmp_path)}
    assert found == {"train/1.png": (1, "train", "one"), "test/2.png": (0, "test", "two")}


def test_labels_count_though_the_first_line_of_a_manifest_has_none(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "deep/2.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png"}\n{"file_name": "deep/2.png", "label": "rose"}\n')
    assert names(chosen("folder", path="."), tmp_path) == [("1.png", None), ("deep/2.png", 0)]
    assert described(chosen("folder", path="."), tmp_path).classes == ("rose",)


@pytest.mark.parametrize(("listed", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_manifest_may_write_an_accent_otherwise_than_the_folder(tmp_path: Path, listed: Any, written: Any) -> None:
    on_disk, said = (unicodedata.normalize(form, "caf\u00e9.png") for form in (listed, written))
    put(tmp_path, on_disk)
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{said},rose\n", encoding="utf-8")
    assert names(chosen("folder", path="."), tmp_path) == [(on_disk, 0)]
    (row,) = rows(chosen("table", path="metadata.csv"), tmp_path)
    assert row["image"]["bytes"] == (tmp_path / on_disk).read_bytes()


def test_captions_beside_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "rose/1.png", "aster/2.png")
    (tmp_path / "manifest.csv").write_text("file_name,text\nrose/1.png,one\n")
    found = [(row["image"]["path"], row["label"], row["text"]) for row in rows(chosen("folder", path="."), tmp_path)]
    assert found == [("rose/1.png", 1, "one"), ("aster/2.png", 0, None)]


def test_every_file_is_an_example_and_only_hidden_ones_are_not(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "huge.png").write_bytes(bytes(2000))
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    (tmp_path / "again.png").symlink_to("good.png")
    source = chosen("folder", path=".", max_file_bytes=1000)
    found = {row["image"]["path"]: row["image"]["bytes"] for row in rows(source, tmp_path)}
    assert list(found) == ["again.png", "empty.png", "good.png", "huge.png", "notes.txt"]
    assert (found["empty.png"], found["huge.png"], found["notes.txt"]) == (b"", None, b"no image")


def test_a_file_whose_name_is_no_text_is_an_example_too(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(png(PIXELS[1]))
    source = chosen("folder", path=".")
    stored, _ = dataset.add(tmp_path / "data", described(source, tmp_path), rows(source, tmp_path))
    assert [row["image"]["path"] for row in stored.read_rows()] == ["good.png", "\\udcff.png"]


def test_rows_without_bytes_are_known_by_their_path(tmp_path: Path) -> None:
    one, two = ({"image": {"bytes": None, "path": name}} for name in ("one.png", "two.png"))
    assert identify(one, image) != identify(two, image)
    assert identify(one, image) == identify(dict(one), image)


def test_what_leaves_the_folder_or_is_no_file_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", "good.png")
    put(tmp_path, "secret.png")
    source = chosen("folder", path="in")
    (folder / "way-out").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"the link way-out names .*outside of"):
        described(source, tmp_path)
    (folder / "way-out").unlink()
    (folder / "way-round").symlink_to(folder, target_is_directory=True)
    with pytest.raises(DataError, match="way-round is a link to no file"):
        described(source, tmp_path)
    (folder / "way-round").unlink()
    (folder / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"the link loop names .*leads back to itself"):
        described(source, tmp_path)
    (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(DataError, match="pipe is neither file nor folder"):
        described(source, tmp_path)
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        with pytest.raises(DataError, match="socket is neither file nor folder"):
            described(source, tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "deep/../../secret.png"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "in", "good.png")
    put(tmp_path, "secret.png")
    (tmp_path / "in" / "manifest.csv").write_text(f"file_name\n{name}\n")
    with pytest.raises(DataError, match=r"manifest\.csv names .*outside of"):
        rows(chosen("folder", path="in"), tmp_path)
    with pytest.raises(DataError, match=r"manifest\.csv names .*outside of"):
        rows(chosen("table", path="in/manifest.csv"), tmp_path)


def test_a_folder_that_is_absent_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent; ingest\.source says 'photos'"):
        described(chosen("folder", path="photos"), tmp_path)
    (tmp_path / "photos" / ".hidden").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no file"):
        described(chosen("folder", path="photos"), tmp_path)


def test_the_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png")
    source = chosen("folder", path=".")

    def now() -> str:
        found: str = source.module.fingerprint(source.config, tmp_path)
        return found

    seen = [now(), now()]
    (tmp_path / "a" / "1.png").write_bytes(b"other")
    seen.append(now())
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "3.png")
    seen.append(now())
    put(tmp_path, "b/1.png")
    seen.append(now())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_with_columns_of_other_names(tmp_path: Path, ending: str) -> None:
    put(tmp_path / "files", "1.png", "2.png")
    records = [{"image": "1.png", "kind": "rose", "caption": "one"}, {"image": "2.png", "kind": "", "caption": ""}]
    lines = [",".join(records[0]), *(",".join(record.values()) for record in records)]
    lines = [json.dumps(record) for record in records] if ending == "jsonl" else lines
    (tmp_path / f"table.{ending}").write_text("\n".join(lines))
    columns = {"file": "image", "label": "kind", "text": "caption"}
    source = chosen("table", path=f"table.{ending}", folder="files", columns=columns)
    assert described(source, tmp_path).classes == ("rose",)
    assert [(row["label"], row["text"]) for row in rows(source, tmp_path)] == [(0, "one"), (None, None)]
    assert np.array_equal(pixels_of(rows(source, tmp_path)[1]), PIXELS[1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,label\n1.png,2\n", "line 2: 'file_name' is empty or no column"),
        (
            "t.csv",
            "file_name,split\n1.png,train\n2.png,extra\n",
            "line 3 says split 'extra'; known splits: train",
        ),
        ("t.csv", "file_name\n", "holds no row"),
        ("t.csv", b"file_name\n\xff\xfe.png\n", "can't be read as a table"),
        ("t.jsonl", '{"file_name": "1.png"\n', "can't be read as a table"),
        ("t.jsonl", '["1.png"]\n', "line 1, holds .* each must be a JSON object"),
        ("t.jsonl", '{"file_name": "1.png"}\n\n{"file_name": ""}\n', "row at line 3: 'file_name' is empty"),
        ("t.csv", 'file_name,text\n1.png,"one\ntwo"\n,\n', "row at line 4: 'file_name' is empty"),
        ("t.jsonl", '{"file_name": "1\\u0000.png"}\n', r"line 1: 'file_name' holds '1\\x00\.png', which is no text"),
        ("t.jsonl", '{"file_name": "1.png", "text": "\\ud83d"}\n', r"'text' holds '\\ud83d', which is no text"),
    ],
)
def test_a_table_that_is_amiss_is_told_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        described(chosen("table", path=name), tmp_path)


def test_a_folder_in_place_of_a_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(DataError, match=r"t\.csv can't be read as a table: .*directory"):
        described(chosen("table", path="t.csv"), tmp_path)


def test_a_folder_that_grew_adds_only_what_is_new(tmp_path: Path) -> None:
    source = {"kind": "folder", "name": "flowers", "path": "photos", "licence": "CC0-1.0"}
    project = projects.make(tmp_path, ingest={"source": source})
    put(tmp_path / "photos", *(f"rose/{number}.png" for number in range(4)))
    choice = project.section("ingest", ingest.Config).source

    def bring() -> tuple[dataset.Stored, int]:
        return dataset.add(project.data, described(choice, tmp_path), choice.module.rows(choice.config, tmp_path))

    assert bring()[1] == 4
    put(tmp_path / "photos", *(f"rose/{number}.png" for number in range(7)))
    stored, added = bring()
    assert (stored.rows, added, stored.about.licence) == (7, 3, "CC0-1.0")
    assert bring()[1] == 0
