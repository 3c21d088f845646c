"""validate and augment on real files: bad rows are set aside with a reason, good ones are split by content."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.dataset import Row
from genpipe.errors import DataError
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.sources import digits
from genpipe.stages.augment import split_of
from tests import projects

ABOUT = replace(digits.DATASET, name="mixed")
FEW = {"validate": {"min_accepted": 10, "max_quarantined": 0.2}}


def good(count: int, seed: int = 0) -> list[Row]:
    draw = np.random.default_rng(seed)
    return [{**image.encode(draw.integers(0, 256, (6, 5), np.uint8)), "label": n % 10} for n in range(count)]


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> Row:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return {"image": {"bytes": buffer.getvalue(), "path": None}, "label": 1}


@pytest.fixture
def mixed(tmp_path: Path) -> Project:
    """60 good pictures and one of each fault."""
    first = good(60)
    ramp = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6))
    truncated = {**first[0], "image": {"bytes": first[1]["image"]["bytes"][:-30], "path": None}}
    faulty = [
        truncated,
        {"image": {"bytes": b"", "path": None}, "label": 1},
        encoded(Image.new("L", (6, 5), 7)),
        encoded(ramp, "GIF", save_all=True, append_images=[ramp.rotate(180)]),
        encoded(Image.fromarray(np.arange(2, dtype=np.uint8).reshape(2, 1))),
        {**good(1, seed=9)[0], "label": 11},
        first[5],
    ]
    project = projects.make(tmp_path, **FEW)
    return projects.with_rows(project, ABOUT, first + faulty)


def test_every_bad_row_is_quarantined_with_its_reason_and_no_good_one(mixed: Project) -> None:
    projects.run(mixed, "validate")
    quarantine = pd.read_parquet(mixed.artifacts / "validate" / "quarantine.parquet").set_index("row")["reason"]
    assert quarantine[60] == "can't be decoded"
    assert quarantine[61] == "can't be decoded"
    assert quarantine[62] == "every pixel is the same"
    assert quarantine[63] == "animated or several pages"
    assert quarantine[64] == "width out of range"
    assert quarantine[65] == "unknown label"
    assert quarantine[66] == "the same content as another row"
    accepted = pd.read_parquet(mixed.artifacts / "validate" / "accepted.parquet")
    assert accepted["row"].tolist() == list(range(60))


def test_great_expectations_says_the_same_and_writes_its_pages(mixed: Project) -> None:
    projects.run(mixed, "validate")
    result = json.loads((mixed.artifacts / "validate" / "result.json").read_text())
    assert result["decision"] == "pass with quarantine"
    bad = {(rule["expectation"], rule["column"]): rule.get("bad") for rule in result["rules"]}
    assert bad["expect_column_values_to_be_null", "error"] == 2
    assert bad["expect_column_values_to_be_in_set", "label"] == 1
    assert "Data Docs" in (mixed.state / "data_docs" / "index.html").read_text()


def test_too_many_bad_rows_stop_the_run_and_say_which(mixed: Project) -> None:
    strict = projects.make(mixed.root, validate={"min_accepted": 10, "max_quarantined": 0.01})
    with pytest.raises(
        DataError, match=r"7 of 67 rows are bad \(2 × can't be decoded.*max_quarantined allows a share of 0.01"
    ):
        projects.run(strict, "validate")
    assert (strict.artifacts / "validate" / "quarantine.parquet").exists()


def test_the_outputs_of_validate_hold_no_time(mixed: Project) -> None:
    def outputs() -> dict[str, bytes]:
        projects.run(mixed, "validate")
        return {file.name: file.read_bytes() for file in (mixed.artifacts / "validate").iterdir()}

    assert outputs() == outputs()


def test_rows_are_split_by_content_and_keep_their_split_when_data_grow(tmp_path: Path) -> None:
    project = projects.with_rows(projects.make(tmp_path, **FEW), ABOUT, good(200))
    projects.run(project, "validate", "augment")
    before = {
        split: set(Arrays(project.artifacts / "augment" / split)["id"]) for split in ("train", "validation", "test")
    }
    projects.run(projects.with_rows(project, ABOUT, good(200) + good(100, seed=1)), "validate", "augment")
    after = {split: set(Arrays(project.artifacts / "augment" / split)["id"]) for split in before}
    assert sum(len(ids) for ids in after.values()) == 300
    assert all(before[split] <= after[split] for split in before)


def test_split_shares_by_hand() -> None:
    def split(start: str, given: str | None = None, *published: str) -> str:
        return split_of(start.ljust(32, "0"), given, 0.1, 0.2, published)

    assert split("00") == "test"
    assert split("33") == "test"  # 51 / 256 = 0.199
    assert split("34") == "validation"  # 52 / 256 = 0.203
    assert split("4d") == "train"  # 77 / 256 = 0.301
    assert [split("00", given, "train", "test") for given in ("train", "test", None)] == ["train", "test", "test"]
    assert split("34", "train", "train", "test") == "validation"  # of which the publisher has none
    assert split("34", "train", "train", "validation", "test") == "train"
    assert split("00", "train", "train") == "test"
    assert split("ff", "validation", "train") == "validation"


def test_arrays_hold_the_accepted_pixels_and_labels(mixed: Project) -> None:
    projects.run(mixed, "validate", "augment")
    assert DataSpec.read(mixed.artifacts / "augment" / "meta.json") == DataSpec(
        "image", (1, 6, 5), digits.DATASET.classes
    )
    train = Arrays(mixed.artifacts / "augment" / "train")
    wanted = {image.decode(row).tobytes(): row["label"] for row in good(60)}
    assert [wanted[pixels.tobytes()] for pixels in train["image"]] == train["label"].tolist()


def test_a_corrected_licence_reaches_the_arrays_and_trains_nothing_anew(mixed: Project) -> None:
    projects.run(mixed, "validate", "augment")
    folder, read = mixed.artifacts / "augment", ("meta.json", "train/image.npy", "validation/image.npy")
    before = {name: (folder / name).read_bytes() for name in read}
    projects.with_rows(mixed, replace(ABOUT, licence="CC0"), [])
    projects.run(mixed, "validate", "augment")
    assert json.loads((folder / "origin.json").read_text())["licence"] == "CC0"
    assert {name: (folder / name).read_bytes() for name in read} == before


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    rows = [*good(60), encoded(Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 8), np.uint8)))]
    project = projects.with_rows(projects.make(tmp_path, **FEW), ABOUT, rows)
    with pytest.raises(DataError, match=r"row 60 has shape \(1, 9, 8\), the first has \(1, 6, 5\); augment.prepare"):
        projects.run(project, "validate", "augment")
    sized = projects.make(tmp_path, augment={"prepare": {"size": 8, "colour": "rgb"}}, **FEW)
    projects.run(sized, "augment")
    assert DataSpec.read(sized.artifacts / "augment" / "meta.json").shape == (3, 8, 8)


def test_the_preview_shows_originals_and_three_changes_of_each(tmp_path: Path) -> None:
    changes = {"augmentation": {"rotation_degrees": 20, "crop": 0.1, "flip": True, "noise": 0.05}}
    project = projects.with_rows(projects.make(tmp_path, augment=changes, **FEW), ABOUT, good(60))
    projects.run(project, "validate", "augment")
    drawn = np.asarray(Image.open(project.artifacts / "augment" / "preview.png"))
    rows = np.split(drawn[8:], 4)  # below the frame, which is enlarged eightfold
    assert not any(np.array_equal(rows[0], changed) for changed in rows[1:])
