"""Reading metrics.json: its scores, apart from the card and the figures by class."""

from collections.abc import Mapping
from typing import Any

from genpipe.errors import DataError, refuse_newer
from genpipe.metrics import SCORES

FORMAT = 2  # of metrics.json; raised when a reader of the last one would read it wrongly
PARTS = ("value", "low", "high", "floor", "baseline")  # of a score


def logged_name(score: str, part: str) -> str:
    """How a part of a score is called in MLflow, whose pages fold up what stands before the stroke."""
    return score if part == "value" else f"{part}/{score}"


def scored(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Score → its parts, in the order of the file. Raises DataError for a file of another format."""
    found = metrics.get("format", 1)
    refuse_newer("metrics.json", found, FORMAT)
    if found != FORMAT:
        raise DataError(
            f"metrics.json is of format {found}, and this version of genpipe reads format {FORMAT}; "
            "`genpipe run` or `dvc repro evaluate` writes it anew"
        )
    return {name: {part: float(entry[part]) for part in PARTS} for name, entry in metrics.items() if name in SCORES}
