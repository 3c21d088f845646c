"""Reading metrics.json: its scores, apart from the card and the figures by class."""

from collections.abc import Mapping
from typing import Any

from genpipe.errors import DataError, refuse_newer
from genpipe.metrics import SCORES

FORMAT = 2  # of metrics.json; raised when a reader of the last one would read it wrongly
PARTS = ("value", "low", "high", "floor", "baseline")  # of a score
HEADINGS = ("score", "value", "interval", "real data", "baseline")  # of a table for people


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


def lines(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Each score as people read it, under HEADINGS."""
    found = list[tuple[str, ...]]()
    for name, score in scored(metrics).items():
        value, low, high, floor, baseline = (f"{part:.3f}" for part in score.values())
        found.append((SCORES[name].title, value, f"{low} to {high}", floor, baseline))
    return found
