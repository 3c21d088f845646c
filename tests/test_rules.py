"""The suite: each rule's mask counts what Great Expectations counts; a fault in the file is told with its entry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from genpipe.data import manifest, suite
from genpipe.data.rules import MASKS, WHOLE, Rule
from genpipe.errors import ConfigError, DataError
from genpipe.expectations import Outcome, Pages, added
from genpipe.modalities import image
from genpipe.stages.validate import check_counts

NULL = "expect_column_values_to_be_null"
BETWEEN = "expect_column_values_to_be_between"


def rule(expectation: str, column: str | None, action: str = "report", **options: object) -> Rule:
    return Rule(expectation, column, "why", action, options)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({
        "width": pd.array([1, 2, 3, None, 5], "Int32"),
        "mean": np.array([0.5, np.nan, 2, 3, 4], np.float32),
        "constant": pd.array([True, False, None, False, False], "boolean"),
        "mode": pd.Series(["L", "RGB", None, "L", "CMYK"], dtype="category"),
        "path": pd.Series(["a.png", "b.jpg", None, "cc.png", ""], dtype="str"),
        "error": pd.Series([None] * 5, dtype="str"),
    })  # fmt: skip


# What each breaks in the table above, by hand.
BROKEN = [
    (rule(NULL, "error"), []),
    (rule(NULL, "path"), [0, 1, 3, 4]),
    (rule("expect_column_values_to_not_be_null", "width"), [3]),
    (rule("expect_column_values_to_not_be_null", "error"), [0, 1, 2, 3, 4]),
    (rule(BETWEEN, "width", min_value=2, max_value=3), [0, 4]),
    (rule(BETWEEN, "width", min_value=2, strict_min=True), [0, 1]),
    (rule(BETWEEN, "mean", max_value=3, strict_max=True), [3, 4]),
    (rule("expect_column_values_to_be_in_set", "mode", value_set=["L", "RGB"]), [4]),
    (rule("expect_column_values_to_be_in_set", "constant", value_set=[False]), [0]),
    (rule("expect_column_values_to_be_in_set", "width", value_set=[1, 5]), [1, 2]),
    (rule("expect_column_values_to_not_be_in_set", "mode", value_set=["CMYK", "L"]), [0, 3, 4]),
    (rule("expect_column_values_to_match_regex", "path", regex=r"^[a-c]\.png$"), [1, 3, 4]),
    (rule("expect_column_values_to_not_match_regex", "mode", regex="K|G"), [1, 4]),
    (rule("expect_column_value_lengths_to_be_between", "path", min_value=1, max_value=5), [3, 4]),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(tmp_path_factory.mktemp("pages"))


def test_masks_are_as_by_hand_and_great_expectations_counts_the_same(table: pd.DataFrame, pages: Pages) -> None:
    rules = [one for one, _ in BROKEN]
    assert {one.expectation for one in rules} == set(MASKS)
    assert [np.flatnonzero(one.broken(table)).tolist() for one in rules] == [rows for _, rows in BROKEN]
    outcomes = pages.hold(rules, "masks", table, "by hand")
    assert [one.bad for one in outcomes] == [len(rows) for _, rows in BROKEN]
    assert [one.success for one in outcomes] == [not rows for _, rows in BROKEN]
    check_counts(rules, outcomes, [one.broken(table) for one in rules])


def test_a_mask_that_disagrees_is_an_error(table: pd.DataFrame, pages: Pages) -> None:
    one = rule(BETWEEN, "width", min_value=3)
    outcomes = pages.hold([one], "disagreement", table, "first")
    with pytest.raises(DataError, match="Great Expectations counts 2 bad rows, the mask 1; the rule's mask"):
        check_counts([one], outcomes, [one.broken(table.iloc[1:])])


def test_every_expectation_about_the_whole_can_be_computed(table: pd.DataFrame, pages: Pages) -> None:
    options = {
        "value_set": {"value_set": ["L"]},
        "partition_object": {"partition_object": {"values": ["L", "RGB", "CMYK"], "weights": [0.5, 0.25, 0.25]},
                             "threshold": 0.1},
        "min_value": {"min_value": 1},
    }  # fmt: skip
    rules = [
        rule(name, None if one.of == "nothing" else "width" if one.of == "numbers" else "mode",
             **next(given for option, given in options.items() if option in one.options))
        for name, one in WHOLE.items()
    ]  # fmt: skip
    found = dict(zip(WHOLE, pages.hold(rules, "whole", table, "by hand"), strict=True))
    assert found["expect_table_row_count_to_be_between"].observed == 5
    assert found["expect_column_mean_to_be_between"].observed == 2.75
    assert found["expect_column_unique_value_count_to_be_between"].observed == 3
    assert found["expect_column_proportion_of_non_null_values_to_be_between"].observed == 0.8
    refused = {name for name, one in found.items() if not one.success}
    assert refused == {
        "expect_column_proportion_of_unique_values_to_be_between",
        "expect_column_proportion_of_non_null_values_to_be_between",
    }


def test_chunks_add_up_and_mostly_is_meant_of_all_rows(table: pd.DataFrame, pages: Pages) -> None:
    one = rule(BETWEEN, "width", min_value=2, mostly=0.75)
    outcomes = [pages.hold([one], "chunks", part, "part")[0] for part in (table.iloc[:2], table.iloc[2:])]
    assert [(each.rows, each.bad, each.success) for each in outcomes] == [(2, 1, False), (2, 0, True)]
    assert added(one, outcomes) == Outcome(rows=4, bad=1, success=True)
    assert not added(replace(one, options={"min_value": 2, "mostly": 0.76}), outcomes).success


def test_an_expectation_that_fails_to_compute_is_no_pass(table: pd.DataFrame, pages: Pages) -> None:
    with pytest.raises(DataError, match=r"expect_column_mean_to_be_between on 'mode' can't be computed"):
        pages.hold([rule("expect_column_mean_to_be_between", "mode", min_value=0)], "impossible", table, "first")


def faults(folder: Path, text: str) -> list[str]:
    (folder / "suites").mkdir(exist_ok=True)
    (folder / "suites" / "image.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        suite.read(folder, image)
    return list(told.value.faults)


def fault(folder: Path, **entry: object) -> str:
    """The one fault of a good entry followed by this one, whose missing keys are those of a good one."""
    good = {"expectation": NULL, "column": "error", "reason": "broken", "action": "quarantine"}
    (told,) = faults(folder, yaml.safe_dump([good, {**good, "column": "path", **entry}]))
    return told


def test_the_repository_s_own_suites_are_right() -> None:
    root = Path(__file__).resolve().parents[1]
    rules = suite.read(root, image)
    assert {one.column for one in rules} <= {field.name for field in manifest.fields(image)}
    assert {"error", "width", "height", "frames", "constant", "duplicate_of", "label"} <= {
        one.column for one in rules if one.action == "quarantine"
    }


def test_faults_of_an_entry_name_the_file_the_entry_and_what_is_allowed(tmp_path: Path) -> None:
    place = "suites/image.yaml, entry 2: "
    assert fault(tmp_path, expectation="expect_nothing").startswith(
        f"{place}expectation is 'expect_nothing'; about rows: expect_column_values_to_be_null, "
    )
    told = fault(tmp_path, column="wdith")
    assert told.startswith(f"{place}column is 'wdith'; columns of values are row, id, label, ")
    assert "width" in told
    told = fault(tmp_path, expectation=BETWEEN, column="mode", min_value=1)
    assert told.startswith(f"{place}column is 'mode'; columns of numbers are row, label, bytes, ")
    assert fault(tmp_path, action="delete") == f"{place}action is 'delete'; allowed: quarantine, stop, report"
    assert fault(tmp_path, reason="").startswith(f"{place}reason is missing")
    assert fault(tmp_path, min_value=1) == f"{place}min_value is not an option of it; options: none"
    assert fault(tmp_path, expectation=BETWEEN, column="width") == f"{place}it needs min_value or max_value"
    told = fault(tmp_path, expectation=BETWEEN, column="width", max_value="large")
    assert told == f"{place}max_value is 'large'; it must be a number"
    told = fault(tmp_path, expectation="expect_column_values_to_match_regex", regex="(")
    assert told == f"{place}regex is '('; it must be a regular expression"
    told = fault(tmp_path, expectation="expect_column_values_to_be_in_set", column="mode", value_set="classes")
    assert told == f"{place}value_set is 'classes', which is for the column label; here it must be a list"
    told = fault(tmp_path, expectation="expect_column_values_to_be_in_set", column="mode")
    assert told == f"{place}value_set is missing, which it needs"


def test_a_rule_about_the_whole_cannot_quarantine_and_a_quarantine_sets_every_bad_row_aside(tmp_path: Path) -> None:
    place = "suites/image.yaml, entry 2: "
    told = fault(tmp_path, expectation="expect_column_mean_to_be_between", column="mean", min_value=3)
    assert told == (
        f"{place}action is 'quarantine'; allowed: stop, report (expect_column_mean_to_be_between is about all rows "
        "together)"
    )
    told = fault(tmp_path, mostly=0.9)
    assert told == f"{place}mostly is not an option of it; options: none"
    told = fault(tmp_path, mostly=2, action="stop")
    assert told == f"{place}mostly is 2; it must be a share from 0 to 1"
    told = fault(tmp_path, expectation="expect_table_row_count_to_be_between", min_value=3, action="stop")
    assert told == (
        f"{place}column is 'path'; expect_table_row_count_to_be_between is about the number of rows and takes none"
    )


def test_faults_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suites/image.yaml is absent.*take it from a new project"):
        suite.read(tmp_path, image)
    assert faults(tmp_path, "rules: [")[0].startswith("suites/image.yaml: ")
    assert faults(tmp_path, "a: 1")[0].startswith("suites/image.yaml must be a list of entries such as `- {expect")
    assert faults(tmp_path, "- width")[0].startswith("suites/image.yaml, entry 1: is 'width'; it must be a mapping")
    entry = f"- {{expectation: {NULL}, column: error, reason: broken, action: quarantine}}\n"
    again = entry.replace("quarantine", "stop")
    (told,) = faults(tmp_path, entry + again)
    assert told == "suites/image.yaml, entry 2: the expectation of entry 1 again; let one entry say it"
    assert "expectation is ['a']" in faults(tmp_path, "- expectation: [a]")[0]
    both = f"- {{expectation: {NULL}, column: no, reason: broken, action: no}}"
    assert len(faults(tmp_path, both)) == 2  # all are told at once


def test_labels_are_those_of_the_classes_and_of_no_concern_without_any() -> None:
    rules = [
        rule("expect_column_values_to_be_in_set", "label", value_set="classes"),
        rule("expect_column_values_to_not_be_null", "label"),
        rule(NULL, "error"),
    ]
    assert suite.for_classes(rules, 3)[0].options == {"value_set": [0, 1, 2]}
    assert suite.for_classes(rules, 3)[1:] == rules[1:]
    assert suite.for_classes(rules, 0) == rules[2:]
