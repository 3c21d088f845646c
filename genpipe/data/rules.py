"""What data must fulfil. Each rule gives a Great Expectations expectation and, where it is about single rows, the mask
of those that break it, so that the rows set aside are the rows that the expectation counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd


@dataclass(frozen=True)
class Rule:
    """One entry of a suite. `options` are those of the expectation; `reason` is what people read."""

    expectation: str
    column: str | None
    reason: str
    action: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about_rows(self) -> bool:
        """Whether single rows break it; other rules are about all accepted rows together."""
        return self.expectation in MASKS

    def broken(self, table: pd.DataFrame) -> "pd.Series[bool]":
        """Which rows break the rule; as in Great Expectations a missing value breaks none but a rule about missing."""
        options = {name: value for name, value in self.options.items() if name != "mostly"}
        mask: pd.Series[bool] = MASKS[self.expectation].broken(table[self.column], **options).astype(bool)
        return mask

    def holds(self, rows: int, bad: int) -> bool:
        """Whether `bad` rows of `rows` that have a value are few enough: none, or the share that `mostly` leaves."""
        return rows == 0 or (rows - bad) / rows >= self.options.get("mostly", 1)


def present(values: pd.Series) -> pd.Series:
    return values.notna()


def absent(values: pd.Series) -> pd.Series:
    return values.isna()


def outside(
    values: pd.Series,
    min_value: float | None = None,
    max_value: float | None = None,
    strict_min: bool = False,
    strict_max: bool = False,
) -> pd.Series:
    inside = values.notna()
    if min_value is not None:
        inside &= (values > min_value if strict_min else values >= min_value).fillna(False)
    if max_value is not None:
        inside &= (values < max_value if strict_max else values <= max_value).fillna(False)
    return values.notna() & ~inside


def foreign(values: pd.Series, value_set: list[Any]) -> pd.Series:
    return values.notna() & ~values.isin(value_set)


def forbidden(values: pd.Series, value_set: list[Any]) -> pd.Series:
    return values.notna() & values.isin(value_set)


def unlike(values: pd.Series, regex: str) -> pd.Series:
    return values.notna() & ~like(values, regex)


def like(values: pd.Series, regex: str) -> pd.Series:
    return values.notna() & values.astype("str").str.contains(regex, na=False)


def of_other_length(values: pd.Series, min_value: int | None = None, max_value: int | None = None) -> pd.Series:
    return outside(values.astype("str").str.len(), min_value, max_value)


class Mask(NamedTuple):
    """The rows that break an expectation, whose options are the further arguments of `broken`."""

    broken: Callable[..., pd.Series]
    of: str = "values"  # what its column must hold: any values, numbers or text


MASKS: Mapping[str, Mask] = {
    "expect_column_values_to_be_null": Mask(present),
    "expect_column_values_to_not_be_null": Mask(absent),
    "expect_column_values_to_be_between": Mask(outside, "numbers"),
    "expect_column_values_to_be_in_set": Mask(foreign),
    "expect_column_values_to_not_be_in_set": Mask(forbidden),
    "expect_column_values_to_match_regex": Mask(unlike, "text"),
    "expect_column_values_to_not_match_regex": Mask(like, "text"),
    "expect_column_value_lengths_to_be_between": Mask(of_other_length, "text"),
}


class Whole(NamedTuple):
    """The options of an expectation about all rows together."""

    options: tuple[str, ...]
    of: str = "values"


BOUNDS = ("min_value", "max_value")
# Great Expectations 1.24 can't write the pages of others, such as those about quantiles or an exact set of values.
WHOLE: Mapping[str, Whole] = {
    "expect_table_row_count_to_be_between": Whole(BOUNDS, "nothing"),
    **{
        f"expect_column_{figure}_to_be_between": Whole((*BOUNDS, "strict_min", "strict_max"), "numbers")
        for figure in ("mean", "median", "stdev", "sum", "min", "max")
    },
    **{
        f"expect_column_{figure}_to_be_between": Whole(BOUNDS)
        for figure in ("unique_value_count", "proportion_of_unique_values", "proportion_of_non_null_values")
    },
    "expect_column_distinct_values_to_contain_set": Whole(("value_set",)),
    "expect_column_most_common_value_to_be_in_set": Whole(("value_set",)),
    "expect_column_kl_divergence_to_be_less_than": Whole(("partition_object", "threshold")),
}
