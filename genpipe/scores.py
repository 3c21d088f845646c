"""Reading metrics.json: its scores, apart from the card and the figures by class."""

from collections.abc import Mapping
from typing import Any

PARTS = ("value", "low", "high", "floor", "baseline")  # of a score


def scored(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Score → its parts, in the order of the file."""
    found = {name: entry for name, entry in metrics.items() if isinstance(entry, Mapping) and "value" in entry}
    return {name: {part: float(entry[part]) for part in PARTS} for name, entry in found.items()}
