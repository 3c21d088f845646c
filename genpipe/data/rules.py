"""A rule about one column of the validation table, from which both the expectation and the row mask are built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    name: str
    expectation: str  # the snake-case name of a Great Expectations column map expectation
    column: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""  # what the quarantine says of a row that breaks it
