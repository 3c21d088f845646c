"""Rules about one column of the validation table.

From each rule both a Great Expectations expectation and a row mask are built, so that the rows set aside are those
that the expectation counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Rule:
    """`expectation` is the snake-case name of a column map expectation among MASKS; `reason` goes to the quarantine."""

    expectation: str
    column: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def broken(self, table: pd.DataFrame) -> pd.Series:
        """Which rows break the rule; as in Great Expectations a missing value breaks none but a rule about missing."""
        return MASKS[self.expectation](table[self.column], **self.options)


def present(values: pd.Series) -> pd.Series:
    return values.notna()


def absent(values: pd.Series) -> pd.Series:
    return values.isna()


def outside(values: pd.Series, min_value: float | None = None, max_value: float | None = None) -> pd.Series:
    low, high = (-float("inf") if min_value is None else min_value), (float("inf") if max_value is None else max_value)
    return values.notna() & ~values.between(low, high)


def foreign(values: pd.Series, value_set: list[Any]) -> pd.Series:
    return values.notna() & ~values.isin(value_set)


MASKS: Mapping[str, Callable[..., pd.Series]] = {
    "expect_column_values_to_be_null": present,
    "expect_column_values_to_not_be_null": absent,
    "expect_column_values_to_be_between": outside,
    "expect_column_values_to_be_in_set": foreign,
}
