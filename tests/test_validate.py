"""validate on a folder as people have them: every bad file is named with its reason, no good one is lost."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from genpipe.data import dataset
from genpipe.data.arrays import Arrays
from genpipe.data.dataset import Row
from genpipe.errors import ConfigError, DataError
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.stages import check, validate
from tests import pictures, projects

BAD = {
    "animated.gif": "animated or several pages",
    "empty.png": "can't be decoded",
    "floating.tif": "can't be decoded",
    "heavy.bmp": "can't be decoded",
    "huge.png": "can't be decoded; width out of range; height out of range",
    "one_pixel.png": "width out of range; height out of range; every pixel is the same",
    "page.jpg": "can't be decoded",
    "plain.png": "every pixel is the same",
    "truncated.jpg": "can't be decoded",
    "truncated.png": "can't be decoded",
    "vast.png": "can't be decoded; width out of range",
    "vast.ppm": "can't be decoded; width out of range; height out of range",
    "wide.png": "width out of range",
    "your copy.png": "the same content as another row",
    "zero.jpg": "can't be decoded",
}
ERRORS = {
    "empty.png": "of no known image format",
    "floating.tif": "levels of floating point, whose range nothing tells",
    "heavy.bmp": "not read: the file is absent, or larger than ingest.source.max_file_bytes allows",
    "huge.png": "too large: 60000 × 60000 pixels; at most 50,000,000 are decoded",
    "page.jpg": "of no known image format",
    "vast.png": "too large: 4294967295 × 7 pixels; at most 50,000,000 are decoded",
    "vast.ppm": "too large: 9999999999 × 1 pixels; at most 50,000,000 are decoded",
    "zero.jpg": "empty: not one byte",
}


def photograph(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 16, 3), np.uint8))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims so many pixels and holds none."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + b"123456789" + bytes(4)


def good_files() -> Iterator[tuple[str, bytes]]:
    for number in range(40):
        yield f"photograph{number:02d}.png", saved(photograph(number), "PNG")
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    yield "cmyk.jpg", saved(photograph(50).convert("CMYK"), "JPEG")
    deep = np.random.default_rng(51).integers(0, 65536, (20, 16), np.uint16)
    yield "deep.png", saved(Image.fromarray(deep), "PNG")
    yield "misnamed.png", saved(photograph(52), "JPEG")
    yield "palette.gif", saved(photograph(53).convert("P"), "GIF")
    yield "rotated.jpg", saved(photograph(54), "JPEG", exif=upside_down)
    yield "see_through.png", saved(photograph(55).convert("RGBA"), "PNG")
    yield "strokes.tif", saved(photograph(56).convert("1"), "TIFF")
    yield "modern.webp", saved(photograph(57), "WEBP")
    yield "grey.jpeg", saved(photograph(58).convert("L"), "JPEG")


def bad_files() -> Iterator[tuple[str, bytes]]:
    yield "animated.gif", saved(photograph(60), "GIF", save_all=True, append_images=[photograph(61)])
    yield "your copy.png", saved(photograph(7), "PNG", compress_level=1)  # the same pixels, other bytes
    yield "empty.png", bytes(500)
    yield "floating.tif", saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    yield "heavy.bmp", saved(photograph(63).resize((200, 200)), "BMP")
    yield "huge.png", header_of(60_000, 60_000)
    yield "one_pixel.png", saved(photograph(64).crop((0, 0, 1, 1)), "PNG")
    yield "page.jpg", b"<!DOCTYPE html><title>404 Not Found</title>"
    yield "plain.png", saved(Image.new("RGB", (20, 16), "teal"), "PNG")
    yield "truncated.jpg", saved(photograph(65), "JPEG")[:-200]
    yield "truncated.png", saved(photograph(66), "PNG")[:-200]
    yield "vast.png", header_of(4294967295, 7)  # more than 32 bits with a sign hold
    yield "vast.ppm", b"P5 9999999999 1 255 "
    yield "wide.png", saved(photograph(67).resize((5000, 10)), "PNG")
    yield "zero.jpg", b""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The folder, taken in by its source, validated and made into arrays."""
    project = projects.make(
        tmp_path_factory.mktemp("photographs"),
        validate={"max_quarantined": 0.25, "min_accepted": 40},
        augment={"prepare": {"size": 16, "colour": "rgb"}},
    )
    files = dict([*good_files(), *bad_files()])
    (project.root / "pictures").mkdir()
    for name, content in files.items():
        (project.root / "pictures" / name).write_bytes(content)
    source = pictures.chosen("folder", path="pictures", max_file_bytes=100_000)
    about = pictures.described(source, project.root)
    dataset.add(project.data, about, source.module.rows(source.config, project.root))
    projects.run(project, "validate", "augment")
    return project


def output(project: Project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.artifacts / "validate" / f"{name}.parquet")


def test_every_bad_file_is_named_with_its_reason(found: Project) -> None:
    quarantine = output(found, "quarantine").set_index("path")
    assert quarantine["reason"].to_dict() == BAD
    errors = quarantine["error"].dropna().to_dict()
    assert {name: error for name, error in errors.items() if not name.startswith("truncated")} == ERRORS
    assert errors["truncated.jpg"].startswith("image file is truncated")


def test_no_good_file_is_lost(found: Project) -> None:
    manifest = output(found, "manifest").set_index("row")
    accepted = manifest.loc[output(found, "accepted")["row"], "path"]
    assert set(accepted) == {name for name, _ in good_files()}
    splits = [Arrays(found.artifacts / "augment" / split) for split in ("train", "validation", "test")]
    assert sum(arrays.rows for arrays in splits) == len(accepted)
    assert {arrays["image"].shape[1:] for arrays in splits} == {(3, 16, 16)}


def test_the_manifest_measures_every_row(found: Project) -> None:
    manifest = output(found, "manifest").set_index("path")
    assert len(manifest) == 64
    noted = manifest.loc[["cmyk.jpg", "deep.png", "misnamed.png", "strokes.tif"], ["format", "mode"]]
    assert noted.to_numpy().tolist() == [["JPEG", "CMYK"], ["PNG", "I;16"], ["JPEG", "RGB"], ["TIFF", "1"]]
    assert manifest.index[manifest["misnamed"].fillna(False)].tolist() == ["misnamed.png"]
    assert manifest.loc["your copy.png", "duplicate_of"] == manifest.loc["photograph07.png", "row"]
    assert manifest["duplicate_of"].notna().sum() == 1
    assert manifest.loc["huge.png", ["width", "height"]].tolist() == [60_000, 60_000]
    assert manifest.loc["animated.gif", "frames"] == 2
    pixels = np.asarray(photograph(3))
    wanted = [16, 20, len(saved(photograph(3), "PNG")), pytest.approx(pixels.mean()), pytest.approx(pixels.std())]
    assert manifest.loc["photograph03.png", ["width", "height", "bytes", "mean", "deviation"]].tolist() == wanted


def test_result_json_tells_each_rule_with_its_action_and_count(found: Project) -> None:
    result = json.loads((found.artifacts / "validate" / "result.json").read_text())
    assert (result["rows"], result["quarantined"], result["decision"]) == (64, 15, "pass with quarantine")
    told = {(rule["reason"], rule["action"]): rule["bad"] for rule in result["rules"]}
    assert told["can't be decoded", "quarantine"] == 10
    assert told["its name says another format", "report"] == 1


def test_pages_tell_of_these_outputs_only(found: Project) -> None:
    pages = validate.pages(found)
    assert list(pages) == ["Data Docs", "rows 0 to 63"]  # no class, so that no rule is about the whole
    assert "of no known image format" in pages["rows 0 to 63"].read_text()
    file = found.artifacts / "validate" / "result.json"
    before = file.read_text()
    file.write_text(before.replace("64", "65"))
    assert validate.pages(found) == {}
    file.write_text(before)


def rows(count: int) -> list[Row]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 12), np.uint8)
    return [{**image.encode(one), "label": number % 10} for number, one in enumerate(pixels)]


def edited(project: Project, **entry: object) -> Project:
    """The project with one more rule in its suite."""
    file = project.root / "suites" / "image.yaml"
    entries = [one for one in yaml.safe_load(file.read_text()) if one["column"] != entry.get("column")]
    file.write_text(yaml.safe_dump([*entries, entry]))
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return projects.make(tmp_path, validate={"min_accepted": 10, "max_quarantined": 0.5})


DIGITS = dataset.Dataset("some", "image", "none", "none", "made here", tuple("0123456789"))
NEAR = {
    "expectation": "expect_column_values_to_be_null",
    "column": "near_duplicate_of",
    "reason": "looks the same",
}


def test_near_duplicates_are_reported_until_the_suite_quarantines_them(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    some = rows(30)
    pixels = image.decode(some[4])[..., 0]
    other = Image.fromarray(pixels ^ 1)  # every level one up or down
    projects.with_rows(project, DIGITS, [*some, {**image.encode(np.asarray(other)), "label": 4}])
    projects.run(project, "validate")
    assert "reported, not set aside: 1 row (looks nearly the same as an earlier row)" in capsys.readouterr().out
    manifest = output(project, "manifest")
    assert manifest["near_duplicate_of"].dropna().to_dict() == {30: 4}
    assert len(output(project, "accepted")) == 31
    projects.run(edited(project, **NEAR, action="quarantine"), "validate")
    assert output(project, "quarantine")[["row", "reason"]].to_numpy().tolist() == [[30, "looks the same"]]


def test_a_rule_may_stop_the_run_before_training(project: Project) -> None:
    projects.with_rows(project, DIGITS, rows(30))
    dark = {"expectation": "expect_column_mean_to_be_between", "column": "mean", "min_value": 200}
    edited(project, **dark, reason="too dark", action="stop")
    with pytest.raises(DataError, match=r"too dark \(expect_column_mean_to_be_between on 'mean', found 12\d\.") as told:
        projects.run(project, "validate")
    assert "which the suite says stops the run; each bad row stands in" in str(told.value)
    assert json.loads((project.artifacts / "validate" / "result.json").read_text())["decision"] == "stop"
    sharp = {"expectation": "expect_column_values_to_be_between", "column": "deviation", "min_value": 73.5}
    few = projects.run(edited(project, **dark, reason="too dark", action="report"), "validate")
    assert few == {"validate": {"rows": 30, "quarantined": 0}}
    assert output(project, "manifest")["deviation"].lt(73.5).any()
    with pytest.raises(DataError, match=r"\d+ × blurred, which the suite says stops the run"):
        projects.run(edited(project, **sharp, reason="blurred", action="stop"), "validate")
    projects.run(edited(project, **sharp, mostly=0.1, reason="blurred", action="stop"), "validate")


def test_a_faulty_suite_is_told_before_anything_runs(project: Project) -> None:
    params = {**project.params, "train": {"generator": {"kind": "gan"}}}
    (project.root / "params.yaml").write_text(yaml.safe_dump(params))
    check(Project(project.root))
    edited(project, **{**NEAR, "column": "colour"}, action="report")
    with pytest.raises(ConfigError, match=r"suites/image.yaml, entry 12: column is 'colour'; columns of values are"):
        check(Project(project.root))
    (project.root / "suites" / "image.yaml").unlink()
    with pytest.raises(ConfigError, match=r"suites/image.yaml is absent"):
        check(Project(project.root))


def test_a_good_copy_of_a_row_with_a_wrong_label_is_kept(project: Project) -> None:
    first, *others = rows(30)
    projects.with_rows(project, DIGITS, [{**first, "label": 77}, *others, first, first])
    projects.run(project, "validate")
    quarantine = output(project, "quarantine").set_index("row")["reason"]
    assert quarantine.to_dict() == {
        0: "the same content as another row; unknown label",
        31: "the same content as another row",
    }


def test_chunks_and_shards_change_nothing_but_the_pages(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    some, outputs = rows(40), []
    some += [{"image": {"bytes": b"", "path": None}, "label": 0}, some[3]]
    for count in (10, 20, 30, 40, 42):  # a shard each
        projects.with_rows(project, DIGITS, some[:count])
    for size in (100_000, 15):
        monkeypatch.setattr(validate, "CHUNK_ROWS", size)
        projects.run(project, "validate")
        outputs.append([output(project, name) for name in ("manifest", "accepted", "quarantine")])
    for whole, chunked in zip(*outputs, strict=True):
        pd.testing.assert_frame_equal(whole, chunked, check_categorical=False)
    assert list(validate.pages(project)) == [
        "Data Docs",
        "rows 0 to 19",
        "rows 20 to 39",
        "rows 40 to 41",
        "accepted rows",
    ]
    assert pq.ParquetFile(project.artifacts / "validate" / "manifest.parquet").num_row_groups == 3


def test_only_new_shards_are_measured(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    some, asked = rows(60), []
    describe = image.describe
    monkeypatch.setattr(image, "describe", lambda row: asked.append(row) or describe(row))
    projects.with_rows(project, DIGITS, some[:40])
    projects.run(project, "validate")
    projects.with_rows(project, DIGITS, some)
    projects.run(project, "validate")
    assert len(asked) == 60
    assert len(output(project, "accepted")) == 60


def test_a_suite_without_rules_about_rows_sets_nothing_aside(tmp_path: Path) -> None:
    project = projects.with_rows(projects.make(tmp_path, validate={"min_accepted": 1}), DIGITS, rows(5))
    entry = "{expectation: expect_table_row_count_to_be_between, min_value: 1, reason: empty, action: stop}"
    (tmp_path / "suites" / "image.yaml").write_text(f"- {entry}\n")
    assert projects.run(project, "validate")["validate"] == {"rows": 5.0, "quarantined": 0.0}


def test_a_dataset_whose_last_row_was_removed_is_refused_in_words(tmp_path: Path) -> None:
    project = projects.with_rows(projects.make(tmp_path), DIGITS, rows(2))
    dataset.remove(project.data, [row["id"] for row in dataset.Stored.find(project.data).read_rows(["id"])])
    with pytest.raises(DataError, match="holds no example any more"):
        projects.run(project, "validate")


def test_a_full_disk_is_told_and_leaves_the_earlier_outputs(tmp_path: Path) -> None:
    project = projects.with_rows(projects.make(tmp_path, validate={"min_accepted": 1}), DIGITS, rows(5))
    projects.run(project, "validate")
    outputs = {file: file.read_bytes() for file in (project.artifacts / "validate").iterdir()}
    projects.with_rows(project, DIGITS, rows(400))
    program = (
        "import resource, sys; from pathlib import Path; from tests import projects; "
        "from genpipe.project import Project; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)); "
        "projects.run(Project(Path(sys.argv[1])), 'validate')"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DataError: no room to write" in done.stderr
    assert {file: file.read_bytes() for file in (project.artifacts / "validate").iterdir()} == outputs
